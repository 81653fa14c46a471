"""How the rows of the shipped data sets become questions, and a question becomes a prompt.

A base model gets a plain text to continue, which begins with worked examples. A chat model gets
the question and an instruction as one message of the user, without examples. The sampler puts that
message into the model's chat template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shaped_eval.grading.text.ifeval import ifeval_gold

BOXED_INSTRUCTION = "Reason step by step, and put the final answer within \\boxed{}."
HASHES_INSTRUCTION = (
    "Reason step by step, and give the final number on a last line that starts with ####."
)

_CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")


Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Question:
    """What a row holds.

    Args:
        text: the question, without instructions or examples.
        gold: the right answer, as the grader reads it.
        own_id: the row's id in its data set; None if it has none, and the row's index replaces it.
        solution: the answer that follows the question where it is a worked example.
        meta: what else a problem records.
        messages: the chat that the data set has in place of a text; `text` holds its contents.
    """

    text: str
    gold: str
    own_id: str | None = None
    solution: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    messages: Messages | None = None


@dataclass(frozen=True)
class Style:
    """How a question becomes a prompt.

    Args:
        base: format string of ``question`` for base models.
        chat: format string of ``question`` for chat models.
        stop: strings that end a base model's completion.
        between: stands between the question of a worked example and its solution.
    """

    base: str
    chat: str
    stop: tuple[str, ...]
    between: str = " "


QUESTION_ANSWER = Style(
    base="Question: {question}\nAnswer:",
    chat="{question}\n\n" + HASHES_INSTRUCTION,
    stop=("\nQuestion:",),
)
PLAIN = Style(base="{question}", chat="{question}", stop=())
PROBLEM_BOXED = Style(
    base="Problem: {question}\n" + BOXED_INSTRUCTION.replace("{}", "{{}}") + "\n\nSolution:",
    chat="{question}\n\n" + BOXED_INSTRUCTION.replace("{}", "{{}}"),
    stop=("\nProblem:",),
)


def read_gsm8k(row: Mapping[str, Any]) -> Question:
    """GSM8K (arXiv 2110.14168), whose gold follows ``####``.

    Calculator notes such as ``<<48/2=24>>`` are removed from the solution.
    """
    solution, _, gold = row["answer"].rpartition("####")
    worked = _CALCULATOR_NOTE.sub("", solution).strip()
    return Question(row["question"], gold.strip(), solution=f"{worked}\n#### {gold.strip()}")


def read_math500(row: Mapping[str, Any]) -> Question:
    """MATH-500 (arXiv 2305.20050, its 500 test problems)."""
    meta = {"subject": row["subject"], "level": row["level"]}
    return Question(row["problem"], row["answer"], own_id=row["unique_id"], meta=meta)


def read_aime(row: Mapping[str, Any]) -> Question:
    """AIME, whose answers are integers from 0 to 999."""
    return Question(row["problem"], str(row["answer"]).strip(), own_id=str(row["id"]))


def read_competition(row: Mapping[str, Any]) -> Question:
    """Competitions as MathArena has them (arXiv 2505.23281), whose answers are LaTeX or integers.

    The types of a problem, such as Combinatorics, become its subject where the data set has them.
    """
    types = row.get("problem_type") or []
    meta = {"subject": ", ".join(types)} if types else {}
    answer = str(row["answer"]).strip()
    return Question(row["problem"], answer, own_id=str(row["problem_idx"]), meta=meta)


def read_beyondaime(row: Mapping[str, Any]) -> Question:
    """BeyondAIME, whose answers are integers; the rows have no ids."""
    return Question(row["problem"], str(row["answer"]).strip())


def read_ifeval(row: Mapping[str, Any]) -> Question:
    """IFEval, whose prompts are asked as they are."""
    return Question(row["prompt"], ifeval_gold(row), own_id=str(row["key"]))


def read_amc(row: Mapping[str, Any]) -> Question:
    """AMC 12 of 2023 without the choices.

    An answer is an integer, or a float that equals one, such as ``27.0``.
    """
    return Question(row["question"], str(row["answer"]).strip(), own_id=str(row["id"]))


def read_minerva(row: Mapping[str, Any]) -> Question:
    """Minerva's 272 problems of undergraduate science (arXiv 2206.14858, OCWCourses)."""
    return Question(row["question"], row["answer"].strip())


def read_olympiadbench(row: Mapping[str, Any]) -> Question:
    """OlympiadBench (arXiv 2402.14008), open-ended problems in English.

    The parts of an answer are joined by commas. The unit and the tolerance of the answer are
    columns, and become part of the gold. The mathematics grader reads the tolerance in the form
    ``\\tolerance{1e-1}``.
    """
    gold = ", ".join(answer.strip() for answer in row["final_answer"])
    if row["unit"]:
        unit = row["unit"].strip("$ ")
        gold += {"%": "\\%", "^{\\circ}": "^{\\circ}"}.get(unit, f"\\text{{ {unit}}}")
    if row["error"]:
        gold += f"\\tolerance{{{row['error']}}}"
    meta = {"subject": row["subfield"], "answer_type": row["answer_type"]}
    question = f"{row['context']}\n\n{row['question']}" if row["context"] else row["question"]
    return Question(question, gold, own_id=str(row["id"]), meta=meta)


def base_prompt(style: Style, question: str, shots: Sequence[Question]) -> str:
    """The prompt of a base model: worked examples and the question, separated by empty lines."""
    worked = [
        f"{style.base.format(question=shot.text)}{style.between}{shot.solution}" for shot in shots
    ]
    return "\n\n".join([*worked, style.base.format(question=question)])


def chat_prompt(style: Style, question: str) -> str:
    """The user's message to a chat model."""
    return style.chat.format(question=question)


def chat_messages(style: Style, question: Question) -> Messages:
    """The chat that the data set has, or else one message of the user."""
    if question.messages is not None:
        return question.messages
    return [{"role": "user", "content": chat_prompt(style, question.text)}]
