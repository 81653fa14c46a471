"""A killed run on a streaming mixture resumes with the same batches, shape and router biases."""

import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from places import HELPERS
from processes import run_processes
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from stream_tiny import build, write_rows

from shaped_trl.training.resuming import continue_training, last_checkpoint


def parameters(trainer):
    """The parameters, and the router biases, which are buffers."""
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def reads(folder):
    path = folder / "reads.txt"
    rows = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_and_restarted_it_ends_with_the_same_parameters(tmp_path, workers):
    write_rows(tmp_path)
    whole = build(tmp_path / "whole", tmp_path, workers)
    first_rows = reads(tmp_path)  # TRL reads the first row repeatedly
    whole.train()
    consumed = reads(tmp_path)
    kill_after = random.Random(workers).randrange(15, 55)
    command = [
        sys.executable,
        HELPERS / "stream_tiny.py",
        tmp_path / "part",
        tmp_path,
        kill_after,
        workers,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, timeout=240
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    reads(tmp_path)
    resumed = build(tmp_path / "part", tmp_path, workers)
    continue_training(resumed)
    assert resumed.state.global_step == 60
    expected, found = parameters(whole), parameters(resumed)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    biases = [value for name, value in expected.items() if name.endswith("e_score_correction_bias")]
    assert all(bias.abs().max() > 0.05 for bias in biases)
    assert len(biases) == 2
    log = [row for row in read_jsonl(tmp_path / "part" / "train_log.jsonl") if "loss" in row]
    assert [row["beta"] for row in log] == pytest.approx(
        [-0.25 * max(0, step - 10) / 50 for step in range(1, 61)]
    )
    assert list(read_jsonl(tmp_path / "part" / "train_log.jsonl")) == list(
        read_jsonl(tmp_path / "whole" / "train_log.jsonl")
    )
    # only the unconsumed rows and the current document are read again
    sampled = set(first_rows)
    after = [row for row in reads(tmp_path) if row not in sampled]
    before = [row for row in consumed if row not in sampled]
    assert len(before) == len(set(before)) > 200
    # a worker may have read further than the run went
    assert after == before[-len(after) :] or workers
    step = kill_after - kill_after % 7
    share = (60 - step) / 60
    assert len(after) / len(before) == pytest.approx(share, abs=0.12)
    assert len(after) == len(set(after))


@pytest.mark.slow
def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    write_rows(tmp_path)
    one = build(tmp_path / "out", tmp_path, max_steps=4, save_steps=2)
    one.train()
    good, last = (tmp_path / "out" / f"checkpoint-{step}" for step in (2, 4))
    assert last_checkpoint(tmp_path / "out") == str(last)
    state = last / "trainer_state.json"
    state.write_text(state.read_text()[:-40])
    assert last_checkpoint(tmp_path / "out") == str(good)
    shutil.copy(good / "trainer_state.json", state)
    (last / "stream-0.json").write_text('{"world": 2, "position": null}')
    assert last_checkpoint(tmp_path / "out") == str(good)
    (good / "trainer_state.json").unlink()
    assert last_checkpoint(tmp_path / "out") is None


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    write_rows(tmp_path)
    one = build(tmp_path / "out", tmp_path, max_steps=2, save_steps=2)
    one.train()
    position = tmp_path / "out" / "checkpoint-2" / "stream-0.json"
    position.write_text(position.read_text().replace('"world": 1', '"world": 2'))
    with pytest.raises(UserError, match="saved by 2 processes, and this run has 1"):
        one.train(resume_from_checkpoint=True)
    position.unlink()
    with pytest.raises(UserError, match=r"no stream-0\.json"):
        one.train(resume_from_checkpoint=True)


def _two_runs(folder):
    """Tokens of the batches and final parameters of a process, undisturbed and resumed."""
    results = []
    for checkpoint in (None, str(folder / "out" / "checkpoint-3")):
        trainer = build(folder / "out", folder, max_steps=6, save_steps=3)
        tokens_seen = []
        fetch = trainer.get_batch_samples

        def record(*arguments, fetch=fetch, tokens_seen=tokens_seen):
            batches, items = fetch(*arguments)
            tokens_seen.extend(batch["input_ids"].tolist() for batch in batches)
            return batches, items

        trainer.get_batch_samples = record
        trainer.train(resume_from_checkpoint=checkpoint)
        results.append((tokens_seen, parameters(trainer)))
    return results


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_read_their_own_parts_and_resume(tmp_path):
    write_rows(tmp_path)
    ranks = run_processes(_two_runs, 2, tmp_path, tmp_path)
    for (whole, end), (rest, resumed_end) in ranks:
        assert rest == whole[6:]
        assert all(torch.equal(end[name], resumed_end[name]) for name in end)
    assert all(a != b for a, b in zip(ranks[0][0][0], ranks[1][0][0], strict=True))
    assert all(torch.equal(ranks[0][0][1][name], value) for name, value in ranks[1][0][1].items())
