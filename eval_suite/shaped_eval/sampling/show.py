"""The first prompt of a benchmark, to look at before a run is paid for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.reporting.examples import shorten
from shaped_eval.untrusted.texts import visible


@dataclass
class ShowOptions:
    """The option of `shaped-trl sample` that samples nothing."""

    show: str | None = field(
        default=None,
        metadata={"help": "Print the first prompt of this benchmark and stop; needs no model."},
    )


def show(settings: Mapping[str, Any]) -> None:
    """Write the first prompt to standard output, with no newline of ours; the rest to standard
    error.

    The prompt is as it is, byte for byte, but for characters that a terminal acts on or does not
    show: these stand as their code, as ``[U+001B]``.

    `settings` are options of sampling; those that decide a prompt count: ``show``, ``hub_mirror``,
    ``chat_template``, ``shots``. A chat's prompt is the user's message: its template belongs to the
    model.

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
