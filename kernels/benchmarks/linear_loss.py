"""Time, memory and error of the fused loss, compared with its peers and with bare matmuls.

    python kernels/benchmarks/linear_loss.py                       # everything; a GPU if possible
    python kernels/benchmarks/linear_loss.py --device cpu --quick  # under 2 minutes, no files
    python kernels/benchmarks/linear_loss.py --sizes 8192x2560x151936 --variants ours Liger floor
    python kernels/benchmarks/linear_loss.py --variants trial "ours full, metrics" floor

A measurement is a forward and a backward to hidden states [N, D] and head weight [V, D], in
bfloat16 on a GPU and float32 on a CPU. `shaped_kernels` must be importable: installed, or with
PYTHONPATH=kernels/torch-ext.

Correctness comes first. On 64 rows with the full D and V, errors against float64 are divided by
those of full-logits PyTorch in the same dtype. If this is above 3 for one of our variants, the run
ends with an error before anything is timed. A peer that is not installed or fails is left out, and
a line says so.

Time: every round runs the variants one after the other, and the next round in the opposite order.
Each variant gets --seconds in all. One with a long call takes part in fewer rounds, but at least in
3. Ratios are formed within a round, and their median is given with a 95% interval. On a GPU, events
measure the time. On a CPU with one thread (OMP_NUM_THREADS=1) it is processor time. --seconds is
reduced to fit --minutes (8 on a GPU), and a line says so.
  floor   the three bare matmuls over our chunks, in bfloat16 on a GPU; on a CPU also e^z over the
          logits. With QuACK, its matmuls are a second floor
  base    Liger at C=16 with the same kind of sums on a GPU; without Liger, and on a CPU, our
          cross-entropy
Memory: what a forward and backward adds to the allocated memory, including the gradients; on a CPU,
how much the maximum of the resident set grows in a separate process.
Sums: the dtype in which the weight's gradient is summed over chunks. Compare variants with the same
sums.

A variant with "trial" in its name is ours with a choice that is off by default, since no GPU has
measured it. It runs only if --variants has "trial", as in --variants "ours full" trial floor.

"full" is β=−0.25 (product form), λ̃=0.1, λ̂=−0.1, k=100. Rows are appended to results.csv after
each size. At the end a plot is drawn, and the measurements are compared with what the loss is meant
to reach.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from aims import aims
from measure import (
    Inputs,
    Judge,
    Result,
    Size,
    make_inputs,
    peak_on_cpu,
    peak_on_gpu,
    run,
    time_rounds,
)
from peers import FULL_SHAPE, Variant, all_variants, ours
from plot import draw
from table import append_rows, make_rows, print_table, provenance, require_columns

FOLDER = Path(__file__).parent
# On a GPU also those of SmolLM2-135M, Qwen3-0.6B and Gemma 3 270M, and of GPT-2, which is odd.
SIZES = {
    "cuda": [
        *("8192x2560x151936", "16384x2560x151936", "16384x1536x151936", "4096x4096x128256"),
        *("8192x576x49152", "8192x1024x151936", "8192x640x262144", "8192x768x50257"),
    ],
    "cpu": ["512x512x151936", "2048x512x151936"],
}
QUICK_SIZES = {"cuda": ["2048x1024x32768"], "cpu": ["256x256x8192"]}
ROUNDS = {"cuda": 12, "cpu": 10}
MOST_ERROR = 3.0
PEAK = "extra MiB:"
T = TypeVar("T")


def try_peer(variant: Variant, action: Callable[[], T]) -> T | None:
    """The result of `action`, or None and a line of explanation if a peer fails.

    Failures of our own variants propagate.
    """
    try:
        return action()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # other packages fail in many ways
        if variant.is_ours or (variant.is_floor and not variant.apart):
            raise
        reason = (str(error).strip() or "no message").splitlines()[0]
        print(f"left out: {variant.name}: {type(error).__name__}: {reason}", flush=True)
        return None


def peak_apart(variant: Variant, size: Size, device: str) -> float | None:
    """Extra MiB of the variant in a separate process, or None and a line if it fails there."""
    command = [sys.executable, __file__, "--device", device, "--alone", str(size), variant.name]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [str(error)])[-1]
    except subprocess.TimeoutExpired:
        reason = "no result within 3 minutes"
    else:
        return float(process.stdout.split(PEAK)[1].split()[0])
    print(f"{variant.name} fails in a process of its own: {reason}", flush=True)
    return None


def print_peak(variant: Variant, size: Size, device: str, dtype: torch.dtype) -> None:
    """Print the extra MiB in the process that `peak_apart` starts.

    They come after a mark, since a peer may print something too.
    """
    inputs = make_inputs(size, device, dtype)
    if device == "cuda":
        run(variant.loss, inputs)  # compiles
    print(PEAK, (peak_on_gpu if device == "cuda" else peak_on_cpu)(variant.loss, inputs))


def choose(device: str, dtype: torch.dtype, texts: list[str] | None, size: Size) -> list[Variant]:
    """The variants for the device whose names contain one of `texts`; trials only if these say so.

    Peers that fail in a separate process at `size` are left out.
    """
    variants = []
    with_trials = any("trial" in text for text in texts or [])
    for variant in all_variants(dtype):
        if device not in variant.devices or (
            texts and not any(text in variant.name for text in texts)
        ):
            continue
        if "trial" in variant.name and not with_trials:
            continue
        if variant.apart and importlib.util.find_spec(variant.apart) is None:
            print(f"left out: {variant.name}: {variant.apart} is not installed", flush=True)
        elif not variant.apart or peak_apart(variant, size, device) is not None:
            variants.append(variant)
    return variants


def check(
    variants: list[Variant], D: int, V: int, device: str, dtype: torch.dtype
) -> dict[str, float]:
    """Errors by variant, without peers that fail.

    Raises:
        SystemExit: one of our variants is wrong, so that its time would mean nothing.
    """
    print(f"errors at D={D} V={V}, as multiples of those of full logits:", flush=True)
    judge = Judge(D, V, device, dtype)
    errors: dict[str, float] = {}
    for variant in variants:
        error = (
            None if variant.is_floor else try_peer(variant, functools.partial(judge.error, variant))
        )
        if error is not None:
            errors[variant.name] = error
    if any(variant.is_ours for variant in variants):
        # By default, the rows of the check fit into one chunk.
        chunked = Variant(
            "ours full, several chunks", ours(FULL_SHAPE, chunk_rows=24), FULL_SHAPE, "float32"
        )
        errors[chunked.name] = judge.error(chunked)
        errors["metrics of ours"] = judge.metric_error("triton" if device == "cuda" else "chunked")
    for name, error in errors.items():
        print(f"  {name:30} {error:.2f}", flush=True)
        if "ours" in name and not error <= MOST_ERROR:
            raise SystemExit(
                f"{name}: {error:.1f} times the error of full logits, above {MOST_ERROR}; "
                "nothing is timed"
            )
    return errors


def prepare(
    variants: list[Variant], size: Size, inputs: Inputs, device: str
) -> tuple[list[Variant], dict[str, float | None]]:
    """The variants that can be timed, and the extra MiB by name.

    The extra MiB are None if the memory of a GPU is not enough.
    """
    able: list[Variant] = []
    peaks: dict[str, float | None] = {}

    def compile_and_measure(variant: Variant) -> float:
        run(variant.loss, inputs)
        return peak_on_gpu(variant.loss, inputs)

    for variant in variants:
        if device == "cpu":
            if variant.cpu_rows is not None and variant.cpu_rows < size.N:
                print(
                    f"left out at {size}: {variant.name}: more than {variant.cpu_rows} tokens",
                    flush=True,
                )
                continue
            able.append(variant)
            if not variant.is_floor:
                peaks[variant.name] = peak_apart(variant, size, device)
            continue
        try:
            peak_mb = try_peer(variant, functools.partial(compile_and_measure, variant))
        except torch.OutOfMemoryError:
            peaks[variant.name] = None
            torch.cuda.empty_cache()
            continue
        if peak_mb is not None:
            able.append(variant)
            peaks[variant.name] = peak_mb
    return able, peaks


def measure_size(
    variants: list[Variant],
    size: Size,
    device: str,
    dtype: torch.dtype,
    errors: dict[str, float],
    seconds: float,
) -> dict[str, Result]:
    """Results by name, including variants that ran out of memory."""
    inputs = make_inputs(size, device, dtype)
    known = [variant for variant in variants if variant.is_floor or variant.name in errors]
    able, peaks = prepare(known, size, inputs, device)
    times = time_rounds(able, inputs, seconds, ROUNDS[device])
    results = {}
    for variant in known:
        name = variant.name
        if name in times:
            results[name] = Result(variant, *times[name], peaks.get(name), errors.get(name))
        elif name in peaks:
            results[name] = Result(variant, [], {}, None, errors.get(name), out_of_memory=True)
    return results


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments, and fill in the defaults that depend on the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda if there is one")
    parser.add_argument(
        "--quick", action="store_true", help="one small size, 2 seconds per variant, no files"
    )
    parser.add_argument(
        "--sizes", nargs="+", metavar="NxDxV", help=f"default: {SIZES['cuda']} or {SIZES['cpu']}"
    )
    parser.add_argument(
        "--variants", nargs="+", metavar="TEXT", help="those whose name contains one of these texts"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help="timed per variant and size (default: 3 on a GPU, 30 on a CPU)",
    )
    parser.add_argument(
        "--minutes", type=float, help="for the whole run (default: 8 on a GPU, no limit on a CPU)"
    )
    parser.add_argument(
        "--out", type=Path, help="csv to append to (default: results.csv here; none if --quick)"
    )
    parser.add_argument(
        "--plot", type=Path, help="png (default: results-<device>.png here; none if --quick)"
    )
    parser.add_argument("--commit", help="for the rows, where there is no git checkout to ask")
    parser.add_argument("--alone", nargs=2, metavar=("SIZE", "VARIANT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(argv)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here, or this torch cannot use it")
    device = chosen.device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    defaults = QUICK_SIZES if chosen.quick else SIZES
    try:
        chosen.sizes = [Size.parse(text) for text in chosen.sizes or defaults[device]]
    except ValueError as error:
        parser.error(f"--sizes: {error}")
    chosen.seconds = chosen.seconds or (2.0 if chosen.quick else {"cuda": 3.0, "cpu": 30.0}[device])
    chosen.minutes = chosen.minutes or {"cuda": 8.0, "cpu": math.inf}[device]
    if not chosen.quick:
        chosen.out = chosen.out or FOLDER / "results.csv"
        chosen.plot = chosen.plot or FOLDER / f"results-{device}.png"
    return chosen


def describe_command(argv: list[str]) -> str:
    """The command for the rows, without the options that only name files and the commit."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--out", "--plot", "--commit"):
        parser.add_argument(option)
    return shlex.join(
        ["python", "kernels/benchmarks/linear_loss.py", *parser.parse_known_args(argv)[1]]
    )


def main(argv: list[str] | None = None) -> None:
    start = time.monotonic()
    chosen = parse_arguments(argv)
    device, dtype = chosen.device, {"cuda": torch.bfloat16, "cpu": torch.float32}[chosen.device]
    if chosen.alone:
        size, name = chosen.alone
        print_peak({v.name: v for v in all_variants(dtype)}[name], Size.parse(size), device, dtype)
        return
    if chosen.out:
        require_columns(chosen.out)
    origin = provenance(
        device, chosen.commit, describe_command(sys.argv[1:] if argv is None else argv)
    )
    variants = choose(device, dtype, chosen.variants, chosen.sizes[0])
    if not variants:
        raise SystemExit(
            f"--variants {' '.join(chosen.variants or [])}: no variant for {device} has such a name"
        )
    heads = dict.fromkeys((size.D, size.V) for size in chosen.sizes)
    errors = {head: check(variants, *head, device, dtype) for head in heads}

    all_rows, lines = [], []
    for index, size in enumerate(chosen.sizes):
        left = start + 60 * chosen.minutes - time.monotonic()
        # 70% of the remaining time is for timed calls. The rest is for compiling, memory and calls
        # that are not timed.
        seconds = min(
            chosen.seconds, max(0.2, 0.7 * left / (len(chosen.sizes) - index) / len(variants))
        )
        if seconds < chosen.seconds:
            print(
                f"{seconds:.1f} s per variant at {size}, to fit {chosen.minutes:g} minutes",
                flush=True,
            )
        results = measure_size(variants, size, device, dtype, errors[size.D, size.V], seconds)
        rows = make_rows(size, results, device, dtype, origin)
        print_table(rows)
        if chosen.out:
            append_rows(chosen.out, rows)
        all_rows += rows
        lines += aims(size, results, device)
    print("\nWhat it must reach:", *lines, sep="\n")
    if chosen.plot:
        draw(all_rows, chosen.plot)
    print(f"{(time.monotonic() - start) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
