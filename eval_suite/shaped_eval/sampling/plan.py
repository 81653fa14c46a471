"""What a run consists of: its problems, their prompts and their batches."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from shaped_eval.backends import Backend, TransformersBackend, load_backend
from shaped_eval.backends.base import BatchLimits
from shaped_eval.benchmarks.loading import not_in_mirror, problems_of_run
from shaped_eval.benchmarks.registry import missing
from shaped_eval.config import ASKED_TOGETHER, SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.records import Problem
from shaped_eval.reporting.outcomes import read_record
from shaped_eval.sampling.chunks import Chunk, plan_chunks
from shaped_eval.sampling.fit import fit_problems
from shaped_eval.sampling.likelihood import check_scoring
from shaped_eval.untrusted.files import check_folder
from shaped_eval.untrusted.pretrained import check_model_folder
from shaped_eval.untrusted.rows import row_of


@dataclass
class Plan:
    """What a run consists of: the same in every process that shares it."""

    config: SampleConfig
    out: Path
    backend: Backend
    benchmarks: list[str]
    left_out: list[str]
    problems: list[Problem]
    limits: BatchLimits
    chunks: list[Chunk]

    def missing(self, done: set[int]) -> list[Chunk]:
        return [chunk for index, chunk in enumerate(self.chunks) if index not in done]


def prepare(config: SampleConfig, backend: Backend | None, quiet: bool) -> Plan:
    """Problems with prompts that fit the model, divided into chunks; nothing is written.

    Args:
        config: the run.
        backend: what generates; None for the one that `config` names.
        quiet: print nothing.

    Raises:
        UserError: as `sample`.
    """
    out = Path(config.out)
    check_folder(out)
    if backend is None and config.backend in ("transformers", "vllm"):
        check_model_folder(config.model)  # before data sets are fetched
    names, left_out = _present(config, quiet)
    problems = problems_of_run(
        out,
        names,
        hub_mirror=config.hub_mirror,
        limit=config.limit,
        chat=config.chat_template,
        shots=config.shots,
        since=config.since,
    )
    check_scoring(config.backend, problems, config.chat_template, quiet)
    backend = backend or load_backend(config)
    room = (backend.context_tokens(), config.max_new_tokens)
    problems = fit_problems(problems, backend.prompt_tokens, *room, quiet=quiet)
    prompt_tokens = _check_lengths(config, backend, problems, quiet)
    lengths = prompt_tokens if backend.together else None
    limits = _limits(config, backend, out)
    scored_together = config.fixed_batch_size or ASKED_TOGETHER
    chunks = plan_chunks(
        problems, config.n, limits, lengths, config.max_new_tokens, scored_together
    )
    return Plan(config, out, backend, names, left_out, problems, limits, chunks)


def plans_batches(backend: Backend) -> TypeGuard[TransformersBackend]:
    return isinstance(backend, TransformersBackend) and backend.together


def _limits(config: SampleConfig, backend: Backend, out: Path) -> BatchLimits:
    """What a batch may hold: as when the run began, so that it continues with the same batches."""
    if not plans_batches(backend):
        return BatchLimits(config.fixed_batch_size or ASKED_TOGETHER)
    begun = read_record(out).get("batches") if (out / "run.json").exists() else None
    if begun is None:
        return backend.batch_limits()
    try:
        return row_of(BatchLimits, begun)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(out / 'run.json')!r}: batches={begun!r} cannot be read ({error}): choose "
            "another --out"
        ) from error


def _present(config: SampleConfig, quiet: bool) -> tuple[list[str], list[str]]:
    """The run's benchmarks, and those of its suite that are left out.

    They are those that the mirror lacks, and those that cannot be graded here. Benchmarks that are
    named one by one must exist.
    """
    names = config.benchmark_names
    if config.suite is None:
        return names, []
    lacking = {name: lacks for name in names if (lacks := missing(name))}
    absent = not_in_mirror([name for name in names if name not in lacking], config.hub_mirror)
    left_out = [name for name in names if name in (*lacking, *absent)]
    if len(left_out) == len(names):
        return names, []
    reasons = [f"{name} cannot be graded here ({lacks})" for name, lacks in lacking.items()]
    if absent:
        reasons.insert(0, f"the mirror has no data for {', '.join(absent)}")
    if left_out and not quiet:
        print(
            f"suite={config.suite!r}: {'; '.join(reasons)}; they are left out, and averages are "
            "over the others",
            file=sys.stderr,
        )
    return [name for name in names if name not in left_out], left_out


def _check_lengths(
    config: SampleConfig, backend: Backend, problems: list[Problem], quiet: bool
) -> dict[str, int]:
    """Length in tokens of each problem's prompt; empty where only a server knows the lengths.

    A prompt must fit in the context, and its completion ends with the context, because a model's
    output beyond it is noise.

    Raises:
        UserError: a prompt leaves no room for a completion.
    """
    problems = [problem for problem in problems if problem.meta.get("decoding") != "likelihood"]
    lengths = {problem.problem_id: backend.prompt_tokens(problem.prompt) for problem in problems}
    known = {key: tokens for key, tokens in lengths.items() if tokens is not None}
    context = backend.context_tokens()
    if context is None or not known:
        return known
    cut = 0
    for problem in problems:
        tokens = known[problem.problem_id]
        if tokens >= context:
            raise UserError(
                f"benchmarks={problem.benchmark!r}: the prompt of {problem.problem_id} has "
                f"{tokens} tokens, which leaves no room in the model's context of {context} "
                "tokens: leave this benchmark out, or use fewer --shots"
            )
        cut += tokens + config.max_new_tokens > context
    if cut and not quiet:
        print(
            f"{cut} of {len(problems)} prompts leave less than "
            f"max_new_tokens={config.max_new_tokens} in the model's context of {context} tokens: "
            "their completions end there and count as truncated",
            file=sys.stderr,
        )
    return known
