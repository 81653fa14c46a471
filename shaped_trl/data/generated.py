"""What the corpora that this project generates share: checks of their sizes, and writing them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from shaped_eval.errors import UserError
from shaped_eval.records import write_atomic

ROWS = "problems.jsonl"


def check_counts(**counts: int) -> None:
    """Raise UserError if the number of rows of a file is not a whole number of at least 1."""
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise UserError(f"{name}={count!r}: give a whole number of at least 1")


def write_files(folder: str | Path | None, files: Mapping[str, Iterable[dict[str, str]]]) -> None:
    """Write JSONL files, each replaced atomically.

    Args:
        folder: where they go; None to write nothing.
        files: name of the file → its rows.
    """
    if folder is None:
        return
    for name, rows in files.items():
        write_atomic(Path(folder) / name, "".join(json.dumps(row) + "\n" for row in rows))


def write_benchmark(
    folder: str | Path | None, rows: Iterable[tuple[str, str]], grader: str
) -> None:
    """Write problems as a benchmark: ``problems.yaml``, which names ``problems.jsonl``.

    Args:
        folder: where they go; None to write nothing.
        rows: (prompt, gold) of each problem.
        grader: the name of the grader of their answers.
    """
    write_files(folder, {ROWS: ({"prompt": prompt, "gold": gold} for prompt, gold in rows)})
    if folder is not None:
        write_atomic(
            Path(folder) / "problems.yaml",
            f"dataset_name: {ROWS}\ngrader: {grader}\nchat: false\n",
        )
