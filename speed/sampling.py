"""Speed of `shaped-trl sample` with transformers against one call of transformers' `generate`.

    python -m speed.sampling MODEL --hub_mirror DIR       # rows to speed/sampling.csv, 7 minutes

Both answer the first problems of GSM8K in the model's chat template. `generate` gets all of them
at once, padded on the left, as lm-eval does; the backend chooses its batches itself. They run in
turns in one process with one thread. The speed is that of processor time, in tokens that belong to
a completion, so that other load on the machine hardly matters. The result is the median of the
pairs' ratios with its 95% interval from order statistics.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shaped_eval.backends import TransformersBackend
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.config import SampleConfig
from shaped_eval.sampling.chunks import plan_chunks
from transformers.utils import logging as transformers_logging

from speed.training import append_row, median_ratio, origin

# n -> problems and tokens of a completion, so that a pair takes under a minute
CASES = {1: (20, 24), 4: (8, 16), 128: (1, 8)}
RESULTS = Path(__file__).with_suffix(".csv")


def with_generate(backend: TransformersBackend, prompts: list[str], n: int) -> int:
    """Complete all prompts n times in one batch of `generate`; return the tokens."""
    config, tokenizer = backend._config, backend.tokenizer
    encoded = [backend._prompts.encode(prompt) for prompt in prompts for _ in range(n)]
    batch = tokenizer.pad({"input_ids": encoded}, padding_side="left", return_tensors="pt")
    drawn = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p}
    output = backend.model.generate(
        **batch,
        max_new_tokens=config.max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **(drawn | {"top_k": 0} if config.temperature > 0 else {"do_sample": False}),
    )
    ended = output[:, batch["input_ids"].shape[1] :] == tokenizer.eos_token_id
    return int((ended.cumsum(-1) - ended.int() == 0).sum())


def with_backend(backend: TransformersBackend, problems: list[Any], n: int) -> int:
    """The same with the backend, in the batches that it plans."""
    lengths = {one.problem_id: backend.prompt_tokens(one.prompt) for one in problems}
    room = backend._config.max_new_tokens
    chunks = plan_chunks(problems, n, backend.batch_limits(), lengths, room)
    done = backend.complete([chunk.request(0) for chunk in chunks])
    return sum(completion.tokens for _, completions in done for completion in completions)


def tokens_per_second(work: Callable[..., int], *arguments: Any) -> float:
    began = time.process_time()
    return work(*arguments) / (time.process_time() - began)


def measure(model: str, mirror: str, n: int, temperature: float, pairs: int) -> dict[str, Any]:
    """Measure one case, and return its row."""
    count, tokens = CASES[n]
    config = SampleConfig(
        model=model,
        benchmarks="gsm8k",
        hub_mirror=mirror,
        chat_template=True,
        n=n,
        temperature=temperature,
        max_new_tokens=tokens,
    )
    backend = TransformersBackend(config)
    backend.prepare()
    problems = load_problems(["gsm8k"], hub_mirror=mirror, limit=count, chat=True)
    prompts = [problem.prompt for problem in problems]
    ours, theirs = [], []
    for pair in range(pairs + 1):
        first = tokens_per_second(with_backend, backend, problems, n)
        second = tokens_per_second(with_generate, backend, prompts, n)
        if pair:  # the first one warms up
            ours.append(first)
            theirs.append(second)
    ratio, low, high = median_ratio(ours, theirs)
    return {
        "model": Path(model).name,
        "dtype": backend.dtype,
        "problems": count,
        "n": n,
        "temperature": temperature,
        "max_new_tokens": tokens,
        "pairs": pairs,
        "ours_tokens_per_cpu_s": f"{np.median(ours):.1f}",
        "generate_tokens_per_cpu_s": f"{np.median(theirs):.1f}",
        "ratio": f"{ratio:.3f}",
        "ratio_low": f"{low:.3f}",
        "ratio_high": f"{high:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder or id of a model with a chat template")
    parser.add_argument("--hub_mirror", required=True, help="folder with the rows of GSM8K")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument(
        "--out", default=str(RESULTS), help=f"csv to append to, or an empty word [{RESULTS.name}]"
    )
    chosen = parser.parse_args()
    if chosen.pairs < 1:
        parser.error(f"--pairs {chosen.pairs}: at least 1")
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    for n, temperature in ((1, 0.0), *((n, 0.7) for n in CASES)):
        row = measure(chosen.model, chosen.hub_mirror, n, temperature, chosen.pairs)
        row |= origin(f"python -m speed.sampling MODEL --pairs {chosen.pairs}")
        print(
            "n={n}, temperature {temperature}: {ours_tokens_per_cpu_s} against "
            "{generate_tokens_per_cpu_s} tokens a second of processor time; ratio {ratio} "
            "[{ratio_low}, {ratio_high}]".format(**row),
            flush=True,
        )
        if chosen.out:
            append_row(chosen.out, row)


if __name__ == "__main__":
    main()
