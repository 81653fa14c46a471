"""SIGKILL of the trainer, of the rollout process and of the server: nothing hangs, the last line
has the cause, and the same command goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from places import ROOT
from real_vllm import alive, tree
from rlvr_async import free_port, save_model
from rlvr_tiny import scripted_prompts
from waiting import wait_for_server, wait_until

from shaped_trl.rlvr.asynchronous.weights import MEMORY, PREFIX

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

HELPERS = ROOT / "tests" / "helpers"
LIMIT_S = 850  # for what hangs
OPTIONS = ("max_steps=8", "save_strategy=steps", "save_steps=2", "num_generations=4")


class Runs:
    """A server and runs against it, as processes of their own."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        save_model(folder / "model")
        self.started: list[subprocess.Popen] = []

    def _start(self, program: str, *words: str, **options) -> subprocess.Popen:
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("env", {})
        command = [sys.executable, str(HELPERS / program), *words]
        process = subprocess.Popen(command, env=environment, start_new_session=True, **options)
        self.started.append(process)
        return process

    def server(self) -> subprocess.Popen:
        process = self._start("tiny_server.py", str(self.folder / "model"), str(self.port))
        wait_for_server(self.address, process)
        return process

    def trainer(self, *options: str, env: dict[str, str] | None = None) -> subprocess.Popen:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        words = (str(self.folder), self.address, "0", *OPTIONS, *options)
        return self._start("rlvr_async.py", *words, **streams, env=env or {})

    def saved(self, step: int) -> bool:
        return (self.folder / f"checkpoint-{step}" / "trainer_state.json").is_file()


@pytest.fixture
def runs(tmp_path):
    one = Runs(tmp_path)
    yield one
    for process in one.started:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in tree(process.pid):
                each.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def rollout_process(trainer: subprocess.Popen) -> psutil.Process:
    """The child that has children or threads of its own: not multiprocessing's resource tracker."""
    found = []

    def there() -> bool:
        found[:] = [
            child
            for child in psutil.Process(trainer.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        return bool(found)

    wait_until(there)
    return found[0]


@pytest.mark.parametrize("victim", ["rollouts", "server", "trainer"])
def test_a_kill_is_named_and_the_same_command_goes_on(runs, victim):
    server = runs.server()
    trainer = runs.trainer()
    wait_until(lambda: runs.saved(2) or trainer.poll() is not None)
    assert trainer.poll() is None, trainer.stdout.read()
    below = tree(trainer.pid)
    if victim == "rollouts":
        rollout_process(trainer).kill()
    elif victim == "server":
        server.kill()
        server.wait()
    else:
        trainer.kill()
    output, _ = trainer.communicate(timeout=LIMIT_S)
    wait_until(lambda: not alive(below))
    last = output.strip().splitlines()[-1]
    if victim == "trainer":
        assert trainer.returncode == -signal.SIGKILL
    else:
        assert trainer.returncode == 1
        assert "continues from the last checkpoint" in last
        assert {
            "rollouts": "the rollout process was killed by SIGKILL",
            "server": f"the vLLM server at {runs.address} does not answer any more",
        }[victim] in last

    if victim == "server":
        runs.server()
    output, _ = (again := runs.trainer()).communicate(timeout=LIMIT_S)
    assert again.returncode == 0, output
    assert "continuing from" in output
    rows = [json.loads(line) for line in (runs.folder / "rl_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert (runs.folder / "model.safetensors").is_file()
    # a transfer that was cut off has left its folder, which the second run removed
    for each in (trainer, again):
        assert not list(MEMORY.glob(f"{PREFIX}{each.pid}-*"))


def test_prompts_of_the_checkpoint_are_neither_lost_nor_repeated(runs):
    """What the rollout process graded after a resume are the prompts that no surviving step had."""
    runs.server()
    trainer = runs.trainer()
    wait_until(lambda: runs.saved(4) or trainer.poll() is not None)
    trainer.kill()
    trainer.communicate()
    before = len((runs.folder / "calls.jsonl").read_text().splitlines())
    checkpoint = max(runs.folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    stream = state["stateful_callbacks"]["_AsyncRLVRCallback"]["stream"]
    runs.trainer().communicate(timeout=LIMIT_S)
    lines = (runs.folder / "calls.jsonl").read_text().splitlines()[before:]
    prompts = [json.loads(line)["prompt"] for line in lines]
    dataset = scripted_prompts()["prompt"]
    open_prompts = Counter(dataset[row] for row in stream["open"])
    # all that were under way come again, before any prompt comes twice
    first = prompts[: len(stream["open"]) + 4]
    assert len(stream["open"]) > 0
    missing = open_prompts - Counter(first)
    assert sum(missing.values()) <= 4  # those that are not yet graded among the first
    assert not open_prompts - Counter(prompts)


def test_two_processes_train_on_the_rollouts_of_one(runs):
    runs.server()
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    group |= {"ACCELERATE_USE_CPU": "true"}
    ranks = [
        runs.trainer(
            "per_device_train_batch_size=4",
            "max_steps=4",
            env={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    for rank in ranks:
        output, _ = rank.communicate(timeout=LIMIT_S)
        assert rank.returncode == 0, output[-4000:]
    rows = [json.loads(line) for line in (runs.folder / "rl_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["batch/samples_per_step"] == 8 for row in rows)
    assert max(row["logprob_difference/max"] for row in rows) < 1e-4
    state = json.loads((runs.folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["_AsyncRLVRCallback"]["stream"]["drawn"] > 0
