"""A study of somebody else's: links in its folder, and texts on the terminal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from shaped_eval.errors import UserError
from study_processes import FAKES, run, write_study
from study_values import load, rich_values, study_values

from shaped_trl.study.definition import Study
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import StudyRun, plan
from shaped_trl.study.running.commands import print_commands
from shaped_trl.study.running.machine import this_machine
from shaped_trl.study.state import FAILED, STARTED, why_failed

LINK = "is a symbolic link, and nothing is written through links"
REDIRECT = """\
import sys
from pathlib import Path
from shaped_trl.study.running.child import _redirect_output
_redirect_output(Path(sys.argv[1]))
print("text of a run")
"""


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setattr(
        "shaped_trl.study.report.report_study", lambda folder: folder / "report.html"
    )


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder of the user's own, which has nothing to do with the study."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def start(folder: Path, fingerprint: str) -> None:
    """A run's folder as somebody else left it, after a start with other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STARTED).write_text(json.dumps({"fingerprint": fingerprint}))


def link_stale(out: Path, elsewhere: Path) -> None:
    start(out / "runs/a/seed0/pretrain", "abc")
    (elsewhere / "a-seed0-pretrain-abc").mkdir()
    (elsewhere / "a-seed0-pretrain-abc/precious").write_text("mine")
    (out / "stale").symlink_to(elsewhere)


def link_place_in_stale(out: Path, elsewhere: Path) -> None:
    start(out / "runs/a/seed0/pretrain", "abc")
    (out / "stale").mkdir()
    (out / "stale/a-seed0-pretrain-abc").symlink_to(elsewhere)


def link_run(out: Path, elsewhere: Path) -> None:
    start(elsewhere, "abc")
    (out / "runs/a/seed0").mkdir(parents=True)
    (out / "runs/a/seed0/pretrain").symlink_to(elsewhere)


def link_to_nothing(out: Path, elsewhere: Path) -> None:
    (out / "runs/a/seed0").mkdir(parents=True)
    (out / "runs/a/seed0/pretrain").symlink_to(elsewhere / "new")


def link_arm(out: Path, elsewhere: Path) -> None:
    start(elsewhere / "seed0/pretrain", "abc")
    (out / "runs").mkdir(parents=True)
    (out / "runs/a").symlink_to(elsewhere)


def link_locks(out: Path, elsewhere: Path) -> None:
    (out / ".locks").symlink_to(elsewhere)


@pytest.mark.parametrize(
    "link",
    [link_stale, link_place_in_stale, link_run, link_to_nothing, link_arm, link_locks],
    ids=lambda link: link.__name__,
)
def test_nothing_outside_the_folder_is_written_moved_or_removed(
    link: Callable[[Path, Path], None], tmp_path: Path, elsewhere: Path
) -> None:
    study = load_study(write_study(tmp_path), tmp_path / "out")
    study.out.mkdir()
    link(study.out, elsewhere)
    before = contents(elsewhere)
    with pytest.raises(UserError, match=LINK):
        run(study)
    assert contents(elsewhere) == before
    assert not (elsewhere / "new").exists()


def test_a_record_is_not_moved_through_a_link(tmp_path: Path, elsewhere: Path) -> None:
    path = write_study(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["arms"], values["stages"] = {"a": {}}, {"pretrain": values["stages"]["pretrain"]}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    assert run(load_study(path, tmp_path / "out")) == 0
    shutil.rmtree(tmp_path / "out/runs")
    (tmp_path / "out/stale").symlink_to(elsewhere)
    (tmp_path / "pretrain.yaml").write_text("max_steps: 2\n")
    with pytest.raises(UserError, match=LINK):
        run(load_study(path, tmp_path / "out"))
    assert contents(elsewhere) == {"precious": "mine"}


def test_data_is_not_written_through_a_link(tmp_path: Path, elsewhere: Path) -> None:
    path = write_study(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["prepare"] = {"running_sums": {"train_rows": 1}}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/data").symlink_to(elsewhere)
    with pytest.raises(UserError, match=LINK):
        run(load_study(path, tmp_path / "out"))
    assert contents(elsewhere) == {"precious": "mine"}


def continued(tmp_path: Path) -> tuple[Study, StudyRun]:
    """A study in a folder in which it would continue its first run."""
    study = load_study(write_study(tmp_path), tmp_path / "out")
    first = plan(study)[0]
    first.folder.mkdir(parents=True)
    started = {"fingerprint": first.fingerprint, "argv": first.argv, "attempt": 1}
    started["machine"] = this_machine(study.max_parallel)
    (first.folder / STARTED).write_text(json.dumps(started))
    return study, first


def test_a_log_that_is_a_link_gets_no_output_and_is_not_shown(
    tmp_path: Path, elsewhere: Path
) -> None:
    study, first = continued(tmp_path)
    (first.folder / FAILED).write_text("{}")
    log = first.folder / "log.txt"
    log.symlink_to(elsewhere / "precious")
    assert why_failed(first.folder, first.key, study.out) == ""
    with pytest.raises(UserError, match=LINK):
        run(study)
    done = subprocess.run(
        [sys.executable, "-c", REDIRECT, str(log)], capture_output=True, text=True, check=False
    )
    assert LINK in done.stderr
    assert contents(elsewhere) == {"precious": "mine"}


def test_a_run_is_not_continued_in_a_folder_with_links(tmp_path: Path, elsewhere: Path) -> None:
    study, first = continued(tmp_path)
    (first.folder / "checkpoint-2").symlink_to(elsewhere)
    with pytest.raises(UserError, match=rf"checkpoint-2' {LINK}"):
        run(study)
    assert contents(elsewhere) == {"precious": "mine"}


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ('output_dir: "{data}/../../elsewhere"', "output_dir: the study sets it"),
        ('model_name_or_path: "{data}"\nseed: "{data}"', "seed: the study sets it"),
        ('output-dir: "{data}"', "'output-dir' is not the name of an option"),
        (
            'dataset_name: ["{data}/a.jsonl", "--push_to_hub=true"]',
            "dataset_name: '--push_to_hub=true' would be read as another option",
        ),
    ],
)
def test_a_recipe_sets_no_option_of_the_studys(recipe: str, named: str, tmp_path: Path) -> None:
    study = load(tmp_path, study_values(tmp_path))
    (tmp_path / "pretrain.yaml").write_text(recipe)
    with pytest.raises(UserError) as caught:
        plan(study)
    assert named in str(caught.value)


def test_a_dry_run_shows_hostile_texts_without_their_effects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = rich_values(tmp_path)
    values["stages"]["eval"]["args"]["label"] = "\x1b]0;title\x07 \u202e"
    values["stages"]["rlvr"]["args"] = {"run_name": "a\nrm -rf ~\n"}
    # its rollouts' options are printed as a comment, since no command of ours takes them
    values["arms"]["matched"]["matched_on"] = "rollouts"
    study = load(tmp_path, values)
    print_commands(study, [run for run in plan(study) if run.command in ("match", "eval")])
    shown = capsys.readouterr().out
    assert "[U+001B]]0;title[U+0007] [U+202E]" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)
    assert "# match --model" in shown
    assert "\nrm -rf" not in shown
