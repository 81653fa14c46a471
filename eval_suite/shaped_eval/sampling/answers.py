"""Reads answers that were generated elsewhere as problems and samples.

The rows are ``{"problem_id", "completions": [...], "gold"?}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading import TAKE_ALIASES
from shaped_eval.records import Problem, Sample
from shaped_eval.untrusted.texts import encodable

# "Benchmarks" that accept any problem and are graded by the grader of that name.
ANY = ("math", "choice", "exact_match", "text")


def read_answers(
    answers_file: str | Path, benchmark: str, hub_mirror: str | Path | None = None
) -> Iterator[tuple[Problem, list[Sample]]]:
    """Yield each row of a JSONL file as a problem and its samples, in order; `tokens` is 0.

    Fields of a row (others are ignored):
        problem_id: the benchmark's own id, with or without the prefix ``<benchmark>/``, or the
            problem's index in the benchmark, counted from 0. In a row with a gold it can be any
            name.
        gold: a text, a number, or a list of texts that are all right. It replaces the benchmark's.
        completions: a list of texts, equally many in each row.

    The benchmarks ``math``, ``choice``, ``exact_match`` and ``text`` accept any problem and are
    graded by the grader of that name: problem_id is any name, and gold is required.

    Raises:
        UserError: the benchmark is unknown, or the file or a row is invalid. The message names the
            place and the field, and says what to do.
    """
    path = Path(answers_file)
    if not path.is_file():
        raise UserError(
            f"answers={str(path)!r} is not a file: give a JSONL file of rows with problem_id and "
            "completions"
        )
    return _read(path, benchmark, None if benchmark in ANY else _Known(benchmark, hub_mirror))


def _read(
    path: Path, benchmark: str, known: _Known | None
) -> Iterator[tuple[Problem, list[Sample]]]:
    seen: set[str] = set()
    n = None
    for where, row in _rows(path):
        problem = _any(benchmark, row, where) if known is None else known.find(row, where)
        if problem.problem_id in seen:
            raise UserError(
                f"{where}: problem_id {row['problem_id']!r} occurs in an earlier row: give all "
                "completions in one row"
            )
        seen.add(problem.problem_id)
        completions = _completions(row, where)
        if n is not None and len(completions) != n:
            raise UserError(
                f"{where}: completions has {len(completions)} entries, but earlier rows have {n}: "
                "give each problem the same number"
            )
        n = len(completions)
        yield (
            problem,
            [Sample(problem.problem_id, index, text) for index, text in enumerate(completions)],
        )
    if n is None:
        raise UserError(f"answers={str(path)!r} has no rows: give one row for each problem")


class _Known:
    """The problems of a benchmark, which can be found by id or by index."""

    def __init__(self, benchmark: str, hub_mirror: str | Path | None) -> None:
        from shaped_eval.benchmarks.loading import load_problems
        from shaped_eval.benchmarks.own import is_own, name_of
        from shaped_eval.benchmarks.registry import BENCHMARKS, ELSEWHERE, GENERATED

        known = [*ANY, *BENCHMARKS, *GENERATED, *ELSEWHERE]
        if benchmark not in known and not is_own(benchmark):
            raise UserError(
                f"benchmark={benchmark!r} is unknown: the known ones are {', '.join(known)}, "
                "and paths of .yaml or .jsonl files"
            )
        self._benchmark = name_of(benchmark)
        # which worked examples the other model was shown is not known
        self._problems = load_problems([benchmark], hub_mirror=hub_mirror, shots=0)
        self._by_id = {problem.problem_id: problem for problem in self._problems}

    def find(self, row: Mapping[str, Any], where: str) -> Problem:
        name = _name(row, where)
        problem = self._by_id.get(name) or self._by_id.get(f"{self._benchmark}/{name}")
        grader = self._problems[0].grader
        gold = _gold(row, where, grader)
        if (
            gold is not None
        ):  # a number is then not an index, because it may be another problem's id
            own_id = f"{self._benchmark}/{name.removeprefix(self._benchmark + '/')}"
            problem = problem or Problem(own_id, self._benchmark, "", gold, grader)
            return _as_answered(replace(problem, gold=gold))
        if problem is None and name.isdecimal() and int(name) < len(self._problems):
            problem = self._problems[int(name)]
        if problem is None:
            raise UserError(
                f"{where}: problem_id={row['problem_id']!r} is neither an id of {self._benchmark} "
                f"nor an index below {len(self._problems)}: use one such as "
                f"{self._problems[0].problem_id!r} or 0"
            )
        return _as_answered(problem)


def _as_answered(problem: Problem) -> Problem:
    """The problem without `n` and `decoding`, which are not known for answers from elsewhere."""
    unknown = ("n", "decoding")
    return replace(
        problem, meta={key: value for key, value in problem.meta.items() if key not in unknown}
    )


def _any(benchmark: str, row: Mapping[str, Any], where: str) -> Problem:
    gold = _gold(row, where, grader=benchmark)
    if gold is None:
        raise UserError(f'{where}: gold is missing: benchmark "{benchmark}" needs it in each row')
    name = _name(row, where).removeprefix(f"{benchmark}/")
    return Problem(f"{benchmark}/{name}", benchmark, prompt="", gold=gold, grader=benchmark)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row with its place. Unlike in our own files, the last line needs no newline."""
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:  # not JSON, or not UTF-8
                raise UserError(
                    f"{where}: the line is not JSON ({error}): give one object per line"
                ) from error
            if not isinstance(row, dict):
                raise UserError(
                    f"{where}: the row is a {type(row).__name__}: give an object with problem_id "
                    "and completions"
                )
            yield where, row


def _name(row: Mapping[str, Any], where: str) -> str:
    name = row.get("problem_id")
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise UserError(
            f"{where}: problem_id={name!r} is not an id: give the benchmark's id or the problem's "
            "index"
        )
    return encodable(str(name))


def _completions(row: Mapping[str, Any], where: str) -> list[str]:
    completions = row.get("completions")
    if not isinstance(completions, list) or not completions:
        raise UserError(
            f"{where}: completions={_short(completions)} is not a list of one or more texts: give "
            "one"
        )
    for index, text in enumerate(completions):
        if not isinstance(text, str):
            raise UserError(
                f"{where}: completions[{index}]={_short(text)} is not a text: give a string"
            )
    return [encodable(text) for text in completions]


def _gold(row: Mapping[str, Any], where: str, grader: str) -> str | None:
    gold = row.get("gold")
    if gold is None:
        return None
    if (
        isinstance(gold, list)
        and grader in TAKE_ALIASES
        and gold
        and all(isinstance(one, str) for one in gold)
    ):
        return encodable(json.dumps(gold, ensure_ascii=False))
    is_number = isinstance(gold, int | float) and not isinstance(gold, bool) and math.isfinite(gold)
    if not is_number and not (isinstance(gold, str) and gold.strip()):
        raise UserError(
            f"{where}: gold={_short(gold)} is neither a text nor a number: give one, or leave "
            "gold out"
        )
    return encodable(str(gold))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
