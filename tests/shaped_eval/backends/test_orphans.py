"""No process of an engine survives the one that started it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

# An engine that is forked, as vLLM's is, and so inherits what its parent has open; a worker of its
# own that ignores SIGTERM; and a worker that starts later. Before and after them, processes that
# have nothing to do with the engine.
PARENT = """
import multiprocessing, signal, subprocess, sys, time
from pathlib import Path
from shaped_eval.backends.orphans import ended_with_this_process

def sleeper():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid

def tell(name, pid):
    Path(sys.argv[1], name).write_text(str(pid))

def engine():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell("worker", sleeper())
    if sys.argv[2] == "starting":
        time.sleep(600)
    started.set()
    ready.wait()
    tell("late worker", sleeper())
    time.sleep(600)

context = multiprocessing.get_context("fork")
ready = context.Event()
started = context.Event()
tell("before", sleeper())
with ended_with_this_process():
    process = context.Process(target=engine)
    process.start()
    tell("engine", process.pid)
    started.wait()
tell("after", sleeper())
time.sleep(0.5)  # it would be found now by a watcher that still looks
ready.set()
time.sleep(600)
"""
OTHERS = ("before", "after")


class Family:
    """The processes of `PARENT`, by the names of the files with their numbers."""

    def __init__(self, folder: Path, until: str) -> None:
        command = [sys.executable, "-c", PARENT, str(folder), until]
        self.folder = folder
        self.parent = subprocess.Popen(command)
        self.found: dict[str, psutil.Process] = {}

    def wait_for(self, *names: str) -> None:
        for name in names:
            path = self.folder / name
            wait_until(lambda path=path: path.exists() and path.read_text())
            self.found[name] = psutil.Process(int(path.read_text()))

    def alive(self) -> set[str]:
        return {
            name
            for name, process in self.found.items()
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        }


@pytest.fixture
def family(tmp_path, request) -> Iterator[Family]:
    family = Family(tmp_path, request.param)
    yield family
    family.parent.kill()
    family.parent.wait()
    for name in family.alive():
        family.found[name].kill()


@pytest.mark.parametrize("family", ["running"], indirect=True)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_dies_with_its_parent_and_others_live_on(family, how):
    family.wait_for("before", "engine", "worker", "after", "late worker")
    assert len(family.alive()) == 5
    family.parent.send_signal(how)
    wait_until(lambda: family.alive() <= set(OTHERS))
    assert family.alive() == set(OTHERS)


@pytest.mark.parametrize("family", ["starting"], indirect=True)
def test_an_engine_that_is_still_starting_dies_as_well(family):
    family.wait_for("before", "engine", "worker")
    watcher = [
        child
        for child in psutil.Process(family.parent.pid).children()
        if "orphans.py" in " ".join(child.cmdline())
    ]
    assert len(watcher) == 1
    # it waits once before each look: so it has looked since the worker started
    before = watcher[0].num_ctx_switches().voluntary
    wait_until(lambda: watcher[0].num_ctx_switches().voluntary >= before + 3)
    family.parent.kill()
    wait_until(lambda: family.alive() <= {"before"})
    assert family.alive() == {"before"}
    wait_until(lambda: not watcher[0].is_running())
