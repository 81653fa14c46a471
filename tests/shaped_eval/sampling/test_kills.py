"""A run of one or more processes that is killed at any moment ends with the same files."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from command_line import STOP_AT, let_go, run, start, start_several, waits
from waiting import wait_until

N, BATCH_SIZE, PROBLEMS = 24, 4, 6


class Runs:
    """Starts the command in folders of one place, and knows what an undisturbed run writes."""

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
        assert run(["sample", "--help"], self.errors) == 0  # the fork server starts
        assert run(self.command("whole"), self.errors) == 0, self.errors.read_text()
        self.whole = (place / "whole/samples.jsonl").read_bytes()
        assert self.whole.count(b"\n") == N * PROBLEMS

    def command(self, out: str, command: str = "sample") -> list[str]:
        return [command, *self.options, "--out", str(self.place / out)]

    def rows(self, out: str) -> int:
        """The number of complete rows in all files of samples and verdicts."""
        count = 0
        for path in [
            *(self.place / out).glob("samples*.jsonl"),
            self.place / out / "verdicts.jsonl",
        ]:
            # it does not exist yet, or has just been merged
            with contextlib.suppress(FileNotFoundError):
                count += path.read_bytes().count(b"\n")
        return count

    def holds_or_has_ended(self, processes: list[BaseProcess]) -> bool:
        """Whether one process waits at its `STOP_AT`, or all have ended."""
        return any(waits(one, self.errors) for one in processes) or not any(
            one.is_alive() for one in processes
        )

    def files(self, out: str) -> set[str]:
        return {path.name for path in (self.place / out).iterdir()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model_folder, mirror) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), model_folder, mirror)


def kill_at_random(
    runs: Runs,
    out: str,
    kills: int,
    rng: random.Random,
    most_processes: int,
    command: str,
    most_rows: int,
) -> list[int]:
    """Kill the run `kills` times, with varying numbers of processes.

    Each kill happens when a process has written at most `most_rows` rows. Returns the number of
    rows after each kill.
    """
    rows = []
    for _ in range(kills):
        count, more = rng.randint(1, most_processes), {STOP_AT: str(rng.randint(1, most_rows))}
        if count == 1:
            processes = [start(runs.command(out, command), runs.errors, **more)]
        else:
            processes = start_several(count, runs.command(out, command), runs.errors, **more)
        wait_until(partial(runs.holds_or_has_ended, processes))
        for process in rng.sample(processes, count):
            process.kill()
            process.join()
        rows.append(runs.rows(out))
    return rows


def test_a_run_killed_again_and_again_ends_the_same(runs):
    rows = kill_at_random(runs, "killed", 3, random.Random(0), 1, "sample", 20)
    assert 0 < rows[0] < rows[1] < rows[2] < N * PROBLEMS
    assert run(runs.command("killed"), runs.errors) == 0
    assert (runs.place / "killed/samples.jsonl").read_bytes() == runs.whole


@pytest.mark.distributed
def test_two_processes_write_what_one_writes(runs):
    processes = start_several(2, runs.command("two"), runs.errors, **{STOP_AT: "1"})
    wait_until(lambda: all(waits(process, runs.errors) for process in processes))
    assert {"samples-0.jsonl", "samples-1.jsonl"} <= runs.files("two")
    for process in processes:
        let_go(process, runs.errors)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0], runs.errors.read_text()
    assert runs.files("two") == runs.files("whole")
    assert (runs.place / "two/samples.jsonl").read_bytes() == runs.whole


@pytest.mark.distributed
def test_kills_of_one_or_two_processes_end_the_same(runs):
    processes = start_several(
        2, runs.command("mixed"), runs.errors, **{STOP_AT: str(2 * BATCH_SIZE)}
    )
    wait_until(lambda: all(waits(process, runs.errors) for process in processes))
    for process in processes:
        process.kill()
        process.join()
    assert runs.rows("mixed") == 4 * BATCH_SIZE
    assert run(runs.command("mixed"), runs.errors) == 0, "one process goes on where two were killed"
    assert runs.files("mixed") == runs.files("whole")
    assert (runs.place / "mixed/samples.jsonl").read_bytes() == runs.whole


@pytest.mark.distributed
def test_only_the_first_of_several_processes_names_the_users_error(runs, tmp_path):
    errors = tmp_path / "errors.txt"
    processes = start_several(2, [*runs.command("whole"), "--seed", "7"], errors)
    processes[0].join()
    processes[
        1
    ].join()  # a launcher would end it; without one, it notices that the first process has ended
    assert processes[0].exitcode == 2
    assert errors.read_text().count("seed=7, but the run in") == 1
    assert processes[1].exitcode == 2


@pytest.mark.slow
@pytest.mark.distributed
def test_ten_kills_of_the_whole_evaluation_end_with_the_same_results(runs):
    """`eval` samples and grades with one, two or three processes, and is killed ten times."""
    assert run(runs.command("graded", "eval"), runs.errors) == 0
    rows = kill_at_random(runs, "ten", 10, random.Random(1), 3, "eval", 50)
    amid_sampling = sum(0 < count < N * PROBLEMS for count in rows)
    assert 3 <= amid_sampling < 10, f"the kills came in one stage alone: {rows}"
    assert run(runs.command("ten", "eval"), runs.errors) == 0, runs.errors.read_text()
    for name in ("samples.jsonl", "problems.jsonl", "results.json"):
        assert (runs.place / "ten" / name).read_bytes() == (
            runs.place / "graded" / name
        ).read_bytes(), name


@pytest.mark.slow
@pytest.mark.distributed
def test_accelerate_launch_shares_a_run(runs):
    """The real launcher. Without a GPU, it starts several processes only if told of GPUs."""
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
    ]
    launch += [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    ]
    command = [*launch, "-m", "shaped_trl.cli", *runs.command("launched")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(str(runs.place / "launched")) == 1, (
        "the first process names the folder, and no other"
    )
    assert (runs.place / "launched/samples.jsonl").read_bytes() == runs.whole
