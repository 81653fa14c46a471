"""Tests wait for a condition, however slow the machine is; only what can never end is ended by a
limit."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

PATIENCE_S = 240.0  # far more than any of the conditions needs, and below the limit of a test


def wait_until(condition: Callable[[], Any]) -> None:
    """Return when `condition()` is true, and fail where it never becomes true."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def wait_for_server(address: str, server: subprocess.Popen, log: Path | None = None) -> None:
    """Return when the server answers at ``address/health``, and fail where its process ends."""
    while True:
        assert server.poll() is None, log.read_text()[-4000:] if log else "the server ended"
        try:
            urllib3.request("GET", f"{address}/health", timeout=5, retries=False)
            return
        except urllib3.exceptions.HTTPError:
            time.sleep(0.2)


@contextmanager
def processor_limit(seconds: float) -> Iterator[None]:
    """Fail where the block takes more than these seconds of processor time, whatever runs beside
    it.

    The limit tells work that grows with the square of its input, or faster, from work that does
    not: the inputs are so long that the first takes minutes on any machine, and the second a small
    fraction of the limit.
    """

    def stop(*_: object) -> None:
        raise AssertionError(f"more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
