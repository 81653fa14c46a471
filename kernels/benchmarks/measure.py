"""Measuring: inputs, errors against float64, extra memory, and times in interleaved rounds.

Dimensions: N tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from peers import (
    CROSS_ENTROPY,
    FULL_SHAPE,
    METRICS,
    Loss,
    Variant,
    full_logits,
    reference,
    shaped_linear_loss,
)
from shaped_kernels import RewardShape
from torch import Tensor

CORRECTNESS_N = 64
Inputs = tuple[Tensor, Tensor, Tensor]


class Size(NamedTuple):
    """Tokens, hidden dimension and vocabulary of one measurement."""

    N: int
    D: int
    V: int

    def __str__(self) -> str:
        return "x".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read a size such as ``"8192x2560x151936"``.

        Raises:
            ValueError: the text is not three positive whole numbers.
        """
        numbers = text.split("x")
        if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
            raise ValueError(f"{text!r} is not three sizes above 0, such as 8192x2560x151936")
        return cls(*map(int, numbers))


class Result(NamedTuple):
    """The result of one variant at one size. Times are in ms, memory in MiB.

    `rounds` maps the number of each round that the variant took part in to its median time.
    """

    variant: Variant
    calls_ms: list[float]
    rounds: dict[int, float]
    peak_mb: float | None
    error: float | None
    out_of_memory: bool = False


class MedianInterval(NamedTuple):
    """A median and its narrowest 95% interval from order statistics.

    Below 6 values, the interval is the range.
    """

    median: float
    low: float
    high: float


def interval(values: list[float]) -> MedianInterval:
    ordered, count = sorted(values), len(values)
    rank = 0  # each end may leave out `rank` values
    while sum(math.comb(count, i) for i in range(rank + 2)) / 2**count <= 0.025:
        rank += 1
    return MedianInterval(statistics.median(ordered), ordered[rank], ordered[-1 - rank])


def time_ratio(result: Result | None, other: Result | None) -> MedianInterval | None:
    """The time of `result` divided by that of `other`, over the rounds in which both ran."""
    if result is None or other is None:
        return None
    common = result.rounds.keys() & other.rounds.keys()
    return interval([result.rounds[i] / other.rounds[i] for i in common]) if common else None


def make_inputs(size: Size, device: str, dtype: torch.dtype) -> Inputs:
    """Hidden states, head weight and targets.

    The logits have a standard deviation of about 2. That of the target is raised by 0 to 24, so
    that its probability ranges from 0 to 1.
    """
    N, D, V = size
    generator = torch.Generator(device).manual_seed(0)
    weight = torch.randn(V, D, generator=generator, device=device).mul_(2 / math.sqrt(D)).to(dtype)
    targets = torch.randint(V, (N,), generator=generator, device=device)
    raised = torch.linspace(0, 6, N, device=device)[
        torch.randperm(N, generator=generator, device=device)
    ]
    hidden = torch.randn(N, D, generator=generator, device=device)
    hidden = (hidden + raised[:, None] * weight[targets].float()).to(dtype)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def run(loss: Loss, inputs: Inputs) -> list[Tensor]:
    """Run forward and backward; return the loss and the gradients of hidden states and weight."""
    value = loss(*inputs)
    if value.requires_grad:
        value.backward()
    results = [value.detach(), *(tensor.grad for tensor in inputs[:2] if tensor.grad is not None)]
    for tensor in inputs[:2]:
        tensor.grad = None
        if hasattr(tensor, "grad_dtype"):  # a variant may have set it
            tensor.grad_dtype = tensor.dtype
    return results


class Judge:
    """Errors on a few rows of a head [V, D], as multiples of those of full logits in the dtype.

    An error is ‖x − truth‖/‖truth‖, where the truth is float64 from the same rounded inputs. The
    error of full logits may be 0 by luck, so it counts as at least one rounding of fp32.
    """

    def __init__(self, D: int, V: int, device: str, dtype: torch.dtype) -> None:
        self._inputs = make_inputs(Size(CORRECTNESS_N, D, V), device, dtype)
        hidden, weight, targets = self._inputs
        self._exact = (
            hidden.detach().double().requires_grad_(),
            weight.detach().double().requires_grad_(),
            targets,
        )
        self._known: dict[RewardShape, tuple[list[Tensor], list[float]]] = {}

    def error(self, variant: Variant) -> float:
        """The largest multiple, over loss and gradients."""
        assert variant.shape is not None
        truth, least = self._truth(variant.shape)
        errors = _relative_errors(run(variant.loss, self._inputs), truth)
        return max(error / peer for error, peer in zip(errors, least, strict=True))

    def metric_error(self, impl: str) -> float:
        """The largest multiple, over our metrics from the implementation `impl`."""

        def metrics(inputs: Inputs, impl: str) -> list[Tensor]:
            with torch.no_grad():
                output = shaped_linear_loss(*inputs, FULL_SHAPE, metrics=METRICS, impl=impl)
            return [getattr(output, name) for name in METRICS]

        truth = metrics(self._exact, "reference")
        least = _at_least_rounding(_relative_errors(metrics(self._inputs, "reference"), truth))
        errors = _relative_errors(metrics(self._inputs, impl), truth)
        return max(error / peer for error, peer in zip(errors, least, strict=True))

    def _truth(self, shape: RewardShape) -> tuple[list[Tensor], list[float]]:
        """Loss and gradients in float64, and the errors of full logits."""
        if shape not in self._known:
            truth = run(reference(shape), self._exact)
            peer = full_logits if shape == CROSS_ENTROPY else reference(shape)
            self._known[shape] = (
                truth,
                _at_least_rounding(_relative_errors(run(peer, self._inputs), truth)),
            )
        return self._known[shape]


def _relative_errors(results: list[Tensor], truths: list[Tensor]) -> list[float]:
    return [
        (torch.linalg.vector_norm(got.double() - truth) / torch.linalg.vector_norm(truth)).item()
        for got, truth in zip(results, truths, strict=True)
    ]


def _at_least_rounding(errors: list[float]) -> list[float]:
    return [max(error, torch.finfo(torch.float32).eps) for error in errors]


def time_calls(loss: Loss, inputs: Inputs, calls: int) -> list[float]:
    """Milliseconds of each of `calls` forwards and backwards; on a GPU by CUDA events.

    A CPU with one thread is measured by its processor time, which depends less on other load.
    """
    if not inputs[0].is_cuda:
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        calls_ms = []
        for _ in range(calls):
            start = clock()
            run(loss, inputs)
            calls_ms.append(1000 * (clock() - start))
        return calls_ms
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        for _ in range(calls)
    ]
    torch.cuda.synchronize()
    for before, after in events:
        before.record()
        run(loss, inputs)
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in events]


def peak_on_gpu(loss: Loss, inputs: Inputs) -> float:
    """The most MiB that a forward and backward allocates, including the gradients."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(loss, inputs)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def peak_on_cpu(loss: Loss, inputs: Inputs) -> float:
    """MiB that a forward and backward adds to the maximum of the resident set (Linux).

    It is meaningful only once in a process.
    """
    tiny = (
        torch.randn(4, 8, requires_grad=True),
        torch.randn(16, 8, requires_grad=True),
        torch.arange(4),
    )
    run(loss, tiny)  # loads what is imported lazily
    before = _max_resident_mb()
    run(loss, inputs)
    return _max_resident_mb() - before


def _max_resident_mb() -> float:
    # getrusage is not used, since its maximum is inherited from the parent process.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].removesuffix("kB")) / 1024


class Share(NamedTuple):
    """A variant's part in the rounds: `calls` timed calls in every `every`-th round."""

    calls: int
    every: int


def share(call_ms: float, seconds: float, rounds: int) -> Share:
    """Spread `seconds` of a variant whose call takes `call_ms` over the rounds.

    Rounds are left out only if the variant would otherwise take twice as long, and at least 3
    remain. `every` is a power of 2, so that of two variants, all rounds of the one with fewer
    rounds are also rounds of the other.
    """
    budget = 1000 * seconds / call_ms
    skip = max(1, min(rounds // 3, int(rounds / max(2 * budget, 1))))
    return Share(max(1, math.ceil(budget / rounds)), 2 ** int(math.log2(skip)))


def time_rounds(
    variants: list[Variant], inputs: Inputs, seconds: float, rounds: int
) -> dict[str, tuple[list[float], dict[int, float]]]:
    """Times of every call and the median of each round, by variant.

    The order of the variants is reversed in every other round. On a GPU every variant must have run
    before. A variant that runs out of memory nevertheless is left out of the result.
    """
    shares = {}
    for variant in variants:
        calls_ms = _time_what_fits(variant.loss, inputs, 1)
        # The first call of a fast variant may be mostly its initialisation.
        if calls_ms and calls_ms[0] < 10_000:
            calls_ms = _time_what_fits(variant.loss, inputs, 2)
        if calls_ms:
            shares[variant.name] = share(min(calls_ms), seconds, rounds)
    times: dict[str, tuple[list[float], dict[int, float]]] = {name: ([], {}) for name in shares}
    for index in range(rounds):
        for variant in variants[:: 1 if index % 2 == 0 else -1]:
            if variant.name not in times or index % shares[variant.name].every:
                continue
            calls = shares[variant.name].calls
            # On a GPU, the first call after another variant also pays for memory that changes
            # hands.
            extra = 1 if inputs[0].is_cuda and calls > 1 else 0
            calls_ms = _time_what_fits(variant.loss, inputs, calls + extra)[extra:]
            if not calls_ms:
                del times[variant.name]
                continue
            times[variant.name][0].extend(calls_ms)
            times[variant.name][1][index] = statistics.median(calls_ms)
        print("." if index < rounds - 1 else ".\n", end="", flush=True)
    return times


def _time_what_fits(loss: Loss, inputs: Inputs, calls: int) -> list[float]:
    """`time_calls`, or nothing if the memory of a GPU is not enough."""
    try:
        return time_calls(loss, inputs, calls)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return []
