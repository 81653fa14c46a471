"""A killed RLVR run goes on as if nothing had been: prompts, lengths, counts, parameters."""

import json
import multiprocessing
import signal

import pytest
from rlvr_tiny import recorded_run
from safetensors.torch import load_file
from shaped_eval.records import read_jsonl

OPTIONS = {
    "max_steps": 12,
    "steps_per_generation": 2,
    "save_strategy": "steps",
    "save_steps": 4,
    "completion_length_schedule": {0: 4, 6: 9},
    "retire_all_wrong": 2,
    "revisit_retired_after": 2,
    "logging_steps": 2,
}


def killed(folder, options, kill_at) -> None:
    """A run in a process of its own, which ends by SIGKILL."""
    process = multiprocessing.get_context("spawn").Process(
        target=recorded_run, args=(str(folder), options, kill_at)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()


def calls(folder) -> list:
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def rows(folder) -> list[dict]:
    return [
        {k: v for k, v in row.items() if "time" not in k}
        for row in read_jsonl(folder / "rl_log.jsonl")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "keep", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["drop", "keep_leftovers"]
)
def test_killed_in_the_middle_of_a_refill(tmp_path, keep):
    """Lengths grow at step 6, which the killed run reaches twice."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = OPTIONS | {"keep_leftover_groups": keep}
    recorded_run(str(whole), options)
    undisturbed = calls(whole)
    steps = [step for step, _ in undisturbed]
    # the second call of a batch after the checkpoint of step 4, and before that of step 8
    kill_at = next(i + 1 for i in range(1, len(steps)) if steps[i] == steps[i - 1] == 6)
    killed(broken, options, kill_at)
    assert calls(broken) == undisturbed[:kill_at]
    recorded_run(str(broken), options)
    assert calls(broken)[kill_at:] == [call for call in undisturbed if call[0] >= 4]
    assert rows(broken) == rows(whole)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (broken, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert any(row["prompts_retired"] for row in rows(whole))
    longest = {
        row["step"]: row["completion_length_max"] for row in rows(broken) if "groups_sampled" in row
    }
    assert set(longest) == {2, 4, 6, 8, 10, 12}  # a generation batch begins after 0, 2, ... steps
    assert max(longest[step] for step in (2, 4, 6)) == 4
    assert 4 < min(longest[step] for step in (8, 10, 12)) <= max(longest.values()) == 9
