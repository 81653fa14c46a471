"""Order, parallelism, failure, resuming and stopping, with fake stages in real processes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
import yaml
from shaped_eval.benchmarks.running_sums import RunningSums
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from study_processes import ENTRY, FAKES, hold, marked_processes, num_rows, run, start, write_study
from waiting import PATIENCE_S, wait_until

from shaped_trl.recipes import ROOT as RECIPES
from shaped_trl.study import runner
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import plan
from shaped_trl.study.records import read_records, remove_records


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setattr(
        "shaped_trl.study.report.report_study", lambda folder: folder / "report.html"
    )


def events(out: Path, kind: str) -> dict[str, float]:
    """Time of the last event of a kind, by run."""
    rows = [row for row in read_jsonl(out / "runs/events.jsonl") if row["event"] == kind]
    return {str(Path(row["run"]).relative_to(out / "runs")): row["time_s"] for row in rows}


def num_starts(out: Path) -> int:
    return sum(row["event"] == "start" for row in read_jsonl(out / "runs/events.jsonl"))


def test_order_parallelism_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load_study(write_study(tmp_path, pretrain={"meet": True}), tmp_path / "out")
    assert run(study) == 0
    starts, ends = events(study.out, "start"), events(study.out, "end")
    assert len(ends) == 9
    for each in plan(study):
        for needed in each.depends_on:
            assert starts[each.key] > ends[needed]
    at_once = [sum(starts[k] <= time_s < ends[k] for k in ends) for time_s in starts.values()]
    assert max(at_once) == 2
    done = json.loads((study.folder("b", 0, "pretrain") / "done.json").read_text())
    assert done["argv"][:2] == ["train", "--config"]
    assert done["exit_code"] == 0
    assert done["attempt"] == 1
    assert done["wall_seconds"] > 0
    assert 0 < done["cpu_seconds"] < done["wall_seconds"] + 1
    assert "running train" in (study.folder("b", 0, "pretrain") / "log.txt").read_text()
    shown = capsys.readouterr().out
    assert "running  b/seed0/rlvr" in shown
    assert "done     c/seed0/eval in" in shown
    assert "[9/9]" in shown
    assert load_study(study.out / "study.yaml", study.out) == study

    assert run(study) == 0, "everything is kept"
    assert num_starts(study.out) == 9


def test_a_changed_arm_runs_again_and_keeps_the_old_folder(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    study = load_study(path, tmp_path / "out")
    assert run(study) == 0
    path.write_text(path.read_text().replace("beta: -0.25", "beta: -0.5"))
    assert run(load_study(path, tmp_path / "out")) == 0
    assert num_starts(study.out) == 9 + 3
    log = study.folder("b", 0, "pretrain") / "train_log.jsonl"
    assert [row["step"] for row in read_jsonl(log)] == [1, 2, 3], "afresh, not continued"
    stale = sorted((study.out / "stale").glob("b-seed0-*"))
    assert [path.suffix for path in stale if path.is_file()] == [".json"] * 3, (
        "what was kept of them is beside"
    )
    assert len(stale) == 6


def test_a_failure_is_shown_and_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, rlvr={"fail_arm": "b"})
    study = load_study(path, tmp_path / "out")
    assert run(study) == 1
    assert set(events(study.out, "end")) == {each.key for each in plan(study)} - {
        "b/seed0/rlvr",
        "b/seed0/eval",
    }
    failed = json.loads((study.folder("b", 0, "rlvr") / "failed.json").read_text())
    assert failed["exit_code"] == 1
    shown = capsys.readouterr().out
    assert "skipped  b/seed0/eval" in shown
    assert "RuntimeError: this arm fails" in shown
    assert "line 29\n" in shown
    assert "line 9\n" not in shown, "only the last 20 lines"

    (tmp_path / "rlvr.yaml").write_text("max_steps: 3\nfail_arm: null\n")
    assert run(load_study(path, tmp_path / "out")) == 0
    assert not (study.folder("b", 0, "rlvr") / "failed.json").exists()


def test_a_repeated_run_that_fails_takes_nothing_with_it_that_is_done(tmp_path: Path) -> None:
    """A model is trained again for one run; the others that started from it are there already."""
    path = write_study(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["arms"] = {"a": {}}
    (tmp_path / "early.yaml").write_text("max_steps: 3\n")
    early = {"command": "eval", "config": str(tmp_path / "early.yaml"), "model": "pretrain"}
    values["stages"]["early"] = early
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    study = load_study(path, tmp_path / "out")
    assert run(study) == 0
    shutil.rmtree(study.folder("a", 0, "pretrain"))
    for stage in ("eval", "early"):
        shutil.rmtree(study.folder("a", 0, stage))
        remove_records(study.out, finished=[f"a/seed0/{stage}"], failed=())
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "fails.py").write_text(
            "import fake_stages\n"
            "def main(argv):\n"
            "    if argv[0] == 'train': raise RuntimeError\n"
            "    return fake_stages.main(argv)\n"
        )
        patch.syspath_prepend(tmp_path)
        assert runner.run_study(study, entry="fails:main", preload=()) == 1
    done = read_records(study.out).finished
    assert "a/seed0/eval" in done
    assert "a/seed0/early" not in done


def test_exit_codes_of_a_command_are_kept(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path), tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "exits.py").write_text("def main(argv): raise SystemExit(2)\n")
        patch.syspath_prepend(tmp_path)
        assert runner.run_study(study, entry="exits:main", preload=()) == 1
    assert (
        json.loads((study.folder("a", 0, "pretrain") / "failed.json").read_text())["exit_code"] == 2
    )


def test_what_is_done_is_done_however_its_process_ends(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path), tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "crashes_late.py").write_text(
            "import os, fake_stages\n"
            "from multiprocessing.util import Finalize\n"
            "def main(argv):\n"
            "    Finalize(None, os._exit, args=(3,), exitpriority=0)\n"
            "    return fake_stages.main(argv)\n"
        )
        patch.syspath_prepend(tmp_path)
        assert runner.run_study(study, entry="crashes_late:main", preload=()) == 0
    assert not list(study.out.glob("runs/**/failed.json"))


def test_data_of_a_writer_that_was_killed_are_not_taken_for_the_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(write_study(tmp_path), tmp_path / "out")

    def prepare(rows: int) -> None:
        sizes = {"running_sums": {"train_rows": rows, "heldout_rows": 2, "rl_rows": 2}}
        changed = dataclasses.replace(study, prepare=sizes)
        runner.prepare_data(changed, plan(changed))

    def interrupted(options: RunningSums) -> Iterator[dict[str, str]]:
        yield {}
        raise KeyboardInterrupt

    prepare(3)
    with monkeypatch.context() as patch:
        patch.setattr("shaped_trl.data.running_sums.prompt_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(4)
    prepare(3)
    assert len((study.out / "data/train.jsonl").read_text().splitlines()) == 3


def test_two_studies_in_one_folder_are_refused(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path), tmp_path / "out")
    with (
        runner._locked(study.out, plan(study)),
        pytest.raises(UserError, match=r"in use by another .* \(seed0\)"),
    ):
        run(study)


@pytest.mark.slow
def test_parts_of_a_study_share_its_folder(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    values = yaml.safe_load(path.read_text()) | {"seeds": [0, 1], "regimes": {"x": {}, "y": {}}}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    study = load_study(path, tmp_path / "out")
    parts = [runner.share_of(plan(study), part, 3) for part in (1, 2, 3)]
    assert sorted(each.key for part in parts for each in part) == sorted(
        each.key for each in plan(study)
    )
    assert [len({(each.regime, each.seed) for each in part}) for part in parts] == [2, 1, 1]
    with runner._locked(study.out, parts[0]):
        assert runner.run_study(study, share=(2, 3), entry=ENTRY, preload=()) == 0
    done = {each.key for each in plan(study) if runner.is_done(each)}
    assert done == {each.key for each in parts[1]}


@pytest.fixture
def own_server() -> Iterator[None]:
    """A fork server for this test alone, with the environment at its start."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.usefixtures("own_server")
def test_runs_side_by_side_get_a_gpu_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    study = load_study(write_study(tmp_path, pretrain={"meet": True}), tmp_path / "out")
    assert run(study) == 0
    logs = [(each.folder / "log.txt").read_text() for each in plan(study)]
    devices = {log.split("on GPU ")[1].split()[0] for log in logs}
    assert devices == {"3", "5"}


@pytest.mark.usefixtures("own_server")
@pytest.mark.parametrize(
    ("max_parallel", "num_processes", "gpus"), [(1, None, "3"), (2, 2, "None"), (1, 2, "None")]
)
def test_a_run_has_one_gpu_unless_it_starts_several_processes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_parallel: int,
    num_processes: int | None,
    gpus: str,
) -> None:
    """None means the parent's devices; here there were none when the server started."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(runner, "gpu_names", lambda: ["3", "5"])
    study = load_study(
        write_study(tmp_path, rlvr={"num_processes": num_processes}), tmp_path / "out"
    )
    assert run(dataclasses.replace(study, max_parallel=max_parallel)) == 0
    logs = [(each.folder / "log.txt").read_text() for each in plan(study) if each.stage == "rlvr"]
    assert {log.split("on GPU ")[1].split()[0] for log in logs} == {gpus}


def test_gpus_are_named_as_cuda_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may have only the machine's fourth GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices = [Path("/dev/nvidia3"), Path("/dev/nvidiactl"), Path("/dev/nvidia-uvm")]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(devices))
    assert runner.gpu_names() == ["0"]


def test_another_study_in_the_folder_is_said_and_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path)
    assert run(load_study(path, tmp_path / "out")) == 0
    before = read_records(tmp_path / "out").finished["b/seed0/rlvr"]
    path.write_text(
        path.read_text().replace("name: ", "name: other-").replace("beta: -0.25", "beta: -0.5")
    )
    capsys.readouterr()
    assert run(load_study(path, tmp_path / "out")) == 0
    assert "contained the study" in capsys.readouterr().out
    assert num_starts(tmp_path / "out") == 9 + 3
    (kept,) = (tmp_path / "out/stale").glob("b-seed0-rlvr-*.json")
    assert json.loads(kept.read_text()) == {"key": "b/seed0/rlvr", **before}


def test_the_slurm_array_gives_the_parts(tmp_path: Path) -> None:
    script = RECIPES / "slurm/study.sbatch"
    (tmp_path / "shaped-trl").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "shaped-trl").chmod(0o755)

    def submitted(
        task: int, count: int, most: int, **more: str
    ) -> subprocess.CompletedProcess[str]:
        array = {"TASK_ID": task, "TASK_COUNT": count, "TASK_MAX": most}
        env = {f"SLURM_ARRAY_{key}": str(value) for key, value in array.items()} | more
        env |= {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", script, "studies/cpu"], env=env, capture_output=True, text=True
        )

    assert submitted(3, 16, 16).stdout == "study studies/cpu --share 3/16\n"
    assert submitted(3, 1, 3, PARTS="16").stdout == "study studies/cpu --share 3/16\n"
    for task, count, most in ((3, 1, 3), (1, 16, 15)):
        refused = submitted(task, count, most)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "give the number of parts" in refused.stderr


# Stopping


@pytest.fixture
def study_process(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[subprocess.Popen[str]]:
    """A study of slow runs that start processes, in a process group as on a terminal."""
    (tmp_path / "slow_to_import.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path)!r}, "
        "'importing').touch()\ntime.sleep(3600)\n"
    )
    path = write_study(tmp_path, pretrain={"meet": True, "max_steps": 8, "spawn": True})
    hold(tmp_path / "out", 6)
    process = start(load_study(path, tmp_path / "out"), getattr(request, "param", ()))
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("study_process", [("slow_to_import",)], indirect=True)
def test_ctrl_c_while_the_server_imports(
    tmp_path: Path, study_process: subprocess.Popen[str]
) -> None:
    wait_until((tmp_path / "importing").exists)
    os.killpg(study_process.pid, signal.SIGINT)
    output, _ = study_process.communicate(timeout=PATIENCE_S)
    assert study_process.returncode == 130
    assert "Traceback" not in output
    wait_until(lambda: not marked_processes(tmp_path / "out"))


def steps(tmp_path: Path) -> list[int]:
    log = tmp_path / "out/runs/a/seed0/pretrain/train_log.jsonl"
    return [row["step"] for row in read_jsonl(log)] if log.exists() else []


def test_ctrl_c_leaves_no_process(tmp_path: Path, study_process: subprocess.Popen[str]) -> None:
    # The study, its server, two runs and the processes that they have started.
    wait_until(lambda: len(marked_processes(tmp_path / "out")) >= 6)
    os.killpg(study_process.pid, signal.SIGINT)
    output, _ = study_process.communicate(timeout=PATIENCE_S)
    assert study_process.returncode == 130
    assert "Interrupted. The same command continues" in output
    assert "Traceback" not in output
    wait_until(lambda: not marked_processes(tmp_path / "out"))
    assert not (tmp_path / "out/runs/a/seed0/pretrain/done.json").exists()


@pytest.mark.slow
def test_sigkill_ends_the_runs_and_the_study_resumes(
    tmp_path: Path, study_process: subprocess.Popen[str]
) -> None:
    wait_until(lambda: num_rows(tmp_path / "out") >= 6)
    study_process.kill()
    wait_until(lambda: not marked_processes(tmp_path / "out"))
    assert len(steps(tmp_path)) < 8
    (tmp_path / "out/runs/hold").unlink()
    study = load_study(tmp_path / "study.yaml", tmp_path / "out")
    assert run(study) == 0
    assert steps(tmp_path) == list(range(1, 9)), "continued, no step lost or repeated"
    done = json.loads((study.folder("a", 0, "pretrain") / "done.json").read_text())
    assert done["attempt"] == 2


@pytest.mark.slow
def test_where_nobody_reads_any_more_every_process_ends(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path), tmp_path / "out")
    hold(study.out, 0)
    process = start(study)
    assert process.stdout is not None
    assert "running" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=PATIENCE_S) != 0
    wait_until(lambda: not marked_processes(study.out))
    assert not all(runner.is_done(each) for each in plan(study))
