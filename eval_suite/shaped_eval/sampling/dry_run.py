"""What an evaluation would do, and how long it would take, by a timed part of its work."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shaped_eval.backends import TransformersBackend
from shaped_eval.backends.base import Progress
from shaped_eval.config import SampleConfig
from shaped_eval.sampling.chunks import Chunk
from shaped_eval.sampling.likelihood import option_requests, option_scorer
from shaped_eval.sampling.plan import Plan, prepare
from shaped_eval.sampling.progress import SamplingProgress, duration

TIMED_S = 20.0  # most seconds of generation
TIMED_SAMPLES = 64  # of a backend that does not report its steps


@dataclass
class DryRunOptions:
    """The option for a look at an evaluation before it starts."""

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Print the number of samples, tokens and batches, the memory, and the time "
            "estimated from a part of the work. Nothing is written."
        },
    )


class _Enough(Exception):
    """The timed part has taken its time."""


def dry_run(config: SampleConfig, runs: int = 1) -> Iterator[str]:
    """The plan of an evaluation, line by line. Weights are loaded, and nothing is written.

    Args:
        config: the evaluation. If its folder holds a part of it already, the plan is of the whole.
        runs: number of models that are evaluated alike.

    Raises:
        UserError: as `shaped_eval.sample.sample`.
    """
    plan = prepare(config, None, quiet=False)
    scored = [chunk for chunk in plan.chunks if chunk.decoding == "likelihood"]
    generated = [chunk for chunk in plan.chunks if chunk.decoding != "likelihood"]
    yield f"model        {config.model}, on {plan.backend.device}"
    yield from _benchmark_lines(plan)
    samples = sum(map(len, generated))
    if generated:
        most = f"at most {samples * config.max_new_tokens:,} tokens"
        yield f"samples      {samples:,}, {most}, in {_counted(len(generated), 'batch', 'es')}"
    if scored:
        yield f"options      {_options(scored):,} to score, without generation"
    if config.backend == "openai":
        yield "time         not estimated, because the requests of a server may cost money"
        return
    seconds, how = 0.0, []
    if scored:  # first, as in the run: vLLM leaves no memory for it afterwards
        seconds, said = _time_scoring(plan, scored)
        how.append(said)
    plan.backend.prepare()
    yield from _memory_lines(plan, generated)
    if generated:
        more, said = _time_generation(plan, generated)
        seconds += more
        how.append(said)
    times = f", {runs} times" if runs > 1 else ""
    yield f"time         about {duration(seconds)}{times}, without grading; {'; '.join(how)}"


def _benchmark_lines(plan: Plan) -> Iterator[str]:
    for name in dict.fromkeys(problem.benchmark for problem in plan.problems):
        mine = [problem for problem in plan.problems if problem.benchmark == name]
        line = f"benchmark    {name}: {_counted(len(mine), 'problem')}"
        counts = [plan.backend.prompt_tokens(problem.prompt) for problem in mine]
        known = [count for count in counts if count is not None]
        if known:
            mean = sum(known) / len(known)
            line += f", prompts of {min(known):,} to {max(known):,} tokens, {mean:,.0f} on average"
        yield line


def _memory_lines(plan: Plan, generated: Sequence[Chunk]) -> Iterator[str]:
    backend = plan.backend
    if not isinstance(backend, TransformersBackend):
        return
    from shaped_eval.backends.capacity import cached_numbers, free_bytes

    parameters = list(backend.model.parameters())
    weights = sum(each.numel() * each.element_size() for each in parameters)
    per_token = cached_numbers(backend.model.config.get_text_config())
    per_token *= parameters[0].element_size()
    longest = max((len(chunk) * _longest(plan, chunk) for chunk in generated), default=0)
    gib = [f"{number / 2**30:.2f}" for number in (weights, longest * per_token)]
    free = free_bytes(backend.device) / 2**30
    yield (
        f"memory       {gib[0]} GiB of weights, and at most {gib[1]} GiB of keys and values for a "
        f"batch; {free:.2f} GiB are free beside the weights"
    )


def _longest(plan: Plan, chunk: Chunk) -> int:
    """Most tokens of a sample of `chunk`, with its prompt."""
    prompts = [plan.backend.prompt_tokens(problem.prompt) or 0 for problem in chunk.problems]
    return max(prompts) + plan.config.max_new_tokens


def _options(chunks: Sequence[Chunk]) -> int:
    return sum(len(option_requests(problem)) for chunk in chunks for problem in chunk.problems)


def _time_scoring(plan: Plan, scored: Sequence[Chunk]) -> tuple[float, str]:
    """Seconds for all options, and a sentence on how this is known."""
    scorer = option_scorer(plan.config, plan.backend)
    chunk = scored[len(scored) // 2]
    began = time.monotonic()
    scorer.score(chunk.problems)
    spent = time.monotonic() - began
    options = _options([chunk])
    return spent / options * _options(scored), (
        f"{options:,} options took {duration(spent)}, {options / spent:,.1f} a second"
    )


def _time_generation(plan: Plan, generated: Sequence[Chunk]) -> tuple[float, str]:
    """Seconds for all samples, and a sentence on how this is known."""
    backend, middle = plan.backend, len(generated) // 2
    chunks = [generated[middle]]
    if not isinstance(backend, TransformersBackend):
        # a server or an engine of its own is slow with few samples at once
        wanted = -(-TIMED_SAMPLES // max(1, len(generated[middle])))
        chunks = list(generated[middle : middle + wanted])
    total = sum(map(len, generated))
    bar = SamplingProgress(total, 0, shown=False, room=plan.config.max_new_tokens)
    with bar:
        began = time.monotonic()

        def watch(batch: Progress) -> None:
            bar.step(batch)
            if time.monotonic() - began > TIMED_S:
                raise _Enough

        if isinstance(backend, TransformersBackend):
            backend.on_step = watch
        try:
            requests = [chunk.request(plan.config.seed) for chunk in chunks]
            for _, completions in backend.complete(requests):
                bar.advance(len(completions), sum(each.tokens for each in completions))
        except _Enough:
            pass
        now = time.monotonic()
        spent = now - began
        left = bar.seconds_left(now) or 0.0
    rate = bar.amount / max(spent, 1e-9)
    known = "" if bar.has_ended else ", and none has ended: fewer tokens may be needed"
    return spent + left, (
        f"{bar.amount:,} tokens of {bar.in_sight:,} samples took {duration(spent)}, {rate:,.0f} a "
        f"second{known}"
    )


def _counted(count: int, what: str, plural: str = "s") -> str:
    return f"{count:,} {what}{'' if count == 1 else plural}"
