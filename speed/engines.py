"""Tokens per processor second of vLLM and of transformers' static batches, for evaluation.

    python -m speed.engines MODEL --benchmark gsm8k --limit 2 --n 16 --hub_mirror DIR

Both backends run in this process, with one thread, and sample the same problems in turns, with a
seed of its own for each pair. The time is the processor time of the process, so that other work on
the machine counts little. The result is the median of the pairs' ratios with its 95% interval from
order statistics, as a row of engines.csv. It needs an environment with vLLM: on a CPU, that of
`make test-vllm`, with the variables that the Makefile sets.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shaped_eval.backends import Backend, load_backend
from shaped_eval.config import SampleConfig
from shaped_eval.provenance import package_versions
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.sample import sample

from speed.training import append_row, median_ratio, origin

RESULTS = Path(__file__).with_suffix(".csv")
OURS, THEIRS = "vllm", "transformers"


def config_of(args: argparse.Namespace, backend: str, out: str, seed: int) -> SampleConfig:
    return SampleConfig(
        model=args.model,
        benchmarks=args.benchmark,
        limit=args.limit,
        n=args.n,
        temperature=args.temperature,
        max_new_tokens=args.max_new_tokens,
        hub_mirror=args.hub_mirror or None,
        dtype="float32",
        backend=backend,
        out=out,
        seed=seed,
    )


def tokens_per_second(args: argparse.Namespace, name: str, backend: Backend, seed: int) -> float:
    """Generated tokens per second of processor time of one evaluation."""
    with tempfile.TemporaryDirectory() as out:
        began = time.process_time()
        folder = sample(config_of(args, name, out, seed), progress=False, backend=backend)
        seconds = time.process_time() - began
        tokens = sum(row.tokens for row in read_jsonl(folder / "samples.jsonl", Sample))
    return tokens / seconds


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the row of results."""
    backends = {name: load_backend(config_of(args, name, "unused", 0)) for name in (THEIRS, OURS)}
    found: dict[str, list[float]] = {name: [] for name in backends}
    for pair in range(args.pairs + 1):
        for name in sorted(backends, reverse=bool(pair % 2)):
            speed = tokens_per_second(args, name, backends[name], seed=pair)
            if pair:  # the first one warms up
                found[name].append(speed)
    ratio, low, high = median_ratio(found[OURS], found[THEIRS])
    return {
        "model": Path(args.model).name,
        "benchmark": f"{args.benchmark}:{args.limit}",
        "n": args.n,
        "max_new_tokens": args.max_new_tokens,
        "pairs": args.pairs,
        "vllm_tokens_per_second": f"{np.median(found[OURS]):.1f}",
        "static_tokens_per_second": f"{np.median(found[THEIRS]):.1f}",
        "ratio": f"{ratio:.3f}",
        "ratio_low": f"{low:.3f}",
        "ratio_high": f"{high:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--limit", type=int, default=2, help="number of problems [2]")
    parser.add_argument("--hub_mirror", default="")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process
    command = f"python -m speed.engines MODEL --benchmark {args.benchmark} --limit {args.limit}"
    command += f" --n {args.n} --max_new_tokens {args.max_new_tokens} --pairs {args.pairs}"
    row = measure(args) | origin(command) | {"vllm": package_versions("vllm")["vllm"] or ""}
    print(row)
    append_row(str(RESULTS), row)


if __name__ == "__main__":
    main()
