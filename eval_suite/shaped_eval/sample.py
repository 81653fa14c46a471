"""From problems to samples: run.json, problems.jsonl and samples.jsonl in a run's folder.

The unit of repeatability is a chunk (`shaped_eval.sampling.chunks`): samples that are generated
together from a seed, which depends only on the run's seed, the problems' ids and the range. A chunk
with missing rows is generated again as a whole. A killed and resumed run therefore ends with the
same rows as an uninterrupted one, as far as the backend is repeatable.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from shaped_eval.backends import Backend, TransformersBackend
from shaped_eval.backends.openai import OpenAIBackend
from shaped_eval.backends.vllm import VLLMBackend
from shaped_eval.benchmarks.own import name_of
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.records import append_jsonl, drop_truncated_line
from shaped_eval.sampling.chunks import (
    Chunk,
    collect,
    complete_chunks,
    samples_file,
)
from shaped_eval.sampling.identity import begin, has_begun, is_of_another_sampler, run_record
from shaped_eval.sampling.likelihood import (
    likelihoods_file,
    score_chunks,
    takes_turns,
)
from shaped_eval.sampling.plan import Plan, plans_batches, prepare
from shaped_eval.sampling.processes import Processes
from shaped_eval.sampling.progress import RepetitionCheck, SamplingProgress


def sample(
    config: SampleConfig,
    *,
    progress: bool = True,
    processes: Processes | None = None,
    backend: Backend | None = None,
) -> Path:
    """Generate what is missing of the run in ``config.out``, and return that folder.

    Args:
        config: the run.
        progress: show a bar, or lines where standard error is not a terminal.
        processes: those that share the run, each calling this with the same `config`; none but this
            one.
        backend: what generates, such as a model in memory; None for the one that `config` names.

    Raises:
        UserError: the folder holds a run with other settings, a prompt does not fit the model's
            context, or model, data or server cannot be found; before anything is written.
    """
    processes = processes or Processes()
    processes.begin()
    if not processes.first:
        processes.wait("ready", range(1))  # the first one finds the user's errors, once
    plan = prepare(config, backend, quiet=not processes.first)
    done = _open(plan, processes)
    if plan.missing(done):
        _work(plan, done, processes, progress)
    processes.announce("sampled")
    if processes.first:
        processes.wait("sampled", range(processes.size))
        if plan.missing(done):
            _check_complete(plan)
    return plan.out


def _open(plan: Plan, processes: Processes) -> set[int]:
    """The chunks that earlier commands finished. The first process writes what the run is."""
    config, out, backend = plan.config, plan.out, plan.backend
    record = run_record(config, backend, plan.problems)
    if is_of_another_sampler(config, plan.problems, record):
        processes.announce("ready")
        return set(range(len(plan.chunks)))
    if not processes.first:
        return complete_chunks(out, plan.chunks)
    names = [name_of(name) for name in plan.benchmarks]
    record |= {"benchmarks": names, "left_out": plan.left_out}
    if plans_batches(backend):
        record["batches"] = asdict(plan.limits)
    is_begun = has_begun(out, record)
    done = collect(out, plan.chunks)
    if plan.missing(done) and not takes_turns(config.backend, plan.chunks, done):
        backend.prepare()
    if getattr(backend, "shares_tokens", False):
        record["shared_tokens"] = True
    if not is_begun:
        begin(out, record, plan.problems)
    processes.announce("ready")
    return done


def _work(plan: Plan, done: set[int], processes: Processes, progress: bool) -> None:
    """Score and generate this process's share of what is missing."""
    rank, size = processes.rank, processes.size
    missing = plan.missing(done)
    share = missing[rank::size]
    scored = [chunk for chunk in share if chunk.decoding == "likelihood"]
    generated = [chunk for chunk in share if chunk.decoding != "likelihood"]
    finished = sum(map(len, plan.chunks)) - sum(map(len, missing)) if size == 1 else 0
    total = finished + sum(map(len, share))
    path = samples_file(plan.out, rank, size)
    drop_truncated_line(path)
    which = "" if size == 1 else f", process {rank + 1} of {size}"
    scoring = SamplingProgress(sum(map(len, scored)), 0, progress, f"scoring{which}", "requests")
    bar = SamplingProgress(
        finished + sum(map(len, generated)),
        finished,
        progress,
        f"sampling{which}",
        room=plan.config.max_new_tokens,
    )
    try:
        if scored:
            _score(plan, scored, path, likelihoods_file(plan.out, rank, size), scoring)
        with bar:
            for decoding in ("greedy", None):
                chosen = [chunk for chunk in generated if chunk.decoding == decoding]
                _generate(plan.config, plan.backend, chosen, path, bar)
    except KeyboardInterrupt:
        print(
            f"stopped at {scoring.done + bar.done} of {total} samples; the same command continues "
            "from there",
            file=sys.stderr,
        )
        raise


def _score(
    plan: Plan, chunks: Sequence[Chunk], path: Path, likelihoods: Path, bar: SamplingProgress
) -> None:
    """Append the samples of `chunks` to `path`, after the likelihoods of their options."""
    with bar:
        scores = score_chunks(plan.config, plan.backend, chunks, likelihoods)
        for chunk, samples in zip(chunks, scores, strict=True):
            append_jsonl(path, samples)
            options = sum(len(problem.meta["continuations"]) for problem in chunk.problems)
            bar.advance(len(samples), options)


def _check_complete(plan: Plan) -> None:
    if plan.missing(collect(plan.out, plan.chunks)):
        raise UserError(
            f"out={str(plan.out)!r} lacks samples, as after two commands at once: repeat this one"
        )


def _generate(
    config: SampleConfig,
    backend: Backend,
    chunks: Sequence[Chunk],
    path: Path,
    bar: SamplingProgress,
) -> None:
    """Append the rows of `chunks` to `path`, each chunk in one write when it is done."""
    repetition = RepetitionCheck()
    if isinstance(backend, TransformersBackend):
        backend.on_step = bar.step
    if chunks and isinstance(backend, VLLMBackend | OpenAIBackend):  # asking vLLM starts its engine
        bar.at_once = backend.samples_at_once
    requests = [chunk.request(config.seed) for chunk in chunks]
    with closing(backend.complete(requests)) as results:
        for index, completions in results:
            samples = chunks[index].samples(completions)
            append_jsonl(path, samples)
            bar.advance(len(samples), sum(sample.tokens for sample in samples))
            repetition.add(samples)
    if config.temperature > 0 and repetition.suspicious:
        print(
            f"all samples of each problem are the same at temperature={config.temperature}: check "
            f"that {config.backend} samples; some servers decode greedily unless the model's own "
            "generation settings enable sampling",
            file=sys.stderr,
        )
