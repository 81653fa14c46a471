"""Problem, Sample and Verdict: the JSONL rows that all stages exchange.

A run of the suite is a folder: ``problems.jsonl`` → ``samples.jsonl`` → ``verdicts.jsonl`` →
``results.json``. Rows are only ever appended. A truncated last line, left by a killed writer, is
dropped on reading and cut before the next append.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from shaped_eval.errors import UserError
from shaped_eval.untrusted.files import open_own, replacing
from shaped_eval.untrusted.rows import parse_object, row_of

Status = Literal["pass", "fail", "timeout", "error", "unparsed"]
FinishReason = Literal["stop", "length"]
Row = TypeVar("Row")


@dataclass(frozen=True)
class Problem:
    """One problem. `problem_id` is unique over all benchmarks: ``"<benchmark>/<id>"``."""

    problem_id: str
    benchmark: str
    prompt: str
    gold: str
    grader: str
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One completion.

    `sample_index` is in [0, n). `tokens` counts generated tokens, including the end token.
    """

    problem_id: str
    sample_index: int
    completion: str
    finish_reason: FinishReason = "stop"
    tokens: int = 0


@dataclass(frozen=True)
class Verdict:
    """The grader's verdict on one sample.

    `answer` is canonical: equal strings are votes for the same answer.
    """

    problem_id: str
    sample_index: int
    status: Status
    answer: str | None
    grader: str


class Place(NamedTuple):
    """Where a row stands in its file, in bytes."""

    offset: int
    length: int


def read_jsonl(path: str | Path, row_type: Callable[..., Row] | None = None) -> Iterator[Any]:
    """Yield the rows of `path` as dicts, or as `row_type`. A last line without newline is dropped.

    Args:
        row_type: a dataclass of rows, or a function of a dict that raises ValueError for a row that
            is not acceptable.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: a complete line is not JSON or has other fields (the message gives its number),
            or `path` is a folder.
    """
    return (row for _, row in read_jsonl_places(path, row_type))


def read_jsonl_places(
    path: str | Path,
    row_type: Callable[..., Row] | None = None,
    quick: Callable[[bytes], Row | None] = lambda line: None,
) -> Iterator[tuple[Place, Any]]:
    """As `read_jsonl`, with the place of each row in the file.

    Args:
        path, row_type: as in `read_jsonl`.
        quick: makes a row of a line that need not be parsed; None for one that must be.
    """
    if Path(path).is_dir():
        raise UserError(
            f"{path} is a folder, but a file of rows is expected there: remove it, or use another "
            "folder"
        )
    make = partial(row_of, row_type) if isinstance(row_type, type) else row_type
    offset = 0
    # bytes, because a killed writer may have cut the last line inside a character
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            place = Place(offset, len(line))
            offset += len(line)
            if not line.endswith(b"\n"):
                return
            if (known := quick(line)) is not None:
                yield place, known
                continue
            if not line.strip():
                continue
            try:
                row = parse_object(line)
            except ValueError as error:
                raise UserError(
                    f"{path}:{number}: not a JSON row ({error}): remove the line, or the file"
                ) from error
            try:
                made = row if make is None else make(row)
            except ValueError as error:
                raise UserError(
                    f"{path}:{number}: not a row of this version ({error}): use another folder"
                ) from error
            yield place, made


def drop_truncated_line(path: str | Path) -> None:
    """Cut a last line that a killed writer left without its newline, so that appending is safe."""
    path = Path(path)
    if not path.exists():
        return
    with open_own(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        position = end
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            block = file.read(position - start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            position = start
        file.truncate(0)


def append_jsonl(path: str | Path, rows: Iterable[Any]) -> None:
    """Append rows (dicts or dataclasses) in one write, flushed to the operating system.

    If they do not fit on the disk, the file stays as it was.

    Raises:
        UserError: `path` is a symbolic link.
    """
    size = os.path.getsize(path) if os.path.exists(path) else 0
    try:
        with open_own(path, "a", encoding="utf-8") as file:
            file.write("".join(map(jsonl_line, rows)))
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def jsonl_line(row: Any) -> str:
    """The line for a dict or for a record of this module."""
    return json.dumps(row if isinstance(row, dict) else vars(row), ensure_ascii=False) + "\n"


def write_atomic(path: str | Path, content: str | bytes | Iterable[str]) -> None:
    """Replace `path` by `content`, or by its parts, in one step.

    A reader sees either the old file or the new one, never a part of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.writelines([content] if isinstance(content, str | bytes) else content)
