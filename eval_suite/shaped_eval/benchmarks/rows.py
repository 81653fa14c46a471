"""A row of a data set becomes a question with its gold answer, and the question a prompt.

Evaluation (`shaped_eval.benchmarks.loading`) and reinforcement learning (`shaped-trl rlvr`) both
read their rows here, so that a model is trained on what it is evaluated on.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.prompts import (
    Messages,
    Question,
    Style,
    base_prompt,
    chat_messages,
)
from shaped_eval.benchmarks.templates import check_templates, fill, template_fields
from shaped_eval.errors import UserError
from shaped_eval.grading.extract import last_boxed

# What a reader raises on a row that does not have the fields, or the contents, that it expects.
_UNREADABLE = (KeyError, TypeError, AttributeError, ValueError, SyntaxError, StopIteration)


@dataclass(frozen=True)
class Benchmark:
    """A data set of problems: where its rows are, how they are read, and who grades the answers.

    Args:
        dataset_id: id on the Hub, or the path of a .jsonl file.
        config: configuration of the data set on the Hub; None for the default one.
        split: the split that is evaluated.
        read: makes a question out of a row.
        style: makes a prompt out of a question.
        grader: name of the grader.
        shots: number of worked examples that a base model's prompt begins with by default.
        shots_split: split, or path of a .jsonl file, whose first rows are the worked examples.
        read_example: makes a worked example out of a row of `shots_split`; None for `read`.
        examples: the worked examples, where the data set has no split to take them from.
        shots_from: ``(hub_mirror, shots)`` → the worked examples and their source, where they are
            read from elsewhere. A benchmark that has none of these three has no worked examples.
        chat: whether the prompts are messages for a chat model; None if the run decides.
        missing: says what this machine lacks to grade the answers; None if it lacks nothing.
        date_of: row → the day on which its problem was published, as 2025-01-31; None where the
            data set has no dates.
    """

    dataset_id: str
    config: str | None
    split: str
    read: Callable[[Mapping[str, Any]], Question]
    style: Style
    grader: str
    shots: int = 0
    shots_split: str | None = None
    read_example: Callable[[Mapping[str, Any]], Question] | None = None
    examples: tuple[Question, ...] = ()
    shots_from: Callable[[str | Path | None, int], tuple[list[Question], str]] | None = None
    chat: bool | None = None
    missing: Callable[[], str | None] | None = None
    date_of: Callable[[Mapping[str, Any]], str] | None = None


@dataclass(frozen=True)
class ColumnReader:
    """Reads a row by templates over its columns, such as ``"Question: {question}\\nAnswer:"``.

    Args:
        prompt_template: builds the prompt; None for the column ``prompt``, which holds a text or
            the messages of a chat.
        gold_template: builds the gold answer; None for the column ``gold``.
        solution_template: builds the answer of a worked example; None for the gold answer.
        boxed_golds: replace a gold text that has a boxed answer by that answer.
    """

    prompt_template: str | None = None
    gold_template: str | None = None
    solution_template: str | None = None
    boxed_golds: bool = False

    def __call__(self, row: Mapping[str, Any]) -> Question:
        prompt = self._prompt(row)
        gold = self._gold(row)
        solution = gold
        if self.solution_template is not None:
            solution = fill("solution", self.solution_template, row)
        if isinstance(prompt, str):
            return Question(prompt, gold, solution=solution)
        text = "\n\n".join(message["content"] for message in prompt)
        return Question(text, gold, solution=solution, messages=prompt)

    def columns(self, present: Sequence[str]) -> list[str]:
        """The columns that are read, of those that are `present`.

        Raises:
            UserError: a template names a column that is not there, or a column is missing.
        """
        templates = {
            name: template
            for name in ("prompt", "gold", "solution")
            if (template := getattr(self, f"{name}_template")) is not None
        }
        check_templates(templates, present)
        plain = {"prompt", "gold"} - set(templates)
        missing = sorted(plain - set(present))
        if missing:
            raise UserError(
                f"the data has the columns {list(present)}, not {missing}: "
                f"build them with {' and '.join(f'{name}_template' for name in missing)}"
            )
        paths = [path for item in templates.items() for path in template_fields(*item)]
        read = plain | {re.split(r"[.\[]", path)[0] for path in paths}
        return [name for name in present if name in read]

    def _prompt(self, row: Mapping[str, Any]) -> str | Messages:
        if self.prompt_template is not None:
            return fill("prompt", self.prompt_template, row)
        prompt = row["prompt"]
        if prompt is None or isinstance(prompt, str):
            return prompt or ""
        if not isinstance(prompt, list) or not all(map(_is_message, prompt)):
            raise ValueError("prompt is neither a text nor a list of messages")
        return [{"role": message["role"], "content": message["content"]} for message in prompt]

    def _gold(self, row: Mapping[str, Any]) -> str:
        if self.gold_template is None:
            value = row["gold"]
        else:
            value = fill("gold", self.gold_template, row)
            paths = template_fields("gold", self.gold_template)
            if any(_value_at(path, row) is None for path in paths):
                return ""
        if value is None:
            return ""
        text = value if isinstance(value, str) else json.dumps(value)
        return (last_boxed(text) or text) if self.boxed_golds else text


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(value.get(name), str) for name in ("role", "content")
    )


def _value_at(path: str, row: Mapping[str, Any]) -> Any:
    return string.Formatter().get_field(path, (), row)[0]


def columns_read(benchmark: Benchmark, present: Sequence[str], source: str) -> list[str]:
    """The columns of a data set that the benchmark reads: all, if its own code reads them.

    Args:
        present: the columns of the data set.
        source: what the data set is called in an error message.

    Raises:
        UserError: a template of the benchmark does not fit the columns.
    """
    if not isinstance(benchmark.read, ColumnReader):
        return list(present)
    try:
        return benchmark.read.columns(present)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error


def read_question(benchmark: Benchmark, row: Mapping[str, Any], where: str) -> Question:
    """The question of one row.

    Args:
        where: the data set and the number of the row, for error messages.

    Raises:
        UserError: the benchmark cannot read the row, or the row has no prompt or no gold answer.
    """
    question = _readable(benchmark.read, row, where)
    if not question.text:
        raise UserError(f"{where} has no prompt: remove it from the data")
    if not question.gold:
        raise UserError(f"{where} has no gold answer: remove it from the data")
    return question


def _readable(read: Callable[[Mapping[str, Any]], Any], row: Mapping[str, Any], where: str) -> Any:
    try:
        return read(row)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except _UNREADABLE as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else repr(error)
        raise UserError(
            f"{where} cannot be read ({reason}): it has the columns {', '.join(row)}"
        ) from error


def day_of(benchmark: Benchmark, row: Mapping[str, Any], where: str) -> str:
    """The day on which the problem of a row was published, as 2025-01-31.

    Args:
        benchmark: one whose data set has dates.
        where: the data set and the number of the row, for error messages.

    Raises:
        UserError: the row has no date.
    """
    assert benchmark.date_of is not None
    return _readable(benchmark.date_of, row, where)


class PromptReader:
    """``reader(row, index)`` → ``{"prompt": text or messages, "gold": text}``, for training.

    Args:
        benchmark: how the rows are read.
        columns: the columns of the data set; the attribute `columns` holds those that are read.
        source: what the data set is called in error messages.
        examples: worked examples at the beginning of each prompt; chats have none.
        chat: make prompts that are messages.
        system_prompt: content of a system message before the others; needs `chat`.

    Raises:
        UserError: a column is missing. On a row: as `read_question`, or it has a system message
            although there is a `system_prompt`.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        columns: Sequence[str],
        *,
        source: str,
        examples: Sequence[Question] = (),
        chat: bool = False,
        system_prompt: str | None = None,
    ):
        self.benchmark = benchmark
        self.source = source
        self.examples = examples
        self.chat = chat
        self.system_prompt = system_prompt
        self.columns = columns_read(benchmark, columns, source)

    def __call__(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        where = f"{self.source}, row {index}"
        question = read_question(self.benchmark, row, where)
        if self.chat:
            return {"prompt": self._messages(question, where), "gold": question.gold}
        prompt = base_prompt(self.benchmark.style, question.text, self.examples)
        return {"prompt": prompt, "gold": question.gold}

    def _messages(self, question: Question, where: str) -> Messages:
        messages = chat_messages(self.benchmark.style, question)
        if self.system_prompt is None:
            return messages
        if messages[0]["role"] == "system":
            raise UserError(
                f"{where} has a system message already: "
                f"leave out system_prompt={self.system_prompt!r}"
            )
        return [{"role": "system", "content": self.system_prompt}, *messages]
