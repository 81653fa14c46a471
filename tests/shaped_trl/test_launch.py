"""How a command starts its processes, says once what ended them, and leaves none behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
import yaml
from launched_tiny import launched, losses, write
from places import ROOT
from shaped_eval.errors import UserError
from waiting import PATIENCE_S, wait_until

from shaped_trl import launch, recipes
from shaped_trl.cli import main
from shaped_trl.launch import LaunchArguments, launch_options, launcher_arguments
from shaped_trl.modeling.architectures import paper_config
from shaped_trl.training import ShapedConfig
from shaped_trl.training.engines import check_parallelism, division
from shaped_trl.training.memory import step_memory
from shaped_trl.training.resuming import last_checkpoint


def config_of(tmp_path, **settings):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def test_the_command_line_wins_over_the_recipe(tmp_path):
    config = config_of(tmp_path, num_processes=2, accelerate_config="fsdp2", beta=0.5)
    argv = ["--num_processes=4", "--beta", "0.1", "--main_process_port", "29501"]
    options = launch_options(argv, config)
    assert options == LaunchArguments(
        num_processes=4, accelerate_config="fsdp2", main_process_port=29501
    )
    words = launcher_arguments(options)
    assert words[:2] == ["--config_file", str(recipes.ROOT / "accelerate" / "fsdp2.yaml")]
    assert words[2:] == ["--num_processes", "4", "--main_process_port", "29501"]
    assert launcher_arguments(launch_options(["--num_processes", "2"], None)) == [
        *("--multi_gpu", "--main_process_port", "0", "--num_processes", "2")
    ]
    assert not launch_options(["--num_processes", "1"], None).starts_processes


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--num_processes", "two"], ["num_processes", "two", "whole number"]),
        (["--num_processes", "0"], ["num_processes", "0", "at least 1"]),
        (["--accelerate_config", "fsdp3"], ["accelerate_config", "fsdp3", "fsdp2"]),
        (
            ["--num_machines", "2", "--num_processes", "4"],
            ["num_machines=2", "machine_rank", "main_process_ip"],
        ),
        (
            [
                "--num_processes=3",
                "--machine_rank=0",
                "--main_process_ip=h",
                "--main_process_port=1",
                "--num_machines=2",
            ],
            ["num_processes=3", "num_machines=2"],
        ),
    ],
)
@pytest.mark.parametrize("command", ["train", "rlvr"])
def test_mistakes_start_nothing(command, argv, parts, monkeypatch, capsys):
    monkeypatch.setattr(launch, "_supervise", lambda *_: pytest.fail("started"))
    assert main([command, *argv]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert all(part in error for part in parts), error


def test_who_was_started_or_only_looks_starts_nothing(monkeypatch):
    monkeypatch.setattr(launch, "_supervise", lambda *_: 7)
    asked = ["--num_processes", "2"]
    assert launch.launch("train", asked, None) == 7
    assert launch.launch("train", [*asked, "--dry_run"], None) is None
    assert launch.launch("train", [*asked, "--dry_run", "false"], None) == 7
    assert launch.launch("train", [*asked, "--dry_run=false"], None) == 7
    assert launch.launch("train", [], None) is None
    monkeypatch.setattr(launch, "_stay_together", lambda: None)
    for name in launch.LAUNCHED:
        with monkeypatch.context() as context:
            context.setenv(name, "0")
            assert launch.launch("train", asked, None) is None


@pytest.mark.skipif(torch.accelerator.is_available(), reason="has a GPU")
def test_without_a_gpu_processes_meet_over_gloo_and_deepspeed_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    assert launch.launch("train", [], None) is None
    assert os.environ["ACCELERATE_USE_CPU"] == "true"
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    with pytest.raises(UserError, match=r"zero3.* needs a GPU.*fsdp2"):
        launch.launch("train", [], None)


def test_the_memory_in_the_book_is_that_of_a_dry_run():
    text = (ROOT / "docs/guides/devices.md").read_text(encoding="utf-8")
    for name in ("1b", "4b", "5b-a0.3b", "10b-a0.5b"):
        given = {"sequences": 1, "length": 4096, "flash": True}
        cases = [
            {"devices": 1},
            {"devices": 8},
            {"devices": 8, "sharded": True},
            {"devices": 64, "sharded": True},
        ]
        totals = [step_memory(paper_config(name), **given, **case).total / 2**30 for case in cases]
        assert f"| {name} | {' | '.join(f'{total:.1f}' for total in totals)} |" in text, totals


def test_every_shipped_configuration_is_read_by_accelerate():
    names = sorted(path.stem for path in (recipes.ROOT / "accelerate").glob("*.yaml"))
    assert names == ["ddp", "fsdp2", "tp", "zero3"]
    assert not any(name.startswith("accelerate") for name in recipes.names())
    assert launched("fsdp2")["FSDP_VERSION"] == "2"
    assert launched("zero3")["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"
    assert launched("tp")["PARALLELISM_CONFIG_TP_SIZE"] == "8"
    assert "ACCELERATE_USE_FSDP" not in launched("ddp")


def test_division_counts_processes_that_share_a_batch_once(tmp_path, monkeypatch):
    args = ShapedConfig(
        str(tmp_path), per_device_train_batch_size=3, gradient_accumulation_steps=5, use_cpu=True
    )
    assert division(args) == {"sequences": 15, "rank": 0, "world": 1}
    for name, value in launched("tp").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ShapedConfig, "world_size", 16)
    assert division(args)["sequences"] == 30


@pytest.mark.parametrize("name", ["CP", "SP"])
def test_divided_sequences_are_refused(name, tmp_path, monkeypatch):
    args = ShapedConfig(str(tmp_path), use_cpu=True)
    check_parallelism(args, 1)
    monkeypatch.setenv("ACCELERATE_USE_PARALLELISM_CONFIG", "true")
    monkeypatch.setenv(f"PARALLELISM_CONFIG_{name}_SIZE", "2")
    with pytest.raises(
        UserError, match=f"parallelism_config_{name.lower()}_size=2 is not supported: a sequence"
    ):
        check_parallelism(args, 1)


def test_what_tensor_parallelism_cannot_save_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"save_strategy='steps': .*tensor parallelism .* save_only_model: true"
    ):
        check_parallelism(ShapedConfig(str(tmp_path), use_cpu=True), 2)
    check_parallelism(ShapedConfig(str(tmp_path), use_cpu=True, save_only_model=True), 2)


def test_a_command_that_does_not_end_is_killed_with_all_it_started(monkeypatch, tmp_path, capsys):
    """The second process ignores signals, and is in no group and no tree of the first, which is
    gone."""
    stubborn = (
        "import signal, time, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        f"open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(3600)"
    )
    starts = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)"
    code = f"{starts}; import time; time.sleep(3600)"
    monkeypatch.setattr(launch, "GRACE_S", 3.0)
    causes = str(tmp_path)

    def interrupt():
        while not (tmp_path / "up").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert launch._supervise([sys.executable, "-c", code], causes) == 130
    assert capsys.readouterr().err.endswith(
        "interrupted; the same command continues from the last checkpoint\n"
    )
    # a process that was killed may not have been scheduled since
    wait_until(lambda: not processes_of(causes))
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def processes_of(causes):
    """Those that have it in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get(launch.CAUSES) == causes
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_first_cause_is_that_of_the_last_attempt(tmp_path, monkeypatch, capsys):
    rows = [
        {"time": 1.0, "rank": 0, "attempt": 0, "text": "old", "user": False},
        {"time": 3.0, "rank": 0, "attempt": 1, "text": "closed by peer", "user": False},
        {"time": 2.0, "rank": 1, "attempt": 1, "text": "ValueError: x", "user": False},
    ]
    for i, row in enumerate(rows):
        (tmp_path / f"{i}.json").write_text(json.dumps(row))
    monkeypatch.setenv(launch.CAUSES, str(tmp_path))
    assert launch._print_cause(1, "rank 0") == 1
    assert capsys.readouterr().err.startswith(
        "shaped-trl: error: rank 1: ValueError: x; the same command continues"
    )


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("user", 2, "shaped-trl: error: beta=-2 is below -1"),
        (
            "raise",
            1,
            "shaped-trl: error: rank 1: RuntimeError: the second rank's; the same command continues",
        ),
        pytest.param(
            "kill", 1, "shaped-trl: error: rank 1 was killed by SIGKILL", marks=pytest.mark.slow
        ),
    ],
)
def test_the_first_cause_is_the_last_line(how, code, said, tmp_path, monkeypatch, capfd):
    words = [
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
        "failing_ranks",
        how,
    ]
    helpers = str(next(path for path in sys.path if path.endswith("helpers")))
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join([helpers, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    )
    assert (
        launch._supervise([sys.executable, "-m", "shaped_trl.launch", *words], str(tmp_path))
        == code
    )
    lines = capfd.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(said), lines
    if how == "user":
        assert [line for line in lines if "error" in line] == lines[-1:]


@pytest.mark.slow
@pytest.mark.distributed
def test_interrupted_then_a_rank_killed_the_run_goes_on(tmp_path):
    """Ctrl-C, the same command, SIGKILL of a rank, and the rest on one process: the losses of a run
    left alone."""
    slow = {"max_steps": 32, "save_steps": 4, "learning_rate": 0.001}
    recipe = write(tmp_path, use_cpu=False, dataloader_pin_memory=False, **slow)
    two = [
        sys.executable,
        "-m",
        "shaped_trl.cli",
        "train",
        "--config",
        recipe,
        "--output_dir",
        str(tmp_path / "run"),
    ]
    two += ["--num_processes", "2", "--per_device_train_batch_size", "2"]

    def start(errors):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(two, stdout=subprocess.DEVNULL, stderr=errors, env=environment)

    def step():
        checkpoint = last_checkpoint(tmp_path / "run")
        return int(checkpoint.rpartition("-")[2]) if checkpoint else 0

    def wait_until_beyond(before, command):
        while step() <= before:
            assert command.poll() is None
            time.sleep(0.1)
        return psutil.Process(command.pid).children(recursive=True)

    with open(tmp_path / "interrupted", "w+") as errors:
        command = start(errors)
        started = wait_until_beyond(0, command)
        command.send_signal(signal.SIGINT)
        assert command.wait(PATIENCE_S) == 130
        assert len(started) >= 3
        assert not psutil.wait_procs(started, timeout=PATIENCE_S)[1]
        errors.seek(0)
        assert errors.read().count("interrupted; the same command continues") == 1
    with open(tmp_path / "killed", "w+") as errors:
        command = start(errors)
        started = wait_until_beyond(step(), command)
        ranks = {
            process.environ()["RANK"]: process for process in started if "RANK" in process.environ()
        }
        ranks["1"].kill()
        assert command.wait(PATIENCE_S) == 1
        assert not psutil.wait_procs(started, timeout=PATIENCE_S)[1]
        errors.seek(0)
        assert "rank 1 was killed by SIGKILL" in errors.read().splitlines()[-1]
    assert 4 < step() < 32
    one = ["train", "--config", recipe, "--output_dir"]
    assert main([*one, str(tmp_path / "run")]) == 0
    assert main([*one, str(tmp_path / "alone")]) == 0
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "alone"), abs=1e-6)
