"""RLVR with a real vLLM in the trainer's process: seeds, dtype, schedule, a kill and a resume."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from places import ROOT
from real_vllm import needs_vllm
from safetensors.torch import load_file
from shaped_eval.records import read_jsonl

pytestmark = needs_vllm
PROGRAM = ROOT / "tests" / "helpers" / "rlvr_vllm.py"


def run(folder: Path, seed: int, kill_at: int | None = None) -> list[dict]:
    """What the calls of the reward saw, after one more run in `folder`."""
    command = [sys.executable, str(PROGRAM), str(folder), str(seed)]
    done = subprocess.run(
        [*command, *([str(kill_at)] if kill_at else [])], capture_output=True, text=True
    )
    assert done.returncode == (-signal.SIGKILL if kill_at else 0), done.stderr
    return list(read_jsonl(folder / "calls.jsonl"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, seed=1)
    return folder


def test_dynamic_sampling_and_the_schedule_act(whole):
    calls = list(read_jsonl(whole / "calls.jsonl"))
    assert {call["step"] for call in calls} == {0, 1, 2, 3}
    assert len(calls) > 4, "no batch needed a second round"
    longest = {True: 0, False: 0}
    for call in calls:
        longest[call["step"] < 2] = max(longest[call["step"] < 2], call["longest"])
    assert longest == {True: 4, False: 9}


def test_the_engine_has_the_dtype_and_the_weights_of_the_trainer(whole):
    """In bfloat16 log-probabilities differ by about 0.004, and without new weights by far more."""
    assert json.loads((whole / "engine.json").read_text())["dtype"] == "torch.float32"
    rows = [row for row in read_jsonl(whole / "rl_log.jsonl") if "loss" in row]
    assert len(rows) == 4
    for row in rows:
        assert row["sampling/sampling_logp_difference/max"] < 1e-5
    start, end = (load_file(folder / "model.safetensors") for folder in (whole / "start", whole))
    assert any((start[name] != end[name]).any() for name in start)


def test_a_killed_run_continues_leaves_nothing_and_repeats_its_seed(whole, tmp_path):
    undisturbed = list(read_jsonl(whole / "calls.jsonl"))
    kill_at = next(i + 1 for i, call in enumerate(undisturbed) if call["step"] == 3)
    broken = tmp_path / "broken"
    assert run(broken, 1, kill_at) == undisturbed[:kill_at]
    below = json.loads((broken / "below.json").read_text())
    assert not [pid for pid in below if psutil.pid_exists(pid)]
    again = run(broken, 1)[kill_at:]
    assert again == [call for call in undisturbed if call["step"] >= 2]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (broken, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_another_seed_samples_others(whole, tmp_path):
    first = next(iter(read_jsonl(whole / "calls.jsonl")))
    other = run(tmp_path / "other", 2)[0]
    assert not set(first["completions"]) & set(other["completions"])
