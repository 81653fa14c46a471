"""What the corpora that the project makes itself have in common: how many rows, and how they are
written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from shaped_eval.errors import UserError
from shaped_eval.records import write_atomic


def check_counts(**counts: int) -> None:
    """Raise UserError for a file of no rows."""
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise UserError(f"{name}={count!r}: give a whole number of at least 1")


def write_files(folder: str | Path | None, files: Mapping[str, Iterable[dict[str, str]]]) -> None:
    """Write JSONL files by name, each replaced at once; nothing without a folder."""
    if folder is None:
        return
    for name, rows in files.items():
        write_atomic(Path(folder) / name, "".join(json.dumps(row) + "\n" for row in rows))
