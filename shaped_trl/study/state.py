"""What a run's folder says about it: started.json, then done.json or failed.json.

A folder belongs to one fingerprint. If the arm, the recipe or anything upstream has changed, the
folder is moved to ``OUT/stale``, with what is kept of the run, and the run starts afresh; otherwise
the stage continues what it finds there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from shaped_eval.records import write_atomic
from shaped_eval.untrusted.files import file_name
from shaped_eval.untrusted.rows import read_object

from shaped_trl.study.plan import Run

STARTED, DONE, FAILED, LOG = "started.json", "done.json", "failed.json", "log.txt"
PLANNED = "fingerprints.json"  # of a study's folder: run → fingerprint, as it was last started


def read_state(folder: Path, name: str) -> dict[str, Any]:
    """The content of a state file, empty if there is none."""
    try:
        return read_object(folder / name)
    except FileNotFoundError:  # or no more: another part of the study may be starting the run
        return {}


def write_state(folder: Path, name: str, state: dict[str, Any]) -> None:
    write_atomic(folder / name, json.dumps(state, indent=2) + "\n")


def outcome(run: Run) -> dict[str, Any]:
    """done.json of a run that has succeeded with the settings it has now, empty if it has not; of a
    run made elsewhere as its record has it."""
    found = (read_state(run.folder, DONE), _recorded(run))
    return next((each for each in found if each.get("fingerprint") == run.fingerprint), {})


def _recorded(run: Run) -> dict[str, Any]:
    return read_state(run.record.parent, run.record.name).get("outcome", {})


def is_done(run: Run) -> bool:
    """Whether the run has succeeded with the settings it has now."""
    return bool(outcome(run))


def is_here(run: Run) -> bool:
    """Whether it has, and its folder is there, so that other runs can start from its model."""
    return read_state(run.folder, DONE).get("fingerprint") == run.fingerprint


def claim(run: Run, stale: Path) -> int:
    """Make the folder ready for a start and return the attempt's number, 1 for a fresh one.

    What was begun before the study's folder was moved has other paths in its settings, and is not
    continued. Of a run with other settings the folder and the record move to `stale`.
    """
    started = read_state(run.folder, STARTED)
    begun = (started.get("fingerprint"), started.get("argv")) == (run.fingerprint, list(run.argv))
    if run.folder.exists() and not begun:
        place = _stale(run, stale, started)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(run.folder, place)
        started = {}
    attempt = started.get("attempt", 0) + 1
    for path in (
        run.folder / DONE,
        run.folder / FAILED,
        run.record.with_name(f"{run.stage}.{FAILED}"),
    ):
        path.unlink(missing_ok=True)
    recorded = _recorded(run)
    # one made again for its model keeps it until then
    if recorded and recorded.get("fingerprint") != run.fingerprint:
        os.replace(run.record, f"{_stale(run, stale, recorded)}.json")
    write_state(
        run.folder, STARTED, {"argv": run.argv, "fingerprint": run.fingerprint, "attempt": attempt}
    )
    return attempt


def _stale(run: Run, stale: Path, state: dict[str, Any]) -> Path:
    """Where what was made of the run with the settings of `state` goes."""
    stale.mkdir(parents=True, exist_ok=True)
    parts = (
        run.regime,
        run.arm,
        f"seed{run.seed}",
        run.stage,
        file_name(str(state.get("fingerprint", "unknown"))),
    )
    return stale / "-".join(part for part in parts if part)


def keep_failure(run: Run, out: Path) -> None:
    """Keep beside the records why a run has failed."""
    why = why_failed(run.folder, run.record, out)
    write_state(
        run.record.parent, f"{run.stage}.{FAILED}", {"fingerprint": run.fingerprint, "why": why}
    )


def why_failed(folder: Path, record: Path, out: Path) -> str | None:
    """Why the run of this folder has failed, without the place of the study's folder `out`; of one
    made elsewhere as it was kept there; None where none has."""
    if (folder / FAILED).exists():
        return _ended(folder).replace(f"{out}/", "")
    return read_state(record.parent, f"{record.stem}.{FAILED}").get("why")


def _ended(folder: Path) -> str:
    """How a run has ended, and the last line of its log."""
    code = read_state(folder, FAILED).get("exit_code")
    if code is None:
        return log_tail(folder, 1)
    ended = (
        f"ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    )
    return f"{ended}; {last}" if (last := log_tail(folder, 1)) else ended


def log_tail(folder: Path, num_lines: int = 20) -> str:
    """The last lines of a run's log. A progress bar overwrites its line: its last state counts."""
    path = folder / LOG
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rsplit("\r", 1)[-1] for line in text.split("\n")]
    return "\n".join([line for line in lines if line.strip()][-num_lines:])
