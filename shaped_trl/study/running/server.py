"""The fork server: it imports torch and the trainers once, and every run is forked from it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker


def start_server(preload: Sequence[str]) -> None:
    """Start the fork server without waiting for its imports."""
    multiprocessing.set_forkserver_preload(list(preload))
    # A run that is ended leaves its locks to Python's resource tracker, which frees them with a
    # warning that is of no use here.
    with _environment("PYTHONWARNINGS", "ignore:resource_tracker"):
        resource_tracker.ensure_running()
    # Ctrl-C during the imports would end the server with a traceback of its own.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, previous)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    yield
    del os.environ[name]
    if before is not None:
        os.environ[name] = before


def kill_server() -> None:
    """End the server. It would end by itself, but only after its imports, which take seconds."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
