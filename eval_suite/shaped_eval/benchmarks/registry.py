"""The table of benchmarks: where their rows are, how prompts are built, and who grades the answers.

`BENCHMARKS` holds those that are read from a data set, `GENERATED` those that a module of this
package makes, and `ELSEWHERE` those that stand in another package's table, which may need an extra.
To add one to the package is to add a row, and its licence in `terms`. A file of the user's is a
benchmark as well (`own`), and `suites` names sets of them.

The prompts of base models begin with worked examples, as many as ``--shots`` says. By default:

    gsm8k                            4   the first rows of the train split of the same data set
    math500, minerva, olympiadbench  4   written for this project (`worked_examples`)
    mbpp, mbppplus                   3   rows of each other's data sets that neither evaluates
    amc23, aime24 and the newer      0   with --shots those of math500: most answers are integers,
      competitions, beyondaime           and models trained by RL are asked without examples

The `meta` of each problem says how many there are, ``shots``, and whose, ``shots_source``. The
prompts of chat models have none.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from shaped_eval.benchmarks import code, gpqa, livecodebench, prompts
from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.benchmarks.own import is_own, name_of, read_own
from shaped_eval.benchmarks.prompts import Question
from shaped_eval.benchmarks.rows import Benchmark
from shaped_eval.benchmarks.worked_examples import MATH_EXAMPLES
from shaped_eval.errors import UserError
from shaped_eval.grading.text import ifeval


@dataclass(frozen=True)
class Elsewhere:
    """A benchmark in another package's table.

    Args:
        module: has ``problems(name, *, hub_mirror, limit, chat, shots) -> list[Problem]``, and is
            imported when the benchmark is used.
        package: the package that the module needs; whether it is installed is checked without
            importing it.
        extra: the extra of shaped-trl that installs the package.
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


def _contest(config: str) -> Benchmark:
    return Benchmark(
        livecodebench.DATA_SET,
        config,
        "test",
        livecodebench.read_livecodebench,
        livecodebench.CONTEST,
        "contest",
        date_of=livecodebench.date_of,
    )


def _competition(dataset_id: str) -> Benchmark:
    return _boxed(dataset_id, None, "train", prompts.read_competition, 0)


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
    "aime26": _competition("MathArena/aime_2026"),
    "hmmt_feb25": _competition("MathArena/hmmt_feb_2025"),
    "hmmt_feb26": _competition("MathArena/hmmt_feb_2026"),
    "brumo25": _competition("MathArena/brumo_2025"),
    "cmimc25": _competition("MathArena/cmimc_2025"),
    "beyondaime": _boxed("ByteDance-Seed/BeyondAIME", None, "test", prompts.read_beyondaime, 0),
    "gpqa_diamond": Benchmark(
        "Idavidrein/gpqa", "gpqa_diamond", "train", gpqa.read_gpqa, gpqa.OPTIONS, "choice"
    ),
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
    "ifeval": Benchmark(
        "google/IFEval",
        None,
        "train",
        prompts.read_ifeval,
        prompts.PLAIN,
        "ifeval",
        missing=ifeval.missing,
    ),
    "livecodebench": _contest("release_v6"),
    "livecodebench_v6": _contest("v6"),
}

# name -> module with `problems() -> list[Problem]`, which is imported when it is used
GENERATED: dict[str, str] = {"running_sums": "shaped_eval.benchmarks.running_sums"}

ELSEWHERE: dict[str, Elsewhere] = {
    "chain_sum": Elsewhere("shaped_eval.benchmarks.chain_sum", "reasoning_gym", "tasks"),
    **{
        name: Elsewhere("shaped_eval.benchmarks.harness.problems", "lm_eval", "lm-eval")
        for name in HARNESS
    },
}


def benchmark_of(name: str) -> Benchmark:
    """The benchmark that has a row in `BENCHMARKS`, or that a file of the user's defines.

    Raises:
        UserError: as `check_names` and `read_own`, or the benchmark is of another table.
    """
    check_names([name])
    if is_own(name):
        return read_own(name)
    if name not in BENCHMARKS:
        raise UserError(
            f"benchmark={name!r} is made by a program or by another package: "
            f"use one of {', '.join(BENCHMARKS)}, or a file of your own"
        )
    return BENCHMARKS[name]


def has_examples(name: str) -> bool:
    """Whether a benchmark has worked examples for the prompts of base models."""
    if name in HARNESS:
        return HARNESS[name].shots > 0
    if not is_own(name) and name not in BENCHMARKS:
        return False
    benchmark = benchmark_of(name)
    return bool(benchmark.examples or benchmark.shots_split or benchmark.shots_from)


def check_names(names: Sequence[str]) -> None:
    """Check names of benchmarks, and files of the user's that define some; no rows are read.

    Raises:
        UserError: there is no name, one is unknown or stands twice, an extra is missing, or a file
            is wrong or has the name of a shipped benchmark.
    """
    known = [*BENCHMARKS, *GENERATED, *ELSEWHERE]
    if not names:
        raise UserError(
            f"benchmarks is empty: name some of {', '.join(known)}, separated by commas, "
            "a file of your own such as ./mine.yaml, or a suite"
        )
    _check_known([name for name in names if not is_own(name)], known)
    for name in filter(is_own, names):
        if name_of(name) in known:
            raise UserError(
                f"benchmark={name!r} has the name of the shipped benchmark {name_of(name)!r}: "
                "rename the file"
            )
        read_own(name)
    _check_different(names)
    _check_extras([name for name in names if name in ELSEWHERE])


def _check_known(names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if not unknown:
        return
    close = difflib.get_close_matches(unknown[0], known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    what = ", ".join(map(repr, unknown)) + (" is" if len(unknown) == 1 else " are")
    raise UserError(
        f"benchmarks: {what} unknown: the known ones are {', '.join(known)}, "
        f"and paths of .yaml or .jsonl files{guess}"
    )


def _check_different(names: Sequence[str]) -> None:
    called = [name_of(name) for name in names]
    for name in called:
        if called.count(name) > 1:
            raise UserError(f"benchmarks: {name!r} is named more than once: name each once")


def _check_extras(names: Sequence[str]) -> None:
    missing = [name for name in names if not _is_importable(ELSEWHERE[name].package)]
    if missing:
        where = ELSEWHERE[missing[0]]
        raise UserError(
            f"benchmarks: the package {where.package!r} is not installed; "
            f"it is needed for {', '.join(missing)}: "
            f"pip install 'shaped-trl[{where.extra}]', or leave them out"
        )


def _is_importable(package: str | None) -> bool:
    return package is None or importlib.util.find_spec(package) is not None


def missing(name: str) -> str | None:
    """What this machine lacks to grade the answers of a benchmark of the table, in words."""
    benchmark = BENCHMARKS.get(name)
    return benchmark.missing() if benchmark is not None and benchmark.missing is not None else None


def check_at_hand(names: Sequence[str]) -> None:
    """Check that the answers can be graded here, before any are sampled.

    Raises:
        UserError: something is `missing`.
    """
    for name in names:
        if lacks := missing(name):
            raise UserError(f"benchmarks: {name} cannot be graded here: {lacks}, or leave it out")


def check_shots(shots: int | None, chat: bool) -> None:
    """Check the number of worked examples of a run; None stands for each benchmark's own.

    Raises:
        UserError: it is negative, or it is not 0 in a run that asks in chats.
    """
    if shots is not None and shots < 0:
        raise UserError(
            f"shots={shots} is out of range: "
            "use 0 or more, or leave it out for each benchmark's own number"
        )
    if shots and chat:
        raise UserError(
            f"shots={shots} does not go with chat_template=True, "
            "because chats have no worked examples: leave one of them out"
        )


def day(name: str, text: str) -> str:
    """A day that the user gave, as 2025-01-31.

    Args:
        name: of the option.

    Raises:
        UserError: it is not a day in this form.
    """
    try:
        if (given := date.fromisoformat(text).isoformat()) == text:
            return given
    except (ValueError, TypeError):
        pass
    raise UserError(f"{name}={text!r} is not a day: write it as 2025-01-31")


def check_since(since: str | None, names: Sequence[str]) -> None:
    """Check the day from which problems are used.

    Raises:
        UserError: it is not a day, or no benchmark of `names` has dates.
    """
    if since is None:
        return
    day("since", since)
    dated = [name for name, benchmark in BENCHMARKS.items() if benchmark.date_of is not None]
    if not set(dated) & set(names):
        raise UserError(
            f"since={since!r} has no meaning for {', '.join(names)}, whose problems have no "
            f"dates: leave it out, or name one of {', '.join(dated)}"
        )
