"""One run in its own process and process group, with its log and its outcome.

Its output goes to log.txt, and its outcome to done.json or failed.json.

The process is forked from a server that has imported torch and the trainers, so that a study pays
for the imports once. When the study's process has ended for any reason, this process ends with
everything that it has started in its group.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shaped_eval.provenance import package_versions
from shaped_eval.untrusted.files import open_own

from shaped_trl.study.state import DONE, FAILED, LOG, write_state


def run_child(
    entry: str,
    argv: list[str],
    folder: Path,
    fingerprint: str,
    attempt: int,
    machine: dict[str, Any],
    commit: str | None,
    device: str | None = None,
) -> None:
    """Call `entry` ("module:function") with `argv` as the command line would, and exit.

    `machine` is the one on which it runs (`shaped_trl.study.running.machine`), which says how many
    threads it has. `commit` is that of the code at the study's start. `device` is the GPU that it
    may use, if there are several.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _redirect_output(folder / LOG)
    _limit_threads(machine["threads"])
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # CUDA has not been initialised in the server
    started_s = time.perf_counter()
    code = _call(entry, argv)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    outcome = {
        "argv": argv,
        "fingerprint": fingerprint,
        "attempt": attempt,
        "exit_code": code,
        "wall_seconds": round(time.perf_counter() - started_s, 3),
        "cpu_seconds": round(sum(usage.ru_utime + usage.ru_stime for usage in used), 3),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "versions": package_versions("trl"),
        "machine": machine,
    }
    sys.stdout.flush()
    sys.stderr.flush()
    write_state(folder, FAILED if code else DONE, outcome)
    sys.exit(code)


def _call(entry: str, argv: list[str]) -> int:
    module, function = entry.split(":")
    try:
        return getattr(importlib.import_module(module), function)(argv) or 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    # Any outcome of the run belongs in its log and in failed.json.
    except BaseException:
        traceback.print_exc()
        return 1


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _redirect_output(path: Path) -> None:
    with open_own(path, "ab") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _limit_threads(num_threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    # A torch that the server has imported already read the variable before it was set.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(num_threads)
