"""Time and memory of the chunked loss on a CPU, against full logits and the chunked losses of torch and TRL.

    python kernels/benchmarks/cpu_chunked.py --pairs 10

Forward and backward to hidden states and head weight, fp32, N=4096 tokens, D=512, V=151,936. Correctness comes
first: a variant whose error against float64 is more than 3 times that of full-logits autograd stops the run.
Times are interleaved (every round runs every variant once) and compared within a round. Extra peak memory is the
growth of the resident-set maximum in a process of its own. Appends one row per variant to results.csv.

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

import torch
import torch.nn.functional as F
from shaped_kernels import RewardShape, shaped_linear_loss
from torch import Tensor

N, D, V = 4096, 512, 151_936
CORRECTNESS_N = 192
FULL_SHAPE = RewardShape(beta=-0.25, lambda_head=0.1, lambda_tail=-0.1, top_k=100)
CROSS_ENTROPY = RewardShape()
RESULTS = Path(__file__).with_name("results.csv")
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")


def torch_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)


def trl_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    return -ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 32_768, None, 1.0, ())[0].sum()


def ours(shape: RewardShape, impl: str) -> Loss:
    return lambda hidden, weight, targets: shaped_linear_loss(hidden, weight, targets, shape, impl=impl).loss


# Two groups, each compared with its first entry; the last is the full-logits autograd that the group must beat.
GROUPS: dict[str, dict[str, Loss]] = {
    "cross_entropy": {
        "shaped_kernels chunked": ours(CROSS_ENTROPY, "chunked"),
        "torch linear_cross_entropy": torch_chunked,
        "TRL ChunkedLogProbFunction": trl_chunked,
        "full-logits autograd": full_logits,
    },
    "full_shape": {
        "shaped_kernels chunked": ours(FULL_SHAPE, "chunked"),
        "full-logits autograd (shaped reference)": ours(FULL_SHAPE, "reference"),
    },
}


def make_inputs(tokens: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head weight and targets whose logits have a standard deviation of about 2."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, D, generator=generator).to(dtype)
    weight = torch.randn(V, D, generator=generator).mul_(2 / math.sqrt(D)).to(dtype)
    targets = torch.randint(V, (tokens,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def run_once(loss: Loss, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, list[Tensor]]:
    """Seconds of a forward and backward, and loss and gradients."""
    start = time.perf_counter()
    value = loss(*inputs)
    value.backward()
    seconds = time.perf_counter() - start
    gradients = [tensor.grad for tensor in inputs[:2] if tensor.grad is not None]
    for tensor in inputs[:2]:
        tensor.grad = None
    return seconds, [value.detach(), *gradients]


def check_correctness(group: str) -> dict[str, float]:
    """Per variant the largest error ratio to full-logits autograd over loss and gradients, against float64.

    Raises:
        SystemExit: a ratio above 3.
    """
    shape = CROSS_ENTROPY if group == "cross_entropy" else FULL_SHAPE
    _, truth = run_once(ours(shape, "reference"), make_inputs(CORRECTNESS_N, torch.float64))

    def errors(loss: Loss) -> list[float]:
        _, got = run_once(loss, make_inputs(CORRECTNESS_N))
        return [
            torch.linalg.vector_norm(a - b).item() / torch.linalg.vector_norm(b).item()
            for a, b in zip(got, truth, strict=True)
        ]

    variants = GROUPS[group]
    *_, peer = (errors(loss) for loss in variants.values())
    # One rounding of the result is the least that the peer's error is taken for: it may be 0 by luck.
    floor = torch.finfo(torch.float32).eps
    ratios = {
        name: max(a / max(b, floor) for a, b in zip(errors(loss), peer, strict=True))
        for name, loss in variants.items()
    }
    for name, ratio in ratios.items():
        if ratio > 3:
            raise SystemExit(f"{group}: {name} is {ratio:.1f} times less exact than full-logits autograd")
    return ratios


def time_rounds(group: str, pairs: int) -> dict[str, list[float]]:
    """Seconds per round and variant; the order turns around every other round."""
    inputs = make_inputs(N)
    seconds: dict[str, list[float]] = {name: [] for name in GROUPS[group]}
    for index in range(pairs):
        names = list(seconds) if index % 2 == 0 else list(reversed(seconds))
        for name in names:
            seconds[name].append(run_once(GROUPS[group][name], inputs)[0])
        print(f"{group} {index + 1}/{pairs}:", {k: round(v[-1], 1) for k, v in seconds.items()}, flush=True)
    return seconds


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median and its distribution-free interval of at least 95% from order statistics (fewer: the range)."""
    ordered, count = sorted(values), len(values)
    rank = 0
    while rank + 1 < count / 2 and sum(math.comb(count, i) for i in range(rank + 2)) / 2**count <= 0.025:
        rank += 1
    return statistics.median(ordered), ordered[rank], ordered[-1 - rank]


def max_rss_mb() -> float:
    """Largest resident set so far. Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(group: str, name: str) -> float:
    """MiB that one forward and backward adds to the resident-set maximum, in a fresh process."""
    command = [sys.executable, __file__, "--memory_of", group, name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_memory(group: str, name: str) -> None:
    """The child's half of `measure_memory`: one line, the extra MiB."""
    loss, inputs = GROUPS[group][name], make_inputs(N)
    tiny = (torch.randn(4, 8, requires_grad=True), torch.randn(16, 8, requires_grad=True), torch.arange(4))
    run_once(loss, tiny)  # loads what is loaded lazily
    before = max_rss_mb()
    run_once(loss, inputs)
    print(max_rss_mb() - before)


def provenance() -> dict[str, str]:
    """Where and with what the numbers were made."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git.stdout.strip() if git.returncode == 0 else "uncommitted",
        "device": f"{models[0] if models else platform.processor()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "size": f"N={N} D={D} V={V} float32",
        "command": " ".join(["python", "kernels/benchmarks/cpu_chunked.py", *sys.argv[1:]]),
    }


def append_rows(rows: list[dict[str, str]]) -> None:
    """Append to results.csv, with its header if it is new."""
    is_new = not RESULTS.exists()
    with open(RESULTS, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=10, help="rounds; every round runs every variant once")
    parser.add_argument("--memory_of", nargs=2, metavar=("GROUP", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_memory(*arguments.memory_of)
        return
    # Before this process grows: a child starts its resident-set maximum at its parent's size.
    extra_mb = {(group, name): measure_memory(group, name) for group in GROUPS for name in GROUPS[group]}
    for group in GROUPS:
        errors = check_correctness(group)
        seconds = time_rounds(group, arguments.pairs)
        ours_seconds = next(iter(seconds.values()))
        rows = []
        for name, values in seconds.items():
            ratio, low, high = median_interval([a / b for a, b in zip(values, ours_seconds, strict=True)])
            rows.append(
                provenance()
                | {
                    "shape": group,
                    "variant": name,
                    "pairs": str(arguments.pairs),
                    "median_s": f"{statistics.median(values):.2f}",
                    "time_ratio_to_ours": f"{ratio:.3f}",
                    "ratio_low": f"{low:.3f}",
                    "ratio_high": f"{high:.3f}",
                    "extra_peak_mb": f"{extra_mb[group, name]:.0f}",
                    "error_ratio_to_full_logits": f"{errors[name]:.2f}",
                }
            )
        append_rows(rows)
        print(f"\n{group}: {'variant':42}{'median s':>9}  time / ours [95%]     extra MiB")
        for row in rows:
            interval = f"{row['time_ratio_to_ours']} [{row['ratio_low']}, {row['ratio_high']}]"
            print(f"{'':15}{row['variant']:42}{row['median_s']:>9}  {interval:20}{row['extra_peak_mb']:>10}")


if __name__ == "__main__":
    main()
