"""Whether trainer and server have the same weights: log-probabilities of some prompts by both.

They are compared after each transfer of weights. Where they differ, the ratio of every token is
wrong and the run would train on another policy's completions without a sign of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import requests
import torch
from shaped_eval.errors import UserError
from trl.experimental.async_grpo.packing import TreeRow

NUM_PROMPTS = 4
LONGEST = 64  # tokens of each prompt that are compared
TIMEOUT_S = 300


class WeightsDiffer(UserError):
    """Trainer and server disagree about log-probabilities after a transfer of weights."""


def probe_ids(prompts: Sequence[Any], tokenizer: Any, template: dict[str, Any]) -> list[list[int]]:
    """Tokens of some prompts.

    Args:
        prompts: texts or chats.
        tokenizer: the run's.
        template: arguments of its chat template.
    """
    found = []
    for prompt in prompts:
        ids = (
            tokenizer(text=prompt)["input_ids"]
            if isinstance(prompt, str)
            else tokenizer.apply_chat_template(prompt, return_dict=False, **template)
        )
        if len(ids) > 1:
            found.append(list(ids[:LONGEST]))
    return found


def trainer_logps(model: Any, rows: list[list[int]], device: torch.device) -> list[float]:
    """Log-probability of each token of `rows` but the first, by the model in training, at
    temperature 1. All processes call it, since the model may be divided among them."""
    found: list[float] = []
    training = model.training
    model.eval()
    with torch.no_grad():
        for ids in rows:
            logits = model(**_packed(ids, device)).logits[0, :-1].float()
            targets = torch.tensor(ids[1:], device=device).unsqueeze(1)
            found += logits.log_softmax(-1).gather(1, targets).squeeze(1).tolist()
    model.train(training)
    return found


def _packed(ids: list[int], device: torch.device) -> dict[str, Any]:
    """One sample as TRL packs rows, since its attention takes nothing else."""
    sample = {
        "input_ids": np.array(ids),
        "completion_mask": np.zeros(len(ids), dtype=np.int64),
        "old_log_probs": np.zeros(len(ids)),
        "advantage": 0.0,
        "group_id": 0,
    }
    row = TreeRow()
    row.add(sample)
    packed = row.pack()
    longest_q, longest_k = packed["tree_max_seqlens"].tolist()
    tensors = {name: packed[name].unsqueeze(0) for name in ("input_ids", "position_ids")}
    for name in ("tree_kv_index", "tree_cu_seqlens_q", "tree_cu_seqlens_k"):
        tensors[name] = packed[name]
    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    return on_device | {
        "tree_max_seqlen_q": longest_q,
        "tree_max_seqlen_k": longest_k,
        "use_cache": False,
    }


def server_logps(address: str, model: str, rows: list[list[int]]) -> list[float]:
    """The same by the server.

    Raises:
        UserError: its reply has no such log-probabilities.
    """
    found: list[float] = []
    for ids in rows:
        request: Any = {"model": model, "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0}
        response = requests.post(f"{address}/v1/completions", json=request, timeout=TIMEOUT_S)
        try:
            listed = response.json()["choices"][0]["prompt_logprobs"][1:]
            pairs = zip(listed, map(str, ids[1:]), strict=True)
            found += [float(entries[token]["logprob"]) for entries, token in pairs]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"the vLLM server at {address} gives no log-probabilities of prompts "
                f"(status {response.status_code}): does it serve {model!r}?"
            ) from error
    return found


def difference(ours: Sequence[float], theirs: Sequence[float], bound: float) -> tuple[float, float]:
    """Mean and largest absolute difference.

    Raises:
        WeightsDiffer: the mean is above `bound`, or not a number.
    """
    apart = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    mean, largest = math.fsum(apart) / len(apart), max(apart)
    if not mean <= bound:
        raise WeightsDiffer(
            f"after a transfer of weights, log-probabilities of trainer and server differ by "
            f"{mean:.3g} on average and {largest:.3g} at most, more than "
            f"max_logprob_difference={bound:g}: the weights did not arrive, or the server computes "
            "in another type (--dtype)"
        )
    return mean, largest
