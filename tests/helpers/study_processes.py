"""Studies of fake stages (tests/helpers/fake_stages.py), also in processes that can be killed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from shaped_eval.records import read_jsonl

from shaped_trl.study import runner
from shaped_trl.study.definition import Study

ENTRY = "fake_stages:main"
FAKES = Path(__file__).resolve().parent
MARK = "SHAPED_TRL_TEST_STUDY"


def write_study(folder: Path, **recipes: dict[str, Any]) -> Path:
    """Write a study of three arms and three stages; `recipes` change one stage, or `all`."""
    for name in ("pretrain", "rlvr", "eval"):
        recipe = {"max_steps": 3, **recipes.get("all", {}), **recipes.get(name, {})}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    values = {
        "name": "fake",
        "baseline": "a",
        "max_parallel": 2,
        "arms": {"a": {}, "b": {"shape": {"beta": -0.25}}, "c": {"shape": {"beta": 0.5}}},
        "stages": {
            "pretrain": {
                "command": "train",
                "config": str(folder / "pretrain.yaml"),
                "shaped": True,
            },
            "rlvr": {"command": "rlvr", "config": str(folder / "rlvr.yaml"), "model": "pretrain"},
            "eval": {"command": "eval", "config": str(folder / "eval.yaml"), "model": "rlvr"},
        },
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def run(study: Study) -> int:
    """Run the study in this process."""
    return runner.run_study(study, entry=ENTRY, preload=())


def start(study: Study, preload: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the study in a process group as on a terminal; `out` marks all its processes."""
    script, pickled = study.out.with_name("run_it.py"), study.out.with_name("study.pickle")
    # reading the study file again would import torch, which takes seconds
    pickled.write_bytes(pickle.dumps(study))
    script.write_text(
        "import pathlib, pickle, sys\n"
        "from shaped_trl.study.runner import run_study\n"
        "if __name__ == '__main__':\n"
        f"    study = pickle.loads(pathlib.Path({str(pickled)!r}).read_bytes())\n"
        f"    sys.exit(run_study(study, entry={ENTRY!r}, preload={tuple(preload)!r}))\n"
    )
    places = [str(FAKES), str(script.parent), *sys.path]
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={
            **os.environ,
            MARK: str(study.out),
            "PYTHONPATH": os.pathsep.join(place for place in places if place),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def hold(out: Path, rows: int) -> None:
    """Hold every run after a number of steps and samples, as long as the file exists."""
    (out / "runs").mkdir(parents=True, exist_ok=True)
    (out / "runs/hold").write_text(str(rows))


def num_rows(out: Path) -> int:
    """The number of steps and samples that all runs have written."""
    logs = ("train_log.jsonl", "rl_log.jsonl", "samples.jsonl")
    return sum(
        len(list(read_jsonl(path))) for name in logs for path in out.glob(f"runs/*/*/*/{name}")
    )


def marked_processes(out: Path) -> list[int]:
    """The live processes with the study's mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environment = (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:  # it has ended meanwhile
                continue
            if f"{MARK}={out}".encode() in environment.split(b"\0") and state != "Z":
                found.append(int(entry.name))
    return found
