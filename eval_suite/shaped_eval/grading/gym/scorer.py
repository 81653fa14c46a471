"""Scores one answer to a task of reasoning-gym in a confined process that ends with it.

Text that the gym's own scorers would evaluate never reaches them:

- `ARITHMETIC`: they get the answer rewritten from a grammar of our own, integers with ``+ - * /``
(`formulas`);
- `INTEGRALS`: the scorer's own rule (the derivative minus the integrand simplifies to 0) is applied
to objects built from that grammar. It has no ``Integral``, because a copy of the question is not an
answer;
- `PUZZLE`: that the formula has the puzzle's numbers and the value 24 is decided here, because the
scorer would take any four numbers, and 24.5 for 24;
- the tasks of `comparisons`: only requests for the right answers arrive here, never answers.

An answer with nan or inf is wrong, unless the task's own answer has it: some scorers ask whether
an answer is far from the right one, and nan is not. For the tasks of `LETTERS`, which do, an answer
may have no other letters than a number can: spaces and escapes could hide the word.
"""

from __future__ import annotations

import json
import random
import re
import time
import warnings
from typing import Any

import sympy

from shaped_eval.grading.gym.comparisons import COMPARED_ALWAYS, LISTS
from shaped_eval.grading.gym.formulas import NoFormula, arithmetic, formula
from shaped_eval.grading.gym.grader import GradedAnswer, graded, question_digest, task_dataset
from shaped_eval.grading.sandbox.wire import Gone, recv_frame, send_frame

RIGHT = 1 - 1e-9
PUZZLE = "puzzle24"
ARITHMETIC = ("countdown", PUZZLE)
INTEGRALS = ("simple_integration", "intermediate_integration")
LETTERS = {"complex_arithmetic": frozenset("eij"), "number_sorting": frozenset("e")}
_NO_NUMBER = re.compile(r"(?<![^\W\d_])(?:nan|inf(?:inity)?)[ij]?(?![^\W\d_])", re.IGNORECASE)
# Limits of one reply of right answers beyond the requested entry. The characters are far fewer than
# fit in a frame.
MOST_ENTRIES = 1_000
MOST_CHARACTERS = 500_000
MOST_CPU_S = 0.1


def serve(channel: int) -> None:
    """Answer one message: a completion and gold with `grade`, a gold alone with `right_answers`."""
    random.seed(0)  # so that a verdict can be repeated
    warnings.simplefilter("ignore")
    try:
        message = recv_frame(channel)
        if "right" in message:
            send_frame(channel, right_answers(message["right"]))
        else:
            send_frame(channel, list(grade(message["completion"], message["gold"])))
    except Gone:
        return


def right_answers(gold: str) -> list[list[Any]]:
    """For this entry and those after it: index, digest, the task's own answer, all right ones."""
    entries, where = _entries(gold)
    found: list[list[Any]] = []
    characters = 0
    start_s = time.process_time()
    for index in range(where["index"], where["index"] + MOST_ENTRIES):
        if found and (
            index >= len(entries)
            or characters > MOST_CHARACTERS
            or time.process_time() - start_s > MOST_CPU_S
        ):
            break
        entry = entries[index]
        own = _own(entry)
        right = entry["metadata"].get("valid_answers") or [own] if where["task"] in LISTS else [own]
        found.append([index, question_digest(entry["question"]), own, right])
        characters += sum(map(len, right))
    return found


def grade(completion: str, gold: str) -> GradedAnswer:
    """Grade one completion; return status, answer, and the score in words."""
    entries, where = _entries(gold)
    entry = entries[where["index"]]
    if where.get("digest", question_digest(entry["question"])) != question_digest(
        entry["question"]
    ):
        return "error", None, "the entry made again has another question"

    def judge(answer: str) -> tuple[bool, str]:
        try:
            points = score(where["task"], answer, entries, entry)
        except MemoryError:
            raise
        except NoFormula as error:
            return False, f"the answer is not what the task asks for: {error}"
        # the task's own scorer fails on an answer of unexpected form
        except Exception as error:
            return False, f"the task cannot read it ({type(error).__name__})"
        return points >= RIGHT, f"score {points:g}"

    return graded(completion, _own(entry), judge)


def _entries(gold: str) -> tuple[Any, dict[str, Any]]:
    where = json.loads(gold)
    return task_dataset(where["task"], where["size"], where["seed"], where.get("config")), where


def _own(entry: dict[str, Any]) -> str:
    return entry["answer"] if isinstance(entry["answer"], str) else ""


def score(task: str, answer: str, entries: Any, entry: dict[str, Any]) -> float:
    """The points of an answer; a right one has 1.

    Raises:
        NoFormula: the answer has something that no right answer has.
    """
    assert task not in COMPARED_ALWAYS  # their scorers evaluate answers, or take wrong ones
    if _NO_NUMBER.search(answer) and not _NO_NUMBER.search(_own(entry)):
        raise NoFormula("nan and inf are not numbers")
    if task in LETTERS and not {*filter(str.isalpha, answer.lower())} <= LETTERS[task]:
        raise NoFormula("letters that no number has")
    if task in INTEGRALS:
        return float(_is_integral(answer, entry["metadata"]))
    if task in ARITHMETIC:
        answer = arithmetic(answer)
    if task == PUZZLE:
        return float(_is_solution(answer, entry["metadata"]["numbers"]))
    return float(entries.score_answer(answer, entry))


def _is_solution(answer: str, numbers: list[int]) -> bool:
    """Whether arithmetic has the value 24 and these numbers, each as often as here."""
    used = sorted(map(int, re.findall(r"\d+", answer)))
    return used == sorted(numbers) and bool(formula(answer) == 24)


def _is_integral(answer: str, metadata: dict[str, Any]) -> bool:
    variable = sympy.Symbol(metadata["variable"])
    symbols = {metadata["variable"]: variable}
    rest = sympy.diff(formula(answer, symbols), variable) - formula(metadata["integrand"], symbols)
    return bool(sympy.simplify(rest) == 0)
