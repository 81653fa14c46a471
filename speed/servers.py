"""A server as a process of its own, as long as a measurement needs it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import urllib3


@contextmanager
def serving(command: Sequence[str], address: str, log: Path) -> Iterator[None]:
    """Run a server that answers at ``address/health``, and end all its processes after the block.

    Args:
        log: file that its output is appended to.

    Raises:
        SystemExit: the server ends before it answers.
    """
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"the server did not start: see {log}")
            try:
                urllib3.request("GET", f"{address}/health", timeout=5, retries=False)
                break
            except urllib3.exceptions.HTTPError:
                time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
