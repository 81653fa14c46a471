r"""Grades short answers in words against gold aliases, after SQuAD's normalisation.

The normalisation is that of SQuAD (arXiv 1606.05250): lower case, without punctuation and articles,
with single spaces. There are two departures. Punctuation is all of Unicode's, so that dashes and
quotation marks of every kind are removed. An answer of which nothing would remain (``The The``)
keeps its articles.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata

from shaped_eval.grading.extract import plain_answer, without_reasoning
from shaped_eval.grading.text.statements import final_statement, first_answer, readings
from shaped_eval.records import Status

ANSWER_CHARACTERS = 1_000
_EMPTY_TAG = re.compile(r"<answer>\s{0,80}</answer>", re.IGNORECASE)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade a short answer. `gold` is one alias, or several as a JSON list of strings.

    The answer is what the completion states (``<answer>``, a box, "the answer is"), or else its
    first line, because a base model continues after it. Reasoning in ``<think>`` tags is dropped.
    The whole answer must equal an alias. Every pass has the first alias as its `answer`.
    """
    completion = without_reasoning(completion)
    aliases = [form for form in map(comparable, gold_aliases(gold)) if form]
    statement = final_statement(completion)
    given = readings(statement) if statement is not None else [_first_line(completion)]
    answers = [comparable(text[:ANSWER_CHARACTERS]) for text in given]
    if any(answer in aliases for answer in answers):
        return "pass", plain_answer(aliases[0])
    if not normalized(answers[-1]):
        return "unparsed", None
    return "fail", plain_answer(answers[-1])


def gold_aliases(gold: str) -> list[str]:
    """The aliases of a gold: those of a JSON list of strings, or the gold itself."""
    if gold.lstrip().startswith("["):
        try:
            aliases = json.loads(gold)
        except ValueError:
            return [gold]
        if (
            isinstance(aliases, list)
            and aliases
            and all(isinstance(alias, str) for alias in aliases)
        ):
            return aliases
    return [gold]


def normalized(text: str) -> str:
    """SQuAD's normal form of a short text."""
    lowered = "".join(character for character in text.lower() if not _is_punctuation(character))
    return " ".join(_ARTICLES.sub(" ", lowered).split()) or " ".join(lowered.split())


def comparable(text: str) -> str:
    """The normal form, or the text itself if it has nothing but punctuation, such as ``==``.

    Otherwise an answer of other punctuation, or none at all, would equal it.
    """
    return normalized(text) or " ".join(text.split())


def _is_punctuation(character: str) -> bool:
    return (
        character in string.punctuation
        or unicodedata.category(character).startswith("P")
        or character in "´`"
    )


def _first_line(completion: str) -> str:
    text = _EMPTY_TAG.sub("", first_answer(completion))
    return next((line for line in text.splitlines() if line.strip()), "")
