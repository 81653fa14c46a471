"""The first prompt of a benchmark, for inspection before a costly run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shaped_eval.benchmarks import load_problems
from shaped_eval.reporting.examples import shorten
from shaped_eval.untrusted.texts import visible


@dataclass
class ShowOptions:
    """The option of `shaped-trl sample` that prints a prompt instead of sampling."""

    show: str | None = field(
        default=None,
        metadata={"help": "Print the first prompt of this benchmark and stop; needs no model."},
    )


def show(settings: Mapping[str, Any]) -> None:
    """Write the first prompt to standard output without a final newline, its details to stderr.

    The prompt is reproduced byte for byte, except for characters that a terminal acts on or does
    not show: these are replaced by their code, as in ``[U+001B]``.

    Of the sampling options in `settings`, those that determine a prompt are used: ``show``,
    ``hub_mirror``, ``chat_template``, ``shots``. For a chat, the prompt is the user's message,
    because the chat template belongs to the model.

    Raises:
        UserError: as `load_problems`.
    """
    [problem] = load_problems(
        [settings["show"]],
        hub_mirror=settings.get("hub_mirror"),
        limit=1,
        chat=bool(settings.get("chat_template", False)),
        shots=settings.get("shots"),
    )
    sys.stdout.buffer.write(visible(problem.prompt).encode())
    sys.stdout.flush()
    details = {
        "problem": problem.problem_id,
        "gold": shorten(problem.gold, 300, 100),
        "grader": problem.grader,
        **problem.meta,
    }
    print("".join(f"\n{name}: {value!r}" for name, value in details.items()), file=sys.stderr)
