"""RLVR runs small enough for a test, in this process or as one of several."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tiny import WORDS, tiny_model, tiny_tokenizer
from trl import GRPOTrainer

from shaped_trl.rlvr import RLVRConfig, RLVRTrainer
from shaped_trl.training.resuming import continue_training

G = 4
# what a prompt comes to, whatever is said: half right, all right, all wrong
KINDS = ("mixed", "wrong", "right", "wrong", "mixed", "right", "wrong", "wrong")


def scripted_prompts(kinds=KINDS * 3) -> Dataset:
    """Different prompts, each with its `kind`."""
    pairs = [f"{a} {b}" for a in WORDS[:12] for b in WORDS[:12]]
    return Dataset.from_list(
        [{"prompt": prompt, "kind": kind} for prompt, kind in zip(pairs, kinds, strict=False)]
    )


def scripted(prompts, completions, kind, log_extra, **kwargs) -> list[float]:
    """By kind alone; of a mixed group every other completion is right."""
    log_extra(
        "seen",
        [
            f"{prompt} | {completion}"
            for prompt, completion in zip(prompts, completions, strict=True)
        ],
    )
    return [float(k == "right" or (k == "mixed" and i % 2 == 0)) for i, k in enumerate(kind)]


def even_length(completions, **kwargs) -> list[float]:
    """Right when the number of words is even: about half of what a random model says."""
    return [float(len(completion.split()) % 2 == 0) for completion in completions]


def rlvr_arguments(folder: Any, **changes: Any) -> RLVRConfig:
    """On the CPU, two groups of four a process and step."""
    settings = {
        "per_device_train_batch_size": 8,
        "num_generations": G,
        "max_completion_length": 6,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "learning_rate": 1e-2,
    }
    return RLVRConfig(str(folder), **settings | changes)


def rlvr_trainer(
    args: RLVRConfig, reward: Any, dataset: Dataset, trainer_class=RLVRTrainer, **options: Any
):
    """A trainer of the tiny model."""
    return trainer_class(
        tiny_model(),
        reward,
        args,
        train_dataset=dataset,
        processing_class=tiny_tokenizer(),
        **options,
    )


def trained_parameters(
    folder: str, trainer_class: str, loss_type: str, lora: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The parameters before and after 20 steps without dynamic sampling, clipping at work."""
    args = rlvr_arguments(
        f"{folder}/{trainer_class}-{loss_type}-{lora}",
        dynamic_sampling=False,
        loss_type=loss_type,
        max_steps=20,
        steps_per_generation=2,
        logging_steps=20,
        max_completion_length=3,
    )
    chosen = {"GRPOTrainer": GRPOTrainer, "RLVRTrainer": RLVRTrainer}[trainer_class]
    options = {"peft_config": LoraConfig(r=2, target_modules="all-linear")} if lora else {}
    one = rlvr_trainer(args, even_length, scripted_prompts(), chosen, **options)
    before = [parameter.detach().clone() for parameter in one.model.parameters()]
    one.train()
    return before, [parameter.detach().clone() for parameter in one.model.parameters()]


def parity(folder: str, cases: list[tuple[str, bool]]) -> list[tuple[float, bool]]:
    """Of each loss type, with LoRA or without: how far apart the trainers end, and whether anything
    moved."""
    found = []
    for loss_type, lora in cases:
        before, theirs = trained_parameters(folder, "GRPOTrainer", loss_type, lora)
        _, ours = trained_parameters(folder, "RLVRTrainer", loss_type, lora)
        apart = max(float((a - b).abs().max()) for a, b in zip(theirs, ours, strict=True))
        moved = any(not torch.equal(a, b) for a, b in zip(theirs, before, strict=True))
        found.append((apart, moved))
    return found


class Recorder:
    """The reward `even_length` on every other prompt, 0 on the others; writes down which prompts it
    saw, and when.

    Args:
        path: JSON lines of the step and the prompts of each call.
        kill_at: the call in which the process ends as by SIGKILL.
    """

    def __init__(self, path: Path, kill_at: int | None):
        self.path, self.kill_at, self.calls = path, kill_at, 0
        self.__name__ = "accuracy"

    def __call__(self, prompts, completions, trainer_state, **kwargs) -> list[float]:
        self.calls += 1
        with self.path.open("a") as file:
            file.write(json.dumps([trainer_state.global_step, list(dict.fromkeys(prompts))]) + "\n")
        if self.calls == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        hard = {word for i, word in enumerate(WORDS) if i % 2}
        right = even_length(completions)
        return [
            r * (prompt.split()[1] not in hard) for r, prompt in zip(right, prompts, strict=True)
        ]


def recorded_run(folder: str, options: dict[str, Any], kill_at: int | None = None) -> None:
    """Train, from the last checkpoint where there is one; the calls of the reward go to
    `calls.jsonl`."""
    torch.set_num_threads(1)
    args = rlvr_arguments(folder, **options)
    Path(folder).mkdir(parents=True, exist_ok=True)
    one = rlvr_trainer(args, Recorder(Path(folder) / "calls.jsonl", kill_at), scripted_prompts())
    continue_training(one)
    one.save_model()


def batches(folder: str, kinds: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """What reaches the loss in each generation batch of a scripted run, and what is logged of
    it."""
    args = rlvr_arguments(folder, **options)
    one = rlvr_trainer(args, [scripted, short], scripted_prompts(kinds))
    tokenizer, seen = tiny_tokenizer(), []
    original = one._generate_and_score_completions

    def spy(inputs):
        output = original(inputs)
        logps = one._logps(output)
        seen.append(
            {
                "prompt": tokenizer.batch_decode(output["prompt_ids"], skip_special_tokens=True),
                "completion": tokenizer.batch_decode(
                    output["completion_ids"], skip_special_tokens=True
                ),
                "kind": [row["kind"] for row in inputs],
                "advantage": output["advantages"].tolist(),
                "row_tokens": output["completion_mask"].sum(1).tolist(),
                "items": int(output["num_items_in_batch"]),
                "tokens": int(output["completion_mask"].sum()),
                "apart": _apart(output, logps),
                "table": {
                    "prompt": list(one._logs["prompt"]),
                    "completion": list(one._logs["completion"]),
                    "scripted": list(one._logs["rewards"]["scripted"]),
                    "short": list(one._logs["rewards"]["short"]),
                    "advantage": list(one._logs["advantages"]),
                    "seen": list(one._logs["extra"]["seen"]),
                },
            }
        )
        return output

    one._generate_and_score_completions = spy
    one.train()
    return {
        "batches": seen,
        "stream": one.sampler.stream.state_dict(),
        "rank": int(os.environ.get("RANK", 0)),
    }


def short(completions, **kwargs) -> list[float]:
    """A second reward that depends on the text: minus its number of words."""
    return [-float(len(completion.split())) for completion in completions]


def _apart(output: dict[str, Any], logps: torch.Tensor) -> list[float] | None:
    """Largest difference in each row between the old log-probabilities and those of the present
    policy."""
    if "old_per_token_logps" not in output:
        return None
    difference = (output["old_per_token_logps"] - logps).abs() * output["completion_mask"]
    return difference.amax(1).tolist()
