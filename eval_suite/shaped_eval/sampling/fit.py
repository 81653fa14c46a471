"""Cuts the beginning of prompts that are longer than the model's context, as lm-eval does.

The number of cut prompts is printed, and each cut is recorded in the problem's `meta`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.errors import UserError
from shaped_eval.records import Problem
from shaped_eval.sampling.likelihood import is_likelihood, option_requests

# a completion gets a quarter of the context, or max_new_tokens if that is less
COMPLETION_SHARE = 4


def fit_problems(
    problems: Sequence[Problem],
    num_tokens: Callable[[str], int | None],
    context_tokens: int | None,
    max_new_tokens: int,
    *,
    quiet: bool = False,
) -> list[Problem]:
    """The problems, with the prompts of those in `HARNESS` cut to leave room for a completion.

    A prompt is cut at its beginning, where the worked examples are; `meta` then has
    ``cut_characters``. A prompt whose options are scored is only counted, because the scorer cuts
    it.

    Raises:
        UserError: an option alone is longer than the context.
    """
    if context_tokens is None:
        return list(problems)
    room = context_tokens - min(max_new_tokens, context_tokens // COMPLETION_SHARE)
    cut: Counter[str] = Counter()
    fitted = []
    for problem in problems:
        if problem.benchmark in HARNESS and is_likelihood(problem):
            cut[problem.benchmark] += _loses_beginning(problem, num_tokens, context_tokens)
        elif problem.benchmark in HARNESS:
            shorter = _fit(problem, num_tokens, room)
            cut[problem.benchmark] += shorter is not problem
            problem = shorter
        fitted.append(problem)
    if not quiet:
        for benchmark, count in cut.items():
            if count:
                print(
                    f"{benchmark}: {count} prompts are too long for the model's context of "
                    f"{context_tokens} tokens; their beginning is cut, worked examples first",
                    file=sys.stderr,
                )
    return fitted


def _may_exceed(text: str, tokens: int) -> bool:
    """A cheap upper bound: a token holds at least a byte, except for a few special tokens."""
    return len(text.encode()) + 8 > tokens


def _loses_beginning(
    problem: Problem, num_tokens: Callable[[str], int | None], context_tokens: int
) -> bool:
    loses = False
    for context, continuation in option_requests(problem):
        if _may_exceed(context + continuation, context_tokens):
            loses = loses or (num_tokens(context + continuation) or 0) > context_tokens
            if loses and (num_tokens(continuation) or 0) >= context_tokens:
                raise UserError(
                    f"benchmarks={problem.benchmark!r}: one option of {problem.problem_id} alone "
                    f"fills the model's context of {context_tokens} tokens: leave this benchmark "
                    "out"
                )
    return loses


def _fit(problem: Problem, num_tokens: Callable[[str], int | None], room: int) -> Problem:
    if not _may_exceed(problem.prompt, room):
        return problem
    tokens = num_tokens(problem.prompt)
    if tokens is None or tokens <= room:
        return problem
    # a cut at `high` fits, one at `low` does not
    low = 0
    high = len(problem.prompt)
    while high - low > 1:
        middle = (low + high) // 2
        if (num_tokens(problem.prompt[middle:]) or 0) <= room:
            high = middle
        else:
            low = middle
    return replace(
        problem, prompt=problem.prompt[high:], meta={**problem.meta, "cut_characters": high}
    )
