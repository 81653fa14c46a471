"""Score one answer to a task of reasoning-gym: in a confined process of its own, which ends with it.

What the gym's own scorers would evaluate never reaches them:

- `ARITHMETIC`: they get the answer written anew from a grammar of ours, integers with ``+ - * /`` (`formulas`);
- `INTEGRALS`: the scorer's own rule (the derivative, less the integrand, simplifies to 0) on objects made from that
  grammar. It has no ``Integral``: the question, copied, is no answer;
- `LISTS`: evaluated, an answer could earn a part of a point, which is no pass: right is what equals a right answer,
  letter by letter.
"""

from __future__ import annotations

import json
import random
import warnings
from typing import Any

import sympy

from eval_suite.grading.extract import plain_answer
from eval_suite.grading.formulas import NoFormula, arithmetic, formula
from eval_suite.grading.reasoning_gym import MARK, extract_answer, question_digest, task_dataset
from eval_suite.grading.sandbox.wire import Gone, recv_frame, send_frame
from eval_suite.records import Status

RIGHT = 1 - 1e-9
LONGEST_ANSWER = 20_000  # characters
ARITHMETIC = ("countdown", "puzzle24")
INTEGRALS = ("simple_integration", "intermediate_integration")
LISTS = ("string_insertion", "spiral_matrix", "binary_matrix", "n_queens")


def serve(channel: int) -> None:
    """Take a completion and its gold, and answer with what `grade` says."""
    random.seed(0)  # a verdict is the same again
    warnings.simplefilter("ignore")
    try:
        message = recv_frame(channel)
        send_frame(channel, list(grade(message["completion"], message["gold"])))
    except Gone:
        return


def grade(completion: str, gold: str) -> tuple[Status, str | None, str]:
    """Grade one completion: status, answer, and the score in words.

    A pass has the task's own answer, or its own where the task names none: many answers may be right.
    """
    where = json.loads(gold)
    entries = task_dataset(where["task"], where["size"], where["seed"], where.get("config"))
    entry = entries[where["index"]]
    if where.get("digest", question_digest(entry["question"])) != question_digest(entry["question"]):
        return "error", None, "the entry made again has another question"
    own = entry["answer"] if isinstance(entry["answer"], str) else ""
    answer = extract_answer(completion, lines=own.strip().count("\n") + 1)
    if answer is None:
        return "unparsed", None, f"no {MARK}"
    if len(answer) > LONGEST_ANSWER:
        return "fail", plain_answer(answer), "the answer is too long"
    try:
        score = _score(where["task"], answer, entries, entry)
    except MemoryError:
        raise
    except NoFormula as error:
        return "fail", plain_answer(answer), f"the answer is not what the task asks for: {error}"
    except Exception as error:  # of a task's own reading of an answer in a form that it does not expect
        return "fail", plain_answer(answer), f"the task cannot read it ({type(error).__name__})"
    reason = f"score {score:g}"
    if score >= RIGHT:
        return "pass", plain_answer(own or answer), reason
    return "fail", plain_answer(answer), reason


def _score(task: str, answer: str, entries: Any, entry: dict[str, Any]) -> float:
    if task in LISTS:
        right = entry["metadata"].get("valid_answers") or [entry["answer"]]
        return float(answer in [text.strip() for text in right])
    if task in INTEGRALS:
        return float(_is_integral(answer, entry["metadata"]))
    if task in ARITHMETIC:
        answer = arithmetic(answer)
    return float(entries.score_answer(answer, entry))


def _is_integral(answer: str, metadata: dict[str, Any]) -> bool:
    variable = sympy.Symbol(metadata["variable"])
    symbols = {metadata["variable"]: variable}
    rest = sympy.diff(formula(answer, symbols), variable) - formula(metadata["integrand"], symbols)
    return bool(sympy.simplify(rest) == 0)
