"""A killed RLVR run goes on as if nothing had been: prompts, lengths, counts, parameters."""

import json
import multiprocessing
import signal

import pytest
from rlvr_tiny import recorded_run
from safetensors.torch import load_file

from eval_suite.records import read_jsonl

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


def run(folder, options, kill_at=None) -> int:
    process = multiprocessing.get_context("spawn").Process(target=recorded_run, args=(str(folder), options, kill_at))
    process.start()
    process.join()
    return process.exitcode


def calls(folder) -> list:
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def rows(folder) -> list[dict]:
    return [{k: v for k, v in row.items() if "time" not in k} for row in read_jsonl(folder / "rl_log.jsonl")]


@pytest.mark.parametrize("keep", [False, True], ids=["drop", "keep_leftovers"])
def test_killed_in_the_middle_of_a_refill(tmp_path, keep):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = OPTIONS | {"keep_leftover_groups": keep}
    assert run(whole, options) == 0
    undisturbed = calls(whole)
    steps = [step for step, _ in undisturbed]
    # the second call of a batch after the checkpoint of step 4, and before that of step 8
    kill_at = next(i + 1 for i in range(1, len(steps)) if steps[i] == steps[i - 1] == 6)
    assert run(killed, options, kill_at) == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    before = len(calls(killed))
    assert calls(killed) == undisturbed[:kill_at]
    assert run(killed, options) == 0
    assert calls(killed)[before:] == [call for call in undisturbed if call[0] >= 4]
    assert rows(killed) == rows(whole)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (killed, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert any(row["prompts_retired"] for row in rows(whole))


def test_the_longest_completion_grows_at_its_step_also_across_a_resume(tmp_path):
    options = OPTIONS | {"steps_per_generation": 1, "logging_steps": 1, "save_steps": 3, "max_steps": 10}
    assert run(tmp_path / "whole", options) == 0
    assert run(tmp_path / "killed", options, kill_at=9) == -signal.SIGKILL
    reached = max(row["step"] for row in rows(tmp_path / "killed"))
    assert reached < 6
    assert run(tmp_path / "killed", options) == 0
    longest = [row["completions/max_length"] for row in rows(tmp_path / "killed")]
    assert longest == [row["completions/max_length"] for row in rows(tmp_path / "whole")]
    assert max(longest[:6]) == 4  # steps 1 to 6 begin after 0 to 5 steps
    assert 4 < min(longest[6:]) <= max(longest[6:]) == 9
