"""Ends the processes of an engine when the process that started it has died, whichever way.

vLLM runs its engine and its workers in processes of their own. When the process above them is
killed, the engine does not notice, waits, and keeps its memory. So a second process watches the
first one. This file is that program, too; it runs by its path and imports nothing of the package.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil

POLL_S = 0.2
# It removes the shared memory of the others once they are dead, and then ends by itself.
CLEANER = "multiprocessing.resource_tracker"


@contextmanager
def ended_with_this_process() -> Iterator[None]:
    """Processes that start in the block are killed when this process dies, and so are theirs.

    Processes of this one that ran before the block, or that start after it, are left alone.
    """
    before = [str(child.pid) for child in psutil.Process().children(recursive=True)]
    # -P: the folder of this file has modules with the names of packages
    command = [sys.executable, "-P", __file__, str(os.getpid()), *before]
    # a session of its own, since Ctrl-C must not end it before this process
    watcher = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert watcher.stdin is not None
    assert watcher.stdout is not None
    watcher.returncode = 0  # nobody waits for it, and Popen would warn of that
    watcher.stdout.read(1)  # it is there
    try:
        yield
    finally:
        # It looks a last time, and from now on it only waits. The end of the pipe would not do,
        # because forked processes hold it open.
        watcher.stdin.write(b"\n")
        watcher.stdin.close()
        watcher.stdout.read()  # it has looked
        watcher.stdout.close()


def watch(parent: int, foreign: Iterable[int]) -> None:
    """Wait until the process `parent`, which started this one, dies; then kill what is its own.

    Args:
        parent: process id.
        foreign: processes below `parent` that are to live on. Others are found from the line on
            that is written to standard output, until a line comes from standard input; then
            standard output is closed.
    """
    mine: set[psutil.Process] = set()
    spared = {os.getpid(), *foreign}
    looking = True
    os.write(1, b"\n")
    while os.getppid() == parent:
        if not looking:
            time.sleep(POLL_S)
            continue
        looking = not select.select([sys.stdin], [], [], POLL_S)[0]
        mine |= {child for child in _below(parent) if child.pid not in spared}
        if not looking:
            os.close(1)  # tells the parent
    kill_all(mine)


def kill_all(processes: Iterable[psutil.Process]) -> None:
    """Kill `processes` and all that descend from them, except what cleans up after them."""
    for process in list(processes):
        try:
            if CLEANER in " ".join(process.cmdline()):
                continue
            below = process.children(recursive=True)
            process.kill()
        except psutil.NoSuchProcess:  # it ended by itself; a number that is used again differs
            continue
        kill_all(below)


def _below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:  # it died since the last look
        return []


if __name__ == "__main__":
    watch(int(sys.argv[1]), map(int, sys.argv[2:]))
