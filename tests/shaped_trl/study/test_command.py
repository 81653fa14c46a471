"""Typing errors in `shaped-trl study` give one line and exit code 2, and start nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from shaped_trl import cli

STUDY = """\
name: small
baseline: a
arms: {a: {}, b: {shape: {beta: -0.25}}}
stages: {pretrain: {command: train, config: demo/pretrain, shaped: true}}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "X.yaml").write_text(STUDY)
    (tmp_path / "file").write_text("mine")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert cli.main(["study", *argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["X.yaml", "--out", "file"], "file is a file: name a folder"),
        (["X.yaml", "--out", "file", "--dry_run"], "file is a file: name a folder"),
        (["X.yaml", "--out", "file/deep/out"], "file is a file: name a folder"),
        (["X.yaml", "--out", "/proc/0/out"], "out='/proc/0/out' cannot be written: No such file"),
        (["X.yaml", "--out", "x" * 300], "cannot be used: File name too long"),
        (["Y.yaml"], "study='Y.yaml': no such file or recipe"),
        (["."], "study='.': no such file or recipe"),
        (["X.yaml", "--share", "3/2"], "--share 3/2: give I/N with 1 <= I <= N"),
        (["X.yaml", "--share", "0/2"], "--share 0/2: give I/N"),
        (["X.yaml", "--share", "²/²"], "--share ²/²: give I/N"),
        (["X.yaml", "--max_parallel", "0"], "--max_parallel 0: give a whole number of at least 1"),
        (["X.yaml", "--max_parallel", "two"], "--max_parallel: invalid int value: 'two'"),
        (["X.yaml", "--parallel", "2"], "--parallel"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line(
    here: Path, capsys: pytest.CaptureFixture[str], argv: list[str], named: str
) -> None:
    assert named in refused(capsys, *argv)
    assert sorted(path.name for path in here.iterdir()) == ["X.yaml", "file"]
    assert (here / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        (
            "baseline: a",
            "basline: a",
            "X.yaml: unknown key 'basline'; allowed: name, seeds, baseline",
        ),
        ("baseline: a", "", "X.yaml: the key 'baseline' is missing"),
        ("baseline: a", "baseline: [a]", "baseline: ['a']; give a name"),
        ("name: small", "name: [", "study='X.yaml' is not YAML: line "),
        (STUDY, "", "study='X.yaml' must be a mapping"),
        ("shape: {", "shap: {", "arms.b: unknown key 'shap'; allowed: shape"),
        ("shape: {beta: -0.25}", "args: 3", "arms.b.args: 3 is not a mapping"),
        ("shape: {beta: -0.25}", "checkpoint_of: [a]", "arms.b.checkpoint_of: ['a']; give a name"),
        (
            "shape: {beta: -0.25}",
            "exploratory: 'no'",
            "arms.b.exploratory: 'no'; give true or false",
        ),
        ("command: train", "command: [train]", "stages.pretrain.command: ['train']; give a name"),
        ("config: demo/pretrain", "config: 3", "stages.pretrain.config: 3; give a name"),
        ("config: demo/pretrain", "config: demo/pretrian", "demo/pretrian"),
        ("shaped: true", "shaped: 'no'", "stages.pretrain.shaped: 'no'; give true or false"),
    ],
    ids=lambda value: None if value == STUDY else value,
)
def test_a_wrong_study_file(
    here: Path, capsys: pytest.CaptureFixture[str], right: str, wrong: str, named: str
) -> None:
    assert STUDY.count(right) == 1
    (here / "X.yaml").write_text(STUDY.replace(right, wrong))
    assert named in refused(capsys, "X.yaml", "--out", "out")
    assert not (here / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("start", [[], ["--dry_run"]], ids=["start", "dry run"])
@pytest.mark.parametrize(
    ("args", "named"),
    [
        (
            "{max_stepss: 3}",
            "a/seed0/pretrain: train: unknown flag: --max_stepss; did you mean --max_steps?",
        ),
        ("{max_steps: 1e3}", "invalid int value: '1e3'"),
    ],
)
def test_an_option_that_no_run_would_take(
    here: Path, capsys: pytest.CaptureFixture[str], start: list[str], args: str, named: str
) -> None:
    (here / "X.yaml").write_text(STUDY.replace("shaped: true", f"shaped: true, args: {args}"))
    assert named in refused(capsys, "X.yaml", "--out", "out", *start)
    assert not (here / "out").exists()


def test_a_study_file_that_is_no_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "X.yaml").write_bytes(b"\xff\xfe\x00")
    assert "study='X.yaml' is not YAML" in refused(capsys, "X.yaml")
