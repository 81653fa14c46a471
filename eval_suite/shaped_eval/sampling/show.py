"""The first prompt of a benchmark, for inspection before a costly run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.benchmarks.own import chat_of
from shaped_eval.untrusted.texts import shorten, visible


@dataclass
class ShowOptions:
    """The option of `shaped-trl sample` that prints a prompt instead of sampling."""

    show: str | None = field(
        default=None,
        metadata={
            "help": "Print the first prompt and the gold answer of this benchmark (a name, or the "
            "path of your own file), and stop. No model is needed."
        },
    )


def show(settings: Mapping[str, Any]) -> None:
    """Print the first prompt of a benchmark; its gold answer and the rest go to standard error.

    The prompt is printed as it is, without a newline at its end. Only characters that a terminal
    acts on or does not show stand as their code, such as ``[U+001B]``. The prompt of a chat is the
    message of the user, since the chat template belongs to the model.

    Args:
        settings: options of sampling, of which ``show``, ``hub_mirror``, ``chat_template``,
            ``shots`` and ``since`` decide the prompt.

    Raises:
        UserError: as `load_problems` and `chat_of`.
    """
    names = [settings["show"]]
    [problem] = load_problems(
        names,
        hub_mirror=settings.get("hub_mirror"),
        limit=1,
        chat=chat_of(names, bool(settings.get("chat_template", False))),
        shots=settings.get("shots"),
        since=settings.get("since"),
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
