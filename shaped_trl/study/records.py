"""The records of a study's runs: ``OUT/records.jsonl``, with a line for each run that has ended.

A line is {"key", ...}. The key is the run's name. The other fields of a run that is done are those
of `shaped_trl.study.finished`; of one that has failed, they are ``fingerprint`` and ``why``. A line
supersedes earlier ones with its key. However, a failure does not supersede what was done with the
same settings: a run that is repeated for its model may fail, and its numbers still hold.

Lines are appended under a lock, since the parts of a study write to the same file. The file is
rewritten only when records leave it. A last line that a killed writer left incomplete is dropped.
In studies from before, a record was a file of its own in ``OUT/finished``; `take_over` makes one
file of them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from shaped_eval.errors import UserError
from shaped_eval.records import (
    append_jsonl,
    drop_truncated_line,
    jsonl_line,
    read_jsonl,
    write_atomic,
)
from shaped_eval.untrusted.files import own_folder
from shaped_eval.untrusted.locks import lock
from shaped_eval.untrusted.rows import parse_object, read_object

from shaped_trl.study.record_fields import checked

RECORDS = "records.jsonl"
EARLIER = "finished"  # the folder of records before there was a file of them
_FAILED = ".failed"

Record = dict[str, Any]


class Records(NamedTuple):
    """What is recorded: run's key → its record, of the runs that are done and that have failed."""

    finished: dict[str, Record]
    failed: dict[str, Record]


# study's folder → its records, and the state of the files that they were read from
_read: dict[Path, tuple[Any, Records]] = {}


def read_records(out: Path) -> Records:
    """The records of the study in the folder `out`. The file is read again only if it has changed.

    Raises:
        UserError: a complete line is damaged or is not a record; the message gives its number.
    """
    state = _state(out)
    if out not in _read or _read[out][0] != state:
        records = Records({}, {})
        for key, record in _earlier(out):
            _enter(records, key, record)
        with suppress(FileNotFoundError):
            for key, record in read_jsonl(out / RECORDS, checked):
                _enter(records, key, record)
        _read[out] = state, records
    return _read[out][1]


def add_record(out: Path, key: str, record: Record) -> None:
    """Append a line for a run that is done or has failed.

    Raises:
        UserError: a line would not be accepted, since the files of the run are damaged.
    """
    row = {"key": key, **record}
    try:
        entry = checked(parse_object(jsonl_line(row)))
    except ValueError as error:
        raise UserError(
            f"{out}: the files of the run {key} are damaged ({error}): remove its folder"
        ) from error
    with _lock(out):
        records = read_records(out)
        drop_truncated_line(out / RECORDS)
        append_jsonl(out / RECORDS, [row])
        # This line is known, so the others need not be read again.
        _enter(records, *entry)
        _read[out] = _state(out), records


def remove_records(out: Path, finished: Collection[str], failed: Collection[str]) -> None:
    """Remove the records with these keys, of runs that were done and of runs that had failed."""
    if not any(_has(read_records(out), finished, failed)):
        return
    with _lock(out):
        records = read_records(out)
        left = Records(
            {key: each for key, each in records.finished.items() if key not in finished},
            {key: each for key, each in records.failed.items() if key not in failed},
        )
        _rewrite(out, left)


def _has(records: Records, finished: Collection[str], failed: Collection[str]) -> Iterator[bool]:
    yield from (key in records.finished for key in finished)
    yield from (key in records.failed for key in failed)


def take_over(out: Path) -> None:
    """Make one file of the records in ``OUT/finished``, if there are any, and remove that folder.

    Records that are in the file already are not replaced.

    Raises:
        UserError: a record is damaged, or the folder is a symbolic link.
    """
    if not (out / EARLIER).is_dir():
        return
    earlier = own_folder(out, EARLIER)
    with _lock(out):
        _rewrite(out, read_records(out))
        for path in _earlier_files(out):
            path.unlink()
        for folder, _, _ in os.walk(earlier, topdown=False):
            with suppress(OSError):  # it holds a file that is not a record
                os.rmdir(folder)


def _lock(out: Path) -> AbstractContextManager[None]:
    return lock(out / f".{RECORDS}.lock")


def _state(out: Path) -> tuple[Any, ...]:
    """What changes if the file, or the folder of earlier records, does."""
    return _stat(out / RECORDS), _stat(out / EARLIER)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _enter(records: Records, key: str, record: Record) -> None:
    if "why" in record:
        records.failed[key] = record
    else:
        records.finished[key] = record
        records.failed.pop(key, None)


def _rewrite(out: Path, records: Records) -> None:
    """Replace the file by these records. Failures are last, so that nothing supersedes them."""
    write_atomic(
        out / RECORDS,
        (jsonl_line({"key": key, **record}) for each in records for key, record in each.items()),
    )
    _read[out] = _state(out), records


def _earlier(out: Path) -> Iterator[tuple[str, Record]]:
    """The records in ``OUT/finished``, the failures last."""
    failures = []
    for path in _earlier_files(out):
        key = path.relative_to(out / EARLIER).with_suffix("").as_posix()
        record = read_object(path, _check_earlier)
        if "why" in record:
            failures.append((key.removesuffix(_FAILED), record))
        else:
            yield key, record
    yield from failures


def _check_earlier(record: Record) -> None:
    checked({"key": "", **record})


def _earlier_files(out: Path) -> list[Path]:
    """The files of earlier records, in the order of their names."""
    return sorted(
        Path(folder, name)
        for folder, _, names in os.walk(out / EARLIER)
        for name in names
        if name.endswith(".json")
    )
