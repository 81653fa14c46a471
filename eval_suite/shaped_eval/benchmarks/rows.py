"""A row of a data set → a prompt and its gold answer."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from shaped_eval.benchmarks.prompts import base_prompt, chat_prompt
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.benchmarks.templates import check_templates, fill, template_fields
from shaped_eval.errors import UserError
from shaped_eval.grading.extract import last_boxed

Messages = list[dict[str, str]]


class PromptReader:
    """``reader(row, index)`` → ``{"prompt": text or messages, "gold": text}``.

    Args:
        columns: of the data set.
        source: its name, for messages.
        prompt_template, gold_template: in place of the columns prompt and gold.
        benchmark_format: the benchmark of `BENCHMARKS` that reads the row instead.
        chat: prompts are messages.
        system_prompt: the first one's content.
        boxed_golds: a gold that has a boxed answer stands for that answer.

    `columns` are those that it reads.

    Raises:
        UserError: a column is missing; on a row: no prompt, no gold, or a row that the benchmark
            cannot read.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        source: str,
        prompt_template: str | None = None,
        gold_template: str | None = None,
        benchmark_format: str | None = None,
        chat: bool = False,
        system_prompt: str | None = None,
        boxed_golds: bool = False,
    ):
        self.source = source
        self.templates = {"prompt": prompt_template, "gold": gold_template}
        self.benchmark_format = benchmark_format
        self.chat, self.system_prompt, self.boxed_golds = chat, system_prompt, boxed_golds
        self.columns = list(columns)
        if benchmark_format is not None:
            return
        given = {
            name: template for name, template in self.templates.items() if template is not None
        }
        check_templates(given, columns)
        missing = sorted({"prompt", "gold"} - set(columns) - set(given))
        if missing:
            raise UserError(
                f"dataset_name={source!r} has the columns {list(columns)}, not {missing}: "
                f"build them with {' and '.join(f'{name}_template' for name in missing)}"
            )
        paths = [
            path for name, template in given.items() for path in template_fields(name, template)
        ]
        used = {"prompt", "gold"} - set(given) | {re.split(r"[.\[]", path)[0] for path in paths}
        self.columns = [name for name in columns if name in used]

    def __call__(self, row: Mapping[str, Any], index: int) -> dict[str, Any]:
        where = f"dataset_name={self.source!r}, row {index}"
        prompt: str | Messages | None
        if self.benchmark_format is not None:
            prompt, gold = self._as_benchmark(row, where)
        else:
            prompt, gold = self._prompt(row), self._gold(row, where)
        if not prompt:
            raise UserError(
                f"{where} has no prompt: drop it from the data, or build prompts with prompt_template"
            )
        return {
            "prompt": self._messages(prompt, where) if self.chat else _plain(prompt),
            "gold": gold,
        }

    def _as_benchmark(self, row: Mapping[str, Any], where: str) -> tuple[str, str]:
        assert self.benchmark_format is not None
        benchmark = BENCHMARKS[self.benchmark_format]
        try:
            question = benchmark.read(row)
        except (
            KeyError,
            TypeError,
            AttributeError,
            ValueError,
            SyntaxError,
            StopIteration,
        ) as error:
            raise UserError(
                f"{where} cannot be read with benchmark_format={self.benchmark_format!r} ({error!r}): it has the "
                f"columns {list(row)}"
            ) from error
        if not question.gold:
            raise UserError(
                f"{where} has no gold answer for benchmark_format={self.benchmark_format!r}"
            )
        if self.chat:
            return chat_prompt(benchmark.style, question.text), question.gold
        return base_prompt(benchmark.style, question.text, []), question.gold

    def _prompt(self, row: Mapping[str, Any]) -> str | Messages | None:
        template = self.templates["prompt"]
        return row["prompt"] if template is None else fill("prompt", template, row)

    def _gold(self, row: Mapping[str, Any], where: str) -> str:
        template = self.templates["gold"]
        value = row["gold"] if template is None else fill("gold", template, row)
        paths = [] if template is None else template_fields("gold", template)
        empty = value is None or value == "" or any(_at(path, row) is None for path in paths)
        if empty:
            raise UserError(
                f"{where} has no gold answer (gold_template={template!r}): drop it from the data"
            )
        text = value if isinstance(value, str) else json.dumps(value)
        return (last_boxed(text) or text) if self.boxed_golds else text

    def _messages(self, prompt: str | Messages, where: str) -> Messages:
        """A chat: the data's own messages, or one of the user's; the system's before them."""
        messages = (
            [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _chat_of(prompt)
        )
        if self.system_prompt is None:
            return messages
        if messages[0]["role"] == "system":
            raise UserError(
                f"{where} has a system message already: leave out system_prompt={self.system_prompt!r}"
            )
        return [{"role": "system", "content": self.system_prompt}, *messages]


def _plain(prompt: str | Messages) -> str:
    return (
        prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)
    )


def _chat_of(prompt: Messages) -> Messages:
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def _at(path: str, row: Mapping[str, Any]) -> Any:
    return string.Formatter().get_field(path, (), row)[0]
