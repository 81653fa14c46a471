"""The progress of a study: its meters, its board and its display."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from shaped_eval.records import append_jsonl, write_atomic
from study_processes import write_study

from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import plan
from shaped_trl.study.running import progress
from shaped_trl.study.running.progress import Board, LiveDisplay, Meter, duration


def test_meters_read_steps_and_samples(tmp_path: Path) -> None:
    write_study(tmp_path, pretrain={"max_steps": 40}, eval={"n": 4})
    runs = plan(load_study(tmp_path / "study.yaml", tmp_path / "out"))
    pretrain, evaluation = runs[0], next(each for each in runs if each.stage == "eval")
    meter = Meter(pretrain)
    assert meter.read() == (0, 40)
    pretrain.folder.mkdir(parents=True)
    append_jsonl(pretrain.folder / "train_log.jsonl", [{"step": 10}, {"step": 20}])
    with open(pretrain.folder / "train_log.jsonl", "a") as log:
        log.write('{"step": 3')
    assert meter.read() == (20, 40)
    with open(pretrain.folder / "train_log.jsonl", "a") as log:
        log.write("0}\n")
    assert meter.read() == (30, 40)

    # A resumed run replaces the log by its first rows and appends longer ones.
    write_atomic(pretrain.folder / "train_log.jsonl", '{"step": 10}\n')
    append_jsonl(pretrain.folder / "train_log.jsonl", [{"step": 20, "nll": 1.2345678901234567}])
    assert meter.read() == (20, 40)

    meter = Meter(evaluation)
    assert meter.read() == (0, None)
    evaluation.folder.mkdir(parents=True)
    append_jsonl(evaluation.folder / "problems.jsonl", [{}] * 5)
    append_jsonl(evaluation.folder / "samples.jsonl", [{}] * 7)
    assert meter.read() == (7, 20)
    write_atomic(evaluation.folder / "samples.jsonl", "{}\n" * 9)  # put together anew
    assert meter.read() == (9, 20)


def test_board_projects_running_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path, all={"max_steps": 40})
    runs = plan(load_study(tmp_path / "study.yaml", tmp_path / "out"))
    clock = SimpleNamespace(monotonic=lambda: 1_000.0)
    monkeypatch.setattr(progress, "time", clock)
    board = Board(runs, max_parallel=2)
    assert board.eta_seconds(dict.fromkeys(board.states, 1.0)) is None
    board.states[runs[0].key] = "running"
    board.started_s[runs[0].key] = clock.monotonic() - 10
    runs[0].folder.mkdir(parents=True)
    append_jsonl(runs[0].folder / "train_log.jsonl", [{"step": 3}])
    assert board.projected_seconds() == {}, "too early to tell"
    append_jsonl(runs[0].folder / "train_log.jsonl", [{"step": 10}])
    assert board.projected_seconds()[runs[0].key] == pytest.approx(40)
    # 8 runs of 40 s and 30 s of this one, two at a time.
    assert board.eta_seconds(dict.fromkeys(board.states, 40.0)) == pytest.approx((8 * 40 + 30) / 2)


def test_a_study_of_more_runs_than_lines_shows_the_whole_and_what_runs(tmp_path: Path) -> None:
    runs = plan(load_study("studies/cpu-midtrain", tmp_path))
    screen = io.StringIO()
    board, display = (
        Board(runs, max_parallel=2),
        LiveDisplay(Console(file=screen, force_terminal=True, height=20), runs),
    )
    for number, each in enumerate(runs[:40]):
        board.states[each.key] = "done" if number < 38 else "running"
        display.changed(board, each)
    display.refresh(board, 600.0)
    display.close()
    last = screen.getvalue().rpartition("all runs")[2]
    assert "38/336" in last
    assert "about 10 min 00 s left" in " ".join(last.split())
    shown = [each.key for each in runs if f"{each.key} " in last]
    assert shown == [each.key for each in runs[33:40]], "the last five to end, and what runs"


def test_durations_read_like_speech() -> None:
    assert [duration(s) for s in (7.4, 185, 7_800)] == ["7 s", "3 min 05 s", "2 h 10 min"]
