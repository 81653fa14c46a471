"""Benchmarks by name: where their rows are, how a prompt is built, what ends a completion, who
grades it.

One table, `BENCHMARKS`, for those read from a data set; `GENERATED` for those a module makes;
`ELSEWHERE` for those of other packages' tables, which may need an extra. Adding one is adding a
row. `suites` names sets of them.

Prompts of base models begin with worked examples, `--shots N` of them. By default:

    gsm8k                            4   the first rows of the train split of the same source
    math500, minerva, olympiadbench  4   written for this project (`worked_examples`)
    mbpp, mbppplus                   3   rows of each other's data sets that neither evaluates (`code`)
    amc23, aime24, aime25            0   the same ones with --shots: answers there are integers, and models trained
                                         by RL, which these sets are for, are asked without examples

Each problem's `meta` says how many, ``shots``, and whose, ``shots_source``. Chat models get no
examples.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks import code, prompts
from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.benchmarks.prompts import Question, Style
from shaped_eval.benchmarks.worked_examples import MATH_EXAMPLES
from shaped_eval.errors import UserError


@dataclass(frozen=True)
class Benchmark:
    """One row of the table.

    `shots` worked examples begin a base prompt by default: the first rows of `shots_split`, or of
    `examples` where the data set has no split to take them from, or what `shots_from(hub_mirror,
    shots)` reads elsewhere. With none of them a benchmark has no examples to ask for.
    """

    dataset_id: str
    config: str | None
    split: str
    read: Callable[[Mapping[str, Any]], Question]
    style: Style
    grader: str
    shots: int = 0
    shots_split: str | None = None
    examples: tuple[Question, ...] = ()
    shots_from: Callable[[str | Path | None, int], tuple[list[Question], str]] | None = None


@dataclass(frozen=True)
class Elsewhere:
    """Where the problems of a benchmark come from that is in another package's table.

    module: has ``problems(name, *, hub_mirror, limit, chat, shots) -> list[Problem]``; imported
        when asked for.
    package: what it needs to import, checked without importing it.
    extra: the extra of shaped-trl that installs it.
    """

    module: str
    package: str | None = None
    extra: str | None = None


def _boxed(
    dataset_id: str, config: str | None, split: str, read: Callable[..., Question], shots: int
) -> Benchmark:
    return Benchmark(
        dataset_id,
        config,
        split,
        read,
        prompts.PROBLEM_BOXED,
        "math",
        shots,
        examples=MATH_EXAMPLES,
    )


BENCHMARKS: dict[str, Benchmark] = {
    "gsm8k": Benchmark(
        "openai/gsm8k",
        "main",
        "test",
        prompts.read_gsm8k,
        prompts.QUESTION_ANSWER,
        "gsm8k",
        4,
        shots_split="train",
    ),
    "math500": _boxed("HuggingFaceH4/MATH-500", None, "test", prompts.read_math500, 4),
    "minerva": _boxed("math-ai/minervamath", None, "test", prompts.read_minerva, 4),
    "olympiadbench": _boxed(
        "Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train", prompts.read_olympiadbench, 4
    ),
    "amc23": _boxed("math-ai/amc23", None, "test", prompts.read_amc, 0),
    "aime24": _boxed("HuggingFaceH4/aime_2024", None, "train", prompts.read_aime, 0),
    "aime25": _boxed("math-ai/aime25", None, "test", prompts.read_aime, 0),
    "humaneval": Benchmark(
        "openai/openai_humaneval",
        "openai_humaneval",
        "test",
        code.read_humaneval,
        code.FUNCTION,
        "code",
    ),
    "humanevalplus": Benchmark(
        "evalplus/humanevalplus", None, "test", code.read_humaneval, code.FUNCTION, "code"
    ),
    "mbpp": Benchmark(
        *code.MBPP, code.read_mbpp, code.TASK_AND_TESTS, "code", 3, shots_from=code.mbpp_examples
    ),
    "mbppplus": Benchmark(
        *code.MBPP_PLUS,
        code.read_mbppplus,
        code.TASK_AND_TESTS,
        "code",
        3,
        shots_from=code.mbppplus_examples,
    ),
}

# name -> module with `problems() -> list[Problem]`; imported when asked for.
GENERATED: dict[str, str] = {"running_sums": "shaped_eval.benchmarks.running_sums"}

ELSEWHERE: dict[str, Elsewhere] = {
    "chain_sum": Elsewhere("shaped_eval.benchmarks.chain_sum", "reasoning_gym", "tasks"),
    **{
        name: Elsewhere("shaped_eval.benchmarks.harness.problems", "lm_eval", "lm-eval")
        for name in HARNESS
    },
}


def has_examples(name: str) -> bool:
    if name in HARNESS:
        return HARNESS[name].shots > 0
    benchmark = BENCHMARKS.get(name)
    return benchmark is not None and bool(
        benchmark.examples or benchmark.shots_split or benchmark.shots_from
    )


def check_names(names: Sequence[str]) -> None:
    """Raise UserError for no, an unknown or a repeated benchmark, or one whose extra is missing;
    reads nothing."""
    known = [*BENCHMARKS, *GENERATED, *ELSEWHERE]
    if not names:
        raise UserError(
            f"benchmarks is empty: name some of {', '.join(known)}, separated by commas, or a suite"
        )
    unknown = [name for name in names if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        what = ", ".join(map(repr, unknown)) + (" is" if len(unknown) == 1 else " are")
        raise UserError(f"benchmarks: {what} unknown: the known ones are {', '.join(known)}{guess}")
    for name in names:
        if list(names).count(name) > 1:
            raise UserError(f"benchmarks: {name!r} is named more than once: name each once")
    _check_extras([name for name in names if name in ELSEWHERE])


def _check_extras(names: Sequence[str]) -> None:
    missing = [name for name in names if not _is_importable(ELSEWHERE[name].package)]
    if missing:
        where = ELSEWHERE[missing[0]]
        raise UserError(
            f"benchmarks: no package {where.package!r} is installed, which is needed for {', '.join(missing)}: "
            f"pip install 'shaped-trl[{where.extra}]', or leave them out"
        )


def _is_importable(package: str | None) -> bool:
    return package is None or importlib.util.find_spec(package) is not None


def check_shots(shots: int | None, chat: bool) -> None:
    """Raise UserError for a negative number of worked examples, and for any in a chat."""
    if shots is not None and shots < 0:
        raise UserError(
            f"shots={shots} is out of range: use 0 or more, or leave it out for each benchmark's own"
        )
    if shots and chat:
        raise UserError(
            f"shots={shots}, but chat_template is on, and chats have no worked examples: leave out one"
        )
