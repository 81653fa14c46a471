"""Folders of weights in memory: those of killed runs are removed, and no others."""

import signal
import subprocess
import sys

from shaped_trl.rlvr.asynchronous.weights import PREFIX, locked_folder, remove_abandoned

KILLED = """
import os, signal, sys
from pathlib import Path
from shaped_trl.rlvr.asynchronous.weights import locked_folder

with locked_folder(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_bytes(b"weights")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    place, elsewhere = tmp_path / "memory", tmp_path / "elsewhere"
    for folder in (place, elsewhere, place / f"{PREFIX}new", place / "other"):
        folder.mkdir()
    for folder in (elsewhere, place / "other"):
        (folder / "file").write_text("precious")
    (place / f"{PREFIX}link").symlink_to(elsewhere)
    (place / f"{PREFIX}file").write_text("precious")
    kept = set(place.iterdir())

    done = subprocess.run([sys.executable, "-c", KILLED, str(place)])
    assert done.returncode == -signal.SIGKILL
    (abandoned,) = set(place.iterdir()) - kept
    with locked_folder(place) as used:
        (used / "model.safetensors").write_bytes(b"weights")
        remove_abandoned(place)
        assert (used / "model.safetensors").is_file()
        assert not abandoned.exists()
    assert set(place.iterdir()) == kept
    assert (elsewhere / "file").read_text() == "precious"
