"""Where the rows of a data set come from: a file, a local mirror, or the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.rows import parse_object

MIRROR_VARIABLE = "SHAPED_TRL_HUB_MIRROR"


class NotInMirror(UserError):
    """A mirror is set but lacks a data set or a split."""


def mirror_file(
    dataset_id: str, config: str | None, split: str, hub_mirror: str | Path | None
) -> Path | None:
    """The mirror's file with this split, or None if no mirror is set.

    The mirror is `hub_mirror`, or else the environment variable ``SHAPED_TRL_HUB_MIRROR``. Its
    layout is ``<mirror>/<dataset id>/<config or "default">/<split>.jsonl``.

    Raises:
        NotInMirror: the mirror does not exist, or lacks the split.
    """
    root = hub_mirror or os.environ.get(MIRROR_VARIABLE)
    if not root:
        return None
    path = Path(root) / dataset_id / (config or "default") / f"{split}.jsonl"
    if not path.is_file():
        raise NotInMirror(
            f"hub_mirror={str(root)!r} has no data set {dataset_id!r} (config "
            f"{config or 'default'!r}, split {split!r}): put it at {path}, or read the Hub by "
            f"omitting --hub_mirror and {MIRROR_VARIABLE}"
        )
    return path


def load_rows(
    dataset_id: str,
    config: str | None,
    split: str,
    hub_mirror: str | Path | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The rows of one split as dicts, from the mirror or the Hub; at most `limit` of them.

    Raises:
        UserError: the split is not in the mirror or not on the Hub. The message says how to provide
            it.
    """
    return list(islice(iter_rows(dataset_id, config, split, hub_mirror), limit))


def iter_rows(
    dataset_id: str, config: str | None, split: str, hub_mirror: str | Path | None = None
) -> Iterator[dict[str, Any]]:
    """As `load_rows`, but one row after another, for data sets that are larger than memory."""
    path = mirror_file(dataset_id, config, split, hub_mirror)
    if path is not None:
        yield from iter_file_rows(path)
        return
    from datasets import load_dataset

    try:
        yield from load_dataset(dataset_id, config, split=split)
    except Exception as error:
        raise UserError(
            f"data set {dataset_id!r} (config {config!r}, split {split!r}) could not be read from "
            f"the Hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}): check the id and the "
            f"network, or set --hub_mirror (or {MIRROR_VARIABLE}) to a folder that holds "
            f"{dataset_id}/{config or 'default'}/{split}.jsonl"
        ) from error


def iter_file_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl file that somebody wrote, whose last line needs no newline.

    Raises:
        UserError: there is no such file, it has no rows, or a line is not a JSON object.
    """
    empty = True
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    empty = False
                    yield _row(line, path, number)
    except OSError as error:
        raise UserError(f"rows {str(path)!r} cannot be read: {error.strerror}") from error
    if empty:
        raise UserError(
            f"rows {str(path)!r}: the file has no rows: write one JSON object on each line"
        )


def _row(line: bytes, path: str | Path, number: int) -> dict[str, Any]:
    try:
        return parse_object(line)
    except ValueError as error:
        raise UserError(
            f"rows {str(path)!r}, line {number}: not a JSON object ({error}): "
            "write one on each line"
        ) from error
