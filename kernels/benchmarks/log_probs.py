"""Processor time and memory of the log-probabilities that RL needs: ours, TRL's, full logits.

    python kernels/benchmarks/log_probs.py                        # rows for log_probs.csv
    python kernels/benchmarks/log_probs.py --sizes 64x32x1024 --pairs 2 --out ""    # a try

A call computes log-probabilities of N tokens and the entropies of their distributions, and then a
backward with another factor for each token, as a policy gradient has. TRL's head is the function
that GRPOTrainer uses. It is given only the tokens that count, although it also scores the prompt on
a CPU. All run on the CPU in one thread and in float32. They take turns, and the order of the turns
is reversed in every other round. A ratio is formed within a round, and the median of the ratios has
a 95% interval. Processor time is used because it depends less on what else the machine does.

Memory is how much the maximum of the resident set grows in a process of its own.

Before anything is timed, log-probabilities and gradients are compared with full logits in float64.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from measure import Inputs, Size, interval, make_inputs, peak_on_cpu, run
from peers import Loss
from shaped_kernels import linear_log_probs
from table import append_rows, package_version, provenance
from torch import Tensor

OUT = Path(__file__).with_suffix(".csv")
# Heads of SmolLM2-135M and, at half its hidden dimension, of Qwen3-0.6B.
SIZES = ["256x576x49152", "256x512x151936"]
BASE = "TRL's head"
MOST_ERROR = 1e-4  # of a gradient, relative; float32 gives about 1e-6
_TRL_VOCABULARY_CHUNK = 32_768  # as in GRPOTrainer
COLUMNS = [
    *("size", "variant", "cpu_ms", "pairs", "base", "ratio", "ratio_low", "ratio_high", "peak_mb"),
    *("date", "commit", "device", "torch", "trl", "command"),
]


def policy_gradient(log_probs: Tensor) -> Tensor:
    """A scalar in which every log-probability has another factor, of either sign."""
    factors = torch.linspace(-1, 1, len(log_probs), dtype=log_probs.dtype)
    return (log_probs * factors).sum()


def ours(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    return policy_gradient(linear_log_probs(hidden, weight, ids).log_probs)


def trl_head(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    from trl.kernels import ChunkedLogProbFunction

    outputs = ("log_probs", "entropy")
    arguments = (hidden, weight, None, ids, 1.0, _TRL_VOCABULARY_CHUNK, None, 1.0, outputs)
    return policy_gradient(ChunkedLogProbFunction.apply(*arguments)[0])


def full_logits(hidden: Tensor, weight: Tensor, ids: Tensor) -> Tensor:
    log_p = (hidden @ weight.T).log_softmax(-1)
    with torch.no_grad():  # the entropies
        -(log_p.exp() * log_p).sum(-1)
    return policy_gradient(log_p.gather(-1, ids[:, None]).squeeze(-1))


VARIANTS: dict[str, Loss] = {
    "linear_log_probs": ours,
    BASE: trl_head,
    "full logits": full_logits,
}


def check(size: Size) -> None:
    """Compare value and gradients with float64, on 16 tokens.

    Raises:
        SystemExit: a variant is wrong, so that its time would mean nothing.
    """
    inputs = make_inputs(size._replace(N=16), "cpu", torch.float32)
    hidden, weight, ids = inputs
    exact = (hidden.detach().double(), weight.detach().double(), ids)
    exact[0].requires_grad_(), exact[1].requires_grad_()
    truths = run(full_logits, exact)
    for name, loss in VARIANTS.items():
        for got, truth in zip(run(loss, inputs), truths, strict=True):
            error = ((got.double() - truth).norm() / truth.norm()).item()
            if not error <= MOST_ERROR:
                raise SystemExit(f"{name} at {size}: an error of {error:.1e}; nothing is timed")


def cpu_seconds(inputs: Inputs, pairs: int) -> dict[str, list[float]]:
    """Processor seconds of each variant in each round; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for index in range(pairs + 1):
        for name in list(VARIANTS)[:: 1 if index % 2 == 0 else -1]:
            start = time.process_time()
            run(VARIANTS[name], inputs)
            if index:
                seconds[name].append(time.process_time() - start)
    return seconds


def peak_apart(name: str, size: Size) -> float:
    """Extra MiB of a variant in a process of its own."""
    command = [sys.executable, __file__, "--alone", str(size), name]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measure(size: Size, pairs: int) -> list[dict[str, str]]:
    """A row for each variant, without provenance."""
    check(size)
    seconds = cpu_seconds(make_inputs(size, "cpu", torch.float32), pairs)
    rows = []
    for name, mine in seconds.items():
        ratio = interval([a / b for a, b in zip(mine, seconds[BASE], strict=True)])
        row = {
            "size": str(size),
            "variant": name,
            "cpu_ms": f"{1000 * statistics.median(mine):.0f}",
            "pairs": str(pairs),
            "base": BASE,
            "ratio": f"{ratio.median:.3f}",
            "ratio_low": f"{ratio.low:.3f}",
            "ratio_high": f"{ratio.high:.3f}",
            "peak_mb": f"{peak_apart(name, size):.0f}",
        }
        print(row, flush=True)
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", metavar="NxDxV", default=SIZES)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--out", default=str(OUT), help="csv to append to; empty for none")
    parser.add_argument("--alone", nargs=2, metavar=("SIZE", "VARIANT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    torch.set_num_threads(1)
    if chosen.alone:
        size, name = chosen.alone
        inputs = make_inputs(Size.parse(size), "cpu", torch.float32)
        print(peak_on_cpu(VARIANTS[name], inputs))
        return
    try:
        sizes = [Size.parse(text) for text in chosen.sizes]
    except ValueError as error:
        parser.error(f"--sizes: {error}")
    arguments = shlex.join(sys.argv[1:] if argv is None else argv)
    command = f"python kernels/benchmarks/log_probs.py {arguments}".strip()
    origin = provenance("cpu", None, command) | {"trl": package_version("trl")}
    for size in sizes:
        rows = measure(size, chosen.pairs)
        if chosen.out:
            append_rows(Path(chosen.out), [row | origin for row in rows], COLUMNS)


if __name__ == "__main__":
    main()
