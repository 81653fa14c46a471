"""The same answers from every backend: greedy texts, and pass@1 of samples.

    python -m speed.engine_answers MODEL --benchmarks gsm8k:8 math500:8 humaneval:8 \\
        --hub_mirror DIR --out DIR

It runs `shaped-trl eval` with the backends transformers, vllm and openai (a server of vLLM's that
it starts on this machine), in float32, once greedily and once with samples. A row of
engine_answers.csv says how many greedy completions equal those of transformers (text and reason of
the end), and how far pass@1 is from it, in standard errors of the sampling noise.
A run that is there already is not made again. It needs an environment with vLLM: on a CPU, that of
`make test-vllm`, with the variables that the Makefile sets.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from shaped_eval.provenance import package_versions
from shaped_eval.records import Sample, Verdict, read_jsonl

from speed.servers import serving
from speed.training import append_row, origin

RESULTS = Path(__file__).with_suffix(".csv")
PORT = 8742
BACKENDS = ("transformers", "vllm", "openai")


def server_command(model: str, port: int) -> list[str]:
    """vLLM's OpenAI-compatible server on this machine."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    return [*command, "--generation-config", "vllm", "--no-enable-chunked-prefill"]


def evaluate(args: argparse.Namespace, backend: str, benchmark: str, base_url: str | None) -> None:
    """Run both evaluations of a benchmark, unless they have ended."""
    name, limit = benchmark.split(":")
    options = {
        "model": args.model,
        "benchmarks": name,
        "limit": limit,
        "hub_mirror": args.hub_mirror,
        "backend": backend,
        "max_new_tokens": args.max_new_tokens,
        "dtype": "float32",
    }
    if base_url:
        options |= {"base_url": base_url}
    kinds: dict[str, dict[str, Any]] = {
        "greedy": {"n": 1, "temperature": 0},
        "sampled": {"n": args.n, "temperature": args.temperature},
    }
    for kind, more in kinds.items():
        out = folder(args, benchmark, backend, kind)
        if (out / "results.json").exists():
            continue
        given = options | more | {"out": out}
        words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        subprocess.run([sys.executable, "-m", "shaped_trl.cli", "eval", *words], check=True)


def folder(args: argparse.Namespace, benchmark: str, backend: str, kind: str) -> Path:
    return Path(args.out) / f"{benchmark.split(':')[0]}-{backend}-{kind}"


def samples(run: Path) -> dict[tuple, tuple]:
    """What each sample says: its text, and the reason of its end."""
    return {
        (row.problem_id, row.sample_index): (row.completion, row.finish_reason)
        for row in read_jsonl(run / "samples.jsonl", Sample)
    }


def pass_rates(run: Path) -> list[tuple[float, int]]:
    """Share of right samples and number of samples, for each problem."""
    right: dict[str, list[bool]] = defaultdict(list)
    for row in read_jsonl(run / "verdicts.jsonl", Verdict):
        right[row.problem_id].append(row.status == "pass")
    return [(sum(each) / len(each), len(each)) for each in right.values()]


def mean_and_noise(rates: list[tuple[float, int]]) -> tuple[float, float]:
    """pass@1, and its standard error over samples of the same problems."""
    problems = len(rates)
    variance = sum(p * (1 - p) / (n - 1) for p, n in rates) / problems**2
    return sum(p for p, _ in rates) / problems, math.sqrt(variance)


def row_of(args: argparse.Namespace, benchmark: str, backend: str) -> dict[str, Any]:
    greedy = [samples(folder(args, benchmark, each, "greedy")) for each in (backend, BACKENDS[0])]
    equal = sum(greedy[0][key] == answer for key, answer in greedy[1].items())
    (own, own_se), (base, base_se) = (
        mean_and_noise(pass_rates(folder(args, benchmark, each, "sampled")))
        for each in (backend, BACKENDS[0])
    )
    noise = math.hypot(own_se, base_se)
    return {
        "model": Path(args.model).name,
        "benchmark": benchmark,
        "n": args.n,
        "temperature": args.temperature,
        "max_new_tokens": args.max_new_tokens,
        "backend": backend,
        "greedy_equal": f"{equal} of {len(greedy[1])}",
        "pass@1": f"{own:.4f}",
        "pass@1_transformers": f"{base:.4f}",
        "standard_error": f"{noise:.4f}",
        "difference_in_standard_errors": f"{(own - base) / noise:.2f}" if noise else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--benchmarks", nargs="+", required=True, help="name:number of problems")
    parser.add_argument("--hub_mirror", default="")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for benchmark in args.benchmarks:
        for backend in BACKENDS[:2]:
            evaluate(args, backend, benchmark, None)
    address = f"http://127.0.0.1:{PORT}"
    with serving(server_command(args.model, PORT), address, Path(args.out) / "server.log"):
        for benchmark in args.benchmarks:
            evaluate(args, "openai", benchmark, f"{address}/v1")
    command = f"python -m speed.engine_answers MODEL --benchmarks {' '.join(args.benchmarks)}"
    about = origin(f"{command} --n {args.n} --max_new_tokens {args.max_new_tokens}")
    about["vllm"] = package_versions("vllm")["vllm"] or ""
    for benchmark in args.benchmarks:
        for backend in BACKENDS[1:]:
            row = row_of(args, benchmark, backend) | about
            print(row)
            append_row(str(RESULTS), row)


if __name__ == "__main__":
    main()
