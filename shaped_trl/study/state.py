"""The state of a run in its folder: started.json, then done.json or failed.json.

A folder belongs to one fingerprint. If the arm, the recipe or anything before it has changed, the
folder moves to ``OUT/stale`` together with the run's record, and the run starts anew. Otherwise the
stage continues with what it finds there.

A study's folder may be somebody else's. Nothing in it is written, moved or removed through a
symbolic link.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shaped_eval.records import jsonl_line, write_atomic
from shaped_eval.untrusted.files import file_name, own_folder
from shaped_eval.untrusted.rows import read_object

from shaped_trl.study.plan import StudyRun
from shaped_trl.study.records import add_record, read_records, remove_records

STARTED, DONE, FAILED, LOG = "started.json", "done.json", "failed.json", "log.txt"
STALE = "stale"  # in a study's folder: what is not used any more
PLANNED = "fingerprints.json"  # in a study's folder: run → fingerprint at its last start


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """The content of a state file, empty if there is none."""
    try:
        return read_object(folder / name)
    except FileNotFoundError:  # there is none, or another part of the study is starting the run
        return {}


def write_state(folder: Path, name: str, state: dict[str, Any]) -> None:
    write_atomic(folder / name, json.dumps(state, indent=2) + "\n")


def outcome(run: StudyRun) -> dict[str, Any]:
    """done.json of a run that has succeeded with its present settings; empty if it has not.

    For a run that was made elsewhere, it comes from its record.
    """
    found = (read_state(run.folder, DONE), _recorded(run))
    return next((each for each in found if each.get("fingerprint") == run.fingerprint), {})


def _recorded(run: StudyRun) -> dict[str, Any]:
    return read_records(run.out).finished.get(run.key, {}).get("outcome", {})


def is_done(run: StudyRun) -> bool:
    """Whether the run has succeeded with its present settings."""
    return bool(outcome(run))


def is_here(run: StudyRun) -> bool:
    """Whether the run is done and its folder exists, so that others can start from its model."""
    return read_state(run.folder, DONE).get("fingerprint") == run.fingerprint


def begun(run: StudyRun) -> dict[str, Any]:
    """started.json of a run that can be continued in its folder; empty if it cannot.

    An attempt from before the study's folder was moved has other paths in its settings, and is not
    continued.
    """
    started = read_state(run.folder, STARTED)
    same = (started.get("fingerprint"), started.get("argv")) == (run.fingerprint, list(run.argv))
    return started if same else {}


def runs_to_keep(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """The runs that are done and need not be repeated.

    A run is repeated if another one has to start from its model, and the model is not here.
    """
    to_repeat: set[str] = set()
    needed: set[str] = set()
    for run in reversed(runs):
        if not is_done(run) or (run.key in needed and not is_here(run)):
            to_repeat.add(run.key)
            needed.update(run.depends_on)
    return [run for run in runs if run.key not in to_repeat]


def claim(run: StudyRun, machine: dict[str, Any]) -> int:
    """Prepare the folder for a start, and return the number of the attempt (1: a new start).

    If the settings have changed, folder and record move to ``OUT/stale``. `machine` is the one on
    which the run starts; started.json names it.

    Raises:
        UserError: the folder, one on the way to it from the study's, or anything in it is a
            symbolic link.
    """
    attempt = begun(run).get("attempt", 0) + 1
    if attempt == 1:
        _retire_folder(run)
    folder = _own(run)
    for path in folder.rglob("*"):  # a stage that is continued writes into what it finds
        if path.is_symlink():
            own_folder(folder, *path.relative_to(folder).parts)  # raises
    for name in (DONE, FAILED):
        (run.folder / name).unlink(missing_ok=True)
    recorded = _recorded(run)
    # A run that is repeated for its model keeps its record until it has ended.
    if recorded and recorded.get("fingerprint") != run.fingerprint:
        _retire_records([run])
    remove_records(run.out, finished=(), failed=[run.key])
    started = {
        "argv": run.argv,
        "fingerprint": run.fingerprint,
        "attempt": attempt,
        "machine": machine,
    }
    write_state(run.folder, STARTED, started)
    return attempt


def retire(runs: Sequence[StudyRun]) -> None:
    """Move the folders and the records of these runs to ``OUT/stale``, so that they start anew."""
    _retire_records(runs)
    for run in runs:
        _retire_folder(run)


def _own(run: StudyRun) -> Path:
    """The run's folder, which is created if needed. It lies in the study's and nowhere else."""
    return own_folder(run.out, *run.folder.relative_to(run.out).parts)


def _retire_folder(run: StudyRun) -> None:
    if run.folder.exists():
        folder = _own(run)
        place = own_folder(run.out, STALE, _stale_name(run, read_state(folder, STARTED)))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(folder, place)


def _retire_records(runs: Sequence[StudyRun]) -> None:
    """Move each record to a file of its own in ``OUT/stale``."""
    finished = read_records(runs[0].out).finished
    for run in runs:
        if run.key in finished:
            name = _stale_name(run, finished[run.key]["outcome"])
            write_atomic(
                own_folder(run.out, STALE) / f"{name}.json",
                jsonl_line({"key": run.key, **finished[run.key]}),
            )
    keys = {run.key for run in runs}
    remove_records(runs[0].out, finished=keys, failed=keys)


def _stale_name(run: StudyRun, state: dict[str, Any]) -> str:
    """The name in ``OUT/stale`` of the run with the settings of `state`."""
    parts = (
        run.regime,
        run.arm,
        f"seed{run.seed}",
        run.stage,
        file_name(str(state.get("fingerprint", "unknown"))),
    )
    return "-".join(part for part in parts if part)


def keep_failure(run: StudyRun) -> None:
    """Record why a run has failed."""
    why = why_failed(run.folder, run.key, run.out)
    add_record(run.out, run.key, {"fingerprint": run.fingerprint, "why": why})


def why_failed(folder: Path, key: str, out: Path, fingerprint: str | None = None) -> str | None:
    """Why the run in this folder has failed; None if it has not.

    The path of the study's folder `out` is left out. For a run that was made elsewhere, the reason
    comes from its record. With a `fingerprint`, only a failure with these settings counts.
    """
    here = (folder / FAILED).exists()
    failed = read_state(folder, FAILED) if here else read_records(out).failed.get(key, {})
    if fingerprint is not None and failed.get("fingerprint") != fingerprint:
        return None
    return _ended(folder, failed).replace(f"{out}/", "") if here else failed.get("why")


def _ended(folder: Path, failed: Mapping[str, Any]) -> str:
    """How a run ended, and the last line of its log."""
    code = failed.get("exit_code")
    if code is None:
        return log_tail(folder, 1)
    ended = (
        f"ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    )
    return f"{ended}; {last}" if (last := log_tail(folder, 1)) else ended


def log_tail(folder: Path, num_lines: int = 20) -> str:
    """The last lines of a run's log; of a progress bar, its last state.

    A log that is a link is not read, since the lines may be shown in a report.
    """
    path = folder / LOG
    if path.is_symlink() or not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join([line for line in lines if line.strip()][-num_lines:])
