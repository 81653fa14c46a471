"""A run that is killed at any moment, by one process or several, ends with the files of one that was not."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import run, start, start_several

N, BATCH_SIZE, PROBLEMS = 24, 4, 6


class Runs:
    """Starts the command into folders of one place, and knows what an undisturbed run writes and how long it takes."""

    def __init__(self, place: Path, model: Path, mirror: Path) -> None:
        self.place = place
        self.options = ["--model", str(model), "--benchmarks", "gsm8k", "--hub_mirror", str(mirror)]
        self.options += [
            "--n",
            str(N),
            "--batch_size",
            str(BATCH_SIZE),
            "--max_new_tokens",
            "24",
            "--temperature",
            "1.0",
        ]
        self.errors = place / "errors.txt"
        assert run(["sample", "--help"], self.errors) == 0  # the server of forks starts
        began = time.monotonic()
        assert run(self.command("whole"), self.errors) == 0, self.errors.read_text()
        self.seconds = time.monotonic() - began
        self.whole = (place / "whole/samples.jsonl").read_bytes()
        assert self.whole.count(b"\n") == N * PROBLEMS

    def command(self, out: str, command: str = "sample") -> list[str]:
        return [command, *self.options, "--out", str(self.place / out)]

    def rows(self, out: str) -> int:
        """Complete rows in all the files of samples, and of verdicts."""
        count = 0
        for path in [*(self.place / out).glob("samples*.jsonl"), self.place / out / "verdicts.jsonl"]:
            with contextlib.suppress(FileNotFoundError):  # there is none yet, or it has just been merged
                count += path.read_bytes().count(b"\n")
        return count

    def files(self, out: str) -> set[str]:
        return {path.name for path in (self.place / out).iterdir()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model_folder, mirror) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), model_folder, mirror)


def kill_at_random(
    runs: Runs, out: str, kills: int, rng: random.Random, most_processes: int, command: str, most_rows: int
) -> list[int]:
    """Kill the run `kills` times, with other numbers of processes, each time a moment after some row is there.

    Returns how many rows there were after each kill.
    """
    rows = []
    for target in sorted(rng.sample(range(most_rows), kills)):
        count = rng.randint(1, most_processes)
        if count == 1:
            processes = [start(runs.command(out, command), runs.errors)]
        else:
            processes = start_several(count, runs.command(out, command), runs.errors)
        while runs.rows(out) < target and any(process.is_alive() for process in processes):
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.05))
        for process in rng.sample(processes, count):
            process.kill()
            process.join()
        rows.append(runs.rows(out))
    return rows


def test_a_run_killed_again_and_again_ends_the_same(runs):
    rows = kill_at_random(runs, "killed", 3, random.Random(0), 1, "sample", N * PROBLEMS)
    assert any(0 < count < N * PROBLEMS for count in rows), f"no kill came amid sampling: {rows}"
    assert run(runs.command("killed"), runs.errors) == 0
    assert (runs.place / "killed/samples.jsonl").read_bytes() == runs.whole


@pytest.mark.distributed
def test_two_processes_write_what_one_writes(runs):
    processes = start_several(2, runs.command("two"), runs.errors)
    seen = set()
    while any(process.is_alive() for process in processes):
        seen |= runs.files("two") if (runs.place / "two").exists() else set()
        time.sleep(0.01)
    assert [process.exitcode for process in processes] == [0, 0], runs.errors.read_text()
    assert {"samples-0.jsonl", "samples-1.jsonl"} <= seen, "one of the processes had nothing to do"
    assert runs.files("two") == runs.files("whole")
    assert (runs.place / "two/samples.jsonl").read_bytes() == runs.whole


@pytest.mark.distributed
def test_kills_of_one_or_two_processes_end_the_same(runs):
    processes = start_several(2, runs.command("mixed"), runs.errors)
    while runs.rows("mixed") < 5 * BATCH_SIZE or not {"samples-0.jsonl", "samples-1.jsonl"} <= runs.files("mixed"):
        assert all(process.is_alive() for process in processes), runs.errors.read_text()
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()
    assert run(runs.command("mixed"), runs.errors) == 0, "one process goes on where two were killed"
    assert runs.files("mixed") == runs.files("whole")
    assert (runs.place / "mixed/samples.jsonl").read_bytes() == runs.whole


@pytest.mark.distributed
def test_only_the_first_of_several_processes_names_the_users_error(runs, tmp_path):
    errors = tmp_path / "errors.txt"
    processes = start_several(2, [*runs.command("whole"), "--seed", "7"], errors)
    processes[0].join()
    processes[1].join(timeout=20)  # a launcher would end it; alone it notices that the first one is gone
    assert processes[0].exitcode == 2
    assert errors.read_text().count("seed=7, but the run in") == 1
    assert processes[1].exitcode == 2


@pytest.mark.slow
@pytest.mark.distributed
def test_ten_kills_of_the_whole_evaluation_end_with_the_same_results(runs):
    """Sampling and grading: `eval` with one, two or three processes, killed ten times."""
    assert run(runs.command("graded", "eval"), runs.errors) == 0
    rows = kill_at_random(runs, "ten", 10, random.Random(1), 3, "eval", 2 * N * PROBLEMS)
    amid_sampling = sum(0 < count < N * PROBLEMS for count in rows)
    assert 3 <= amid_sampling < 10, f"the kills came in one stage alone: {rows}"
    assert run(runs.command("ten", "eval"), runs.errors) == 0, runs.errors.read_text()
    for name in ("samples.jsonl", "problems.jsonl", "results.json"):
        assert (runs.place / "ten" / name).read_bytes() == (runs.place / "graded" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.distributed
def test_accelerate_launch_shares_a_run(runs):
    """The real launcher; without a GPU it starts several processes only where it is told that there are some."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, "-m", "shaped_trl.cli", *runs.command("launched")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(str(runs.place / "launched")) == 1, "the first process names the folder, and no other"
    assert (runs.place / "launched/samples.jsonl").read_bytes() == runs.whole
