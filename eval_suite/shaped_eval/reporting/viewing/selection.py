"""Which samples of a run to show: by benchmark, verdict, length, agreement and words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from shaped_eval.errors import UserError
from shaped_eval.reporting.examples import prompt_text
from shaped_eval.reporting.viewing.index import AGREEMENTS, VERDICTS, Numbers, RunIndex
from shaped_eval.untrusted.rows import MOST, shortened

TRUNCATED = "truncated"


@dataclass(frozen=True)
class Selection:
    """What a reader asks for; an empty text admits everything.

    Attributes:
        benchmark: a benchmark's name.
        verdict: one of `VERDICTS`, or `TRUNCATED`.
        agreement: one of `AGREEMENTS`.
        shortest, longest: bounds of the length, both included, as decimal digits.
        words: a text that occurs in the completion, or in the problem's id, gold or own prompt;
            capitals and small letters are the same.

    Raises:
        UserError: a value is none of these.
    """

    benchmark: str = ""
    verdict: str = ""
    agreement: str = ""
    shortest: str = ""
    longest: str = ""
    words: str = ""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("verdict", (*VERDICTS, TRUNCATED)),
            ("agreement", AGREEMENTS),
        ):
            value = getattr(self, name)
            if value and value not in allowed:
                raise UserError(f"{name}={shortened(value)}: choose from {', '.join(allowed)}")
        for name in ("shortest", "longest"):
            value = getattr(self, name)
            if value and not (value.isascii() and value.isdigit() and len(value) < len(str(MOST))):
                raise UserError(f"{name}={shortened(value)} is not a whole number from 0")

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Selection:
        """The selection that an address names; its other fields are ignored."""
        names = cls.__dataclass_fields__
        return cls(**{name: value.strip() for name, value in query.items() if name in names})

    def fields(self) -> dict[str, str]:
        """The fields of an address that name the selection."""
        return {name: value for name, value in asdict(self).items() if value}


def select(index: RunIndex, selection: Selection) -> Numbers:
    """The rows of `index` that are selected, in order."""
    rows = index.rows
    kept_S = np.ones(len(index), dtype=np.bool_)
    if selection.benchmark:
        kept_P = np.array([name == selection.benchmark for name in index.benchmarks], dtype=bool)
        kept_S &= kept_P[rows.problem_S]
    if selection.verdict == TRUNCATED:
        kept_S &= rows.truncated_S
    elif selection.verdict:
        kept_S &= rows.status_S == VERDICTS.index(selection.verdict)
    if selection.agreement:
        kept_S &= rows.agreement_S == AGREEMENTS.index(selection.agreement)
    if selection.shortest:
        kept_S &= rows.length_S >= int(selection.shortest)
    if selection.longest:
        kept_S &= rows.length_S <= int(selection.longest)
    if selection.words:
        kept_S &= _with_words(index, selection.words.lower(), kept_S)
    return np.flatnonzero(kept_S)


def own_prompt(index: RunIndex, benchmark: str, prompt: str) -> str:
    """The prompt without the beginning that all prompts of its benchmark share."""
    return prompt_text(prompt)[len(index.starts[benchmark]) :]


def _with_words(index: RunIndex, words: str, asked_S: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the samples asked for have the words, or belong to a problem that has them."""
    problem_S = index.rows.problem_S
    asked = np.unique(problem_S[asked_S])
    found_P = np.zeros(len(index.problem_ids), dtype=np.bool_)
    for number in asked:
        problem = index.problem(int(number))
        prompt = own_prompt(index, problem.benchmark, problem.prompt)
        found_P[number] = any(
            words in text.lower() for text in (problem.problem_id, prompt, problem.gold)
        )
    found_S = found_P[problem_S]
    line_part = _as_in_json(words)
    for row in np.flatnonzero(asked_S & ~found_S).tolist():
        if line_part in index.raw(row).lower():
            found_S[row] = words in index.completion(row).lower()
    return found_S


def _as_in_json(words: str) -> bytes:
    """The words as every line has them that contains them; empty where writers of JSON differ.

    They escape other characters than those of ASCII, and the slash, or they do not.
    """
    if not words.isascii() or "/" in words:
        return b""
    return json.dumps(words)[1:-1].encode()
