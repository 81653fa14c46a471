"""Time and memory of the chunked loss on a CPU, against full logits and the chunked losses of torch and TRL.

    OMP_NUM_THREADS=2 python kernels/benchmarks/cpu_chunked.py --pairs 10

Forward and backward to hidden states and head weight, fp32, D=512, V=151,936. Correctness comes first: the run
stops if our error against float64 is more than 3 times that of full-logits autograd; that of the others is noted.
Times are interleaved (every round runs every variant once) and compared within a round. Extra peak memory is the
growth of the resident-set maximum in a process of its own. One row per variant is appended to results.csv.

The shaped reference and the slow peers run with fewer tokens: with 4,096 the one would need about 20 GB, and the
others minutes a round.

Dimensions: N tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import math
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from shaped_kernels import RewardShape, shaped_linear_loss
from torch import Tensor
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

D, V = 512, 151_936
CORRECTNESS_N = 64
CROSS_ENTROPY = RewardShape()
FULL_SHAPE = RewardShape(beta=-0.25, lambda_head=0.1, lambda_tail=-0.1, top_k=100)
RESULTS = Path(__file__).with_name("results.csv")
TRL_VOCABULARY_CHUNK = 32_768  # what TRL's trainers pass


class Variant(NamedTuple):
    """A summed loss of (hidden [N, D], weight [V, D], targets [N]), and the shape that it computes."""

    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    shape: RewardShape


def ours(shape: RewardShape, impl: str = "chunked") -> Variant:
    return Variant(lambda *inputs: shaped_linear_loss(*inputs, shape, impl=impl).loss, shape)


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")


def torch_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)


def trl_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    arguments = (hidden, weight, None, targets, 1.0, TRL_VOCABULARY_CHUNK, None, 1.0, ())
    return -ChunkedLogProbFunction.apply(*arguments)[0].sum()


class Group(NamedTuple):
    """Variants timed side by side on N tokens; every time is compared with that of the first."""

    N: int
    variants: dict[str, Variant]


GROUPS = {
    "cross-entropy": Group(
        4096,
        {
            "shaped_kernels chunked, cross-entropy": ours(CROSS_ENTROPY),
            "shaped_kernels chunked, full shape": ours(FULL_SHAPE),
            "full-logits autograd, cross-entropy": Variant(full_logits, CROSS_ENTROPY),
        },
    ),
    "full-shape": Group(
        1024,
        {
            "shaped_kernels chunked, full shape": ours(FULL_SHAPE),
            "full-logits autograd, full shape": ours(FULL_SHAPE, "reference"),
        },
    ),
    "peers": Group(
        512,
        {
            "shaped_kernels chunked, cross-entropy": ours(CROSS_ENTROPY),
            "torch linear_cross_entropy": Variant(torch_chunked, CROSS_ENTROPY),
            "TRL ChunkedLogProbFunction": Variant(trl_chunked, CROSS_ENTROPY),
        },
    ),
}
PEERS = {CROSS_ENTROPY: Variant(full_logits, CROSS_ENTROPY), FULL_SHAPE: ours(FULL_SHAPE, "reference")}


def make_inputs(N: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head weight and targets whose logits have a standard deviation of about 2."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, D, generator=generator).to(dtype)
    weight = torch.randn(V, D, generator=generator).mul_(2 / math.sqrt(D)).to(dtype)
    targets = torch.randint(V, (N,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def run_once(variant: Variant, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, list[Tensor]]:
    """Seconds of a forward and backward, and loss and gradients."""
    start = time.perf_counter()
    value = variant.loss(*inputs)
    value.backward()
    seconds = time.perf_counter() - start
    gradients = [tensor.grad for tensor in inputs[:2] if tensor.grad is not None]
    for tensor in inputs[:2]:
        tensor.grad = None
    return seconds, [value.detach(), *gradients]


def error_ratio(variant: Variant) -> float:
    """Error against float64 over that of full-logits autograd: the largest of loss and gradients."""
    _, truth = run_once(ours(variant.shape, "reference"), make_inputs(CORRECTNESS_N, torch.float64))

    def errors(candidate: Variant) -> list[float]:
        _, got = run_once(candidate, make_inputs(CORRECTNESS_N))
        return [((a - b).norm() / b.norm()).item() for a, b in zip(got, truth, strict=True)]

    # One rounding of the result is the least that the peer's error is taken for: it may be 0 by luck.
    peer_errors = [max(error, torch.finfo(torch.float32).eps) for error in errors(PEERS[variant.shape])]
    return max(a / b for a, b in zip(errors(variant), peer_errors, strict=True))


def time_rounds(group: Group, pairs: int) -> dict[str, list[float]]:
    """Seconds per variant and round; the order turns around every other round."""
    inputs = make_inputs(group.N)
    seconds: dict[str, list[float]] = {name: [] for name in group.variants}
    for index in range(pairs):
        for name in list(seconds)[:: 1 if index % 2 == 0 else -1]:
            seconds[name].append(run_once(group.variants[name], inputs)[0])
        print(f"N={group.N} {index + 1}/{pairs}:", *(f"{values[-1]:.2f} s" for values in seconds.values()), flush=True)
    return seconds


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median and the narrowest 95% interval that two order statistics give; below 6 values the range."""
    ordered, count = sorted(values), len(values)
    rank = 0  # each end may leave out `rank` values
    while sum(math.comb(count, i) for i in range(rank + 2)) / 2**count <= 0.025:
        rank += 1
    return statistics.median(ordered), ordered[rank], ordered[-1 - rank]


def max_rss_mb() -> float:
    """Largest resident set of this process so far. Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(group: str, name: str) -> float:
    """MiB that one forward and backward adds to the resident-set maximum, in a fresh process."""
    command = [sys.executable, __file__, "--memory_of", group, name]
    extra_mb = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    print(f"N={GROUPS[group].N} {name}: {extra_mb:.0f} MiB", flush=True)
    return extra_mb


def print_memory(group: str, name: str) -> None:
    """The child's half of `measure_memory`: one line, the extra MiB."""
    variant, inputs = GROUPS[group].variants[name], make_inputs(GROUPS[group].N)
    tiny = (torch.randn(4, 8, requires_grad=True), torch.randn(16, 8, requires_grad=True), torch.arange(4))
    run_once(variant, tiny)  # loads what is loaded lazily
    before = max_rss_mb()
    run_once(variant, inputs)
    print(max_rss_mb() - before)


def provenance() -> dict[str, str]:
    """Where and with what the numbers were made."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git.stdout.strip() if git.returncode == 0 else "uncommitted",
        "device": f"CPU {models[0] if models else platform.processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "command": " ".join(["python kernels/benchmarks/cpu_chunked.py", *sys.argv[1:]]),
    }


def make_rows(group: Group, pairs: int, extra_mb: dict[str, float]) -> list[dict[str, str]]:
    """One row per variant of the group.

    Raises:
        SystemExit: ours is wrong, so that its time would mean nothing.
    """
    ratios = {name: error_ratio(variant) for name, variant in group.variants.items()}
    for name, ratio in ratios.items():
        if ratio > 3 and name.startswith("shaped_kernels"):
            raise SystemExit(f"{name} errs {ratio:.1f} times as much as full-logits autograd; not timed")
    seconds = time_rounds(group, pairs)
    first = next(iter(seconds.values()))
    rows = []
    for name, values in seconds.items():
        ratio, low, high = median_interval([a / b for a, b in zip(values, first, strict=True)])
        measured = {
            "size": f"N={group.N} D={D} V={V} float32",
            "variant": name,
            "pairs": str(pairs),
            "median_s": f"{statistics.median(values):.2f}",
            "time_ratio": f"{ratio:.3f}",
            "time_ratio_low": f"{low:.3f}",
            "time_ratio_high": f"{high:.3f}",
            "extra_peak_mb": f"{extra_mb[name]:.0f}",
            "error_ratio": f"{ratios[name]:.2f}",
        }
        rows.append(measured | provenance())
    return rows


def report(rows: list[dict[str, str]]) -> None:
    """Print the table of a group and append it to results.csv, with a header if the file is new."""
    print(f"\n{rows[0]['size']:40}{'median s':>9}  {'time / first [95%]':22}{'extra MiB':>10}")
    for row in rows:
        interval = f"{row['time_ratio']} [{row['time_ratio_low']}, {row['time_ratio_high']}]"
        print(f"{row['variant']:40}{row['median_s']:>9}  {interval:22}{row['extra_peak_mb']:>10}", flush=True)
    is_new = not RESULTS.exists()
    with open(RESULTS, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="rounds; each runs every variant once (default 10)")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS), help="default: all")
    parser.add_argument("--memory_of", nargs=2, metavar=("GROUP", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_memory(*arguments.memory_of)
        return
    # Before this process grows: a child's resident-set maximum starts at its parent's size.
    extra_mb = {name: {v: measure_memory(name, v) for v in GROUPS[name].variants} for name in arguments.groups}
    for name in arguments.groups:
        report(make_rows(GROUPS[name], arguments.pairs, extra_mb[name]))


if __name__ == "__main__":
    main()
