"""The pre-registration: hash, commit and changes, and git that runs nothing of a repository."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from contrast_values import SMALL
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from study_processes import ENTRY, FAKES, write_study

from shaped_trl.study import runner
from shaped_trl.study.loading import load_study
from shaped_trl.study.registration import (
    REGISTRATION,
    commit_of,
    read_registration,
    register,
    was_edited,
)


def git(folder: Path, *words: str) -> str:
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    people = {
        f"GIT_{who}_{what}": "someone"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    nowhere = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    result = subprocess.run(
        ["git", "-C", str(folder), *words],
        check=True,
        capture_output=True,
        text=True,
        env=own | people | nowhere,
    )
    return result.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a committed study file."""
    folder = tmp_path / "repository"
    (folder / "studies").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "studies/one.yaml").write_text("name: one\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "A study")
    return folder


def test_a_committed_file_has_the_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = repository / "studies/one.yaml"
    head = git(repository, "rev-parse", "HEAD")
    assert commit_of(file) == head
    monkeypatch.chdir(repository / "studies")
    assert commit_of(Path("one.yaml")) == head
    (repository / "link.yaml").symlink_to(file)
    assert commit_of(repository / "link.yaml") == head, "it is the file that is committed"
    # as within a hook of another repository
    monkeypatch.setenv("GIT_DIR", str(repository.parent))
    assert commit_of(file) == head


def test_a_file_that_is_not_committed_unchanged_has_none(repository: Path) -> None:
    file = repository / "studies/one.yaml"
    file.write_text("name: two\n")
    assert commit_of(file) is None
    git(repository, "add", ".")
    assert commit_of(file) is None, "it is staged, but not committed"
    git(repository, "commit", "-q", "-m", "Another")
    assert commit_of(file) == git(repository, "rev-parse", "HEAD")
    other = repository / "new.yaml"
    other.write_text("name: two\n")
    assert commit_of(other) is None, "another file has the same bytes"
    outside = repository.parent / "outside.yaml"
    outside.write_text("name: one\n")
    assert commit_of(outside) is None


def test_a_repository_with_sha256_is_read(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256")
    (tmp_path / "one.yaml").write_text("name: one\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "A study")
    commit = commit_of(tmp_path / "one.yaml")
    assert commit == git(tmp_path, "rev-parse", "HEAD")
    assert commit is not None
    assert len(commit) == 64


def test_nothing_of_the_repository_is_run(repository: Path) -> None:
    """Its filters, monitor, hooks and transports would each leave a file."""
    marks = repository.parent / "marks"
    marks.mkdir()

    def command(name: str) -> str:
        return f"touch {marks / name}; cat"

    (repository / ".git/info").mkdir(exist_ok=True)
    (repository / ".git/info/attributes").write_text("*.yaml filter=evil diff=evil\n")
    for name in ("filter.evil.clean", "filter.evil.smudge", "diff.evil.textconv", "core.pager"):
        git(repository, "config", name, command(name))
    git(repository, "config", "core.fsmonitor", command("monitor"))
    git(repository, "config", "alias.rev-parse", f"!{command('alias')}")
    file = repository / "studies/one.yaml"
    file.touch()  # so that git would have to read it again
    assert commit_of(file) == git(repository, "rev-parse", "HEAD")
    assert list(marks.iterdir()) == []
    git(repository, "status")
    assert list(marks.iterdir()), "the traps work"


def test_a_missing_object_is_not_fetched(repository: Path) -> None:
    """In a partial clone git would start a transport, which its configuration names."""
    mark = repository.parent / "mark"
    tree = git(repository, "rev-parse", "HEAD:studies")
    (repository / ".git/objects" / tree[:2] / tree[2:]).unlink()
    git(repository, "config", "core.repositoryFormatVersion", "1")
    git(repository, "config", "extensions.partialClone", "origin")
    git(repository, "config", "remote.origin.promisor", "true")
    git(repository, "config", "remote.origin.url", "ssh://nowhere.invalid/x")
    git(repository, "config", "core.sshCommand", f"touch {mark}; false")
    git(repository, "config", "protocol.ssh.allow", "always")
    assert commit_of(repository / "studies/one.yaml") is None
    assert not mark.exists()
    with pytest.raises(subprocess.CalledProcessError):
        git(repository, "rev-parse", "HEAD:studies/one.yaml")
    assert mark.exists(), "the trap works"


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setattr(
        "shaped_trl.study.report.report_study", lambda folder: folder / "report.html"
    )


def run(file: Path, out: Path) -> None:
    study = load_study(file, out)
    assert runner.run_study(study, file=file, entry=ENTRY, preload=()) == 0


def test_starts_are_registered_if_the_study_differs(tmp_path: Path) -> None:
    file, out = write_study(tmp_path), tmp_path / "out"
    runner.run_study(load_study(file, out), file=file, dry_run=True, entry=ENTRY, preload=())
    assert not out.exists()
    run(file, out)
    (first,) = read_registration(out)
    assert first.study_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (first.commit, first.records, first.changes) == (None, 0, [])
    assert first.date.endswith("+00:00")
    run(file, out)
    file.write_text("# a comment\n" + file.read_text())
    run(file, out)
    assert read_registration(out) == [first], "the same study"

    values: dict[str, Any] = yaml.safe_load(file.read_text())
    values["arms"]["b"]["shape"]["beta"] = -0.5
    values["arms"]["d"] = {"checkpoint_of": "a", "temperature": 0.5, "exploratory": True}
    values["contrasts"] = {
        **SMALL,
        "primary": {"stage": "rlvr", "metric": "reward"},
        "claims": {"b": {"text": "T", "compare": [{"arm": "b", "against": "a"}]}},
    }
    del values["arms"]["c"]
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    run(file, out)
    _, second = read_registration(out)
    assert second.records == 9
    assert second.study_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert second.changes[:2] == [
        "arms.b.shape.beta: -0.25 -> -0.5",
        "arms.c.shape.beta: 0.5 -> nothing",
    ]
    assert "arms.d.temperature: nothing -> 0.5" in second.changes
    assert "contrasts.margin: nothing -> 0.015" in second.changes


def test_what_is_not_in_the_file_is_registered_if_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe, the code, and the settings in the study's folder."""
    file, out = write_study(tmp_path), tmp_path / "out"
    run(file, out)
    assert not was_edited(out)
    recipe = tmp_path / "eval.yaml"
    recipe.write_text(recipe.read_text() + "save_steps: 7\n")
    run(file, out)
    assert read_registration(out)[-1].changes == ["settings of the runs of eval"]
    commit = read_registration(out)[-1].shaped_trl_commit
    monkeypatch.setattr("shaped_trl.study.registration.source_commit", lambda: "f" * 40)
    run(file, out)
    assert read_registration(out)[-1].changes == [f"shaped_trl_commit: {commit!r} -> {'f' * 40!r}"]
    run(file, out)
    assert len(read_registration(out)) == 3
    # an installation has no commit, and a checkout with changes has the same one
    monkeypatch.setattr("shaped_trl.study.registration.source_hash", lambda: "0" * 64)
    run(file, out)
    assert read_registration(out)[-1].changes == ["the code of shaped-trl"]
    run(file, out)
    assert len(read_registration(out)) == 4
    assert not was_edited(out)
    study = out / "study.yaml"
    study.write_text("# a comment\n" + study.read_text())
    assert not was_edited(out)
    study.write_text(study.read_text() + "x: 0.5\n")
    assert was_edited(out)


def test_a_study_from_before_registrations_says_how_many_records_it_had(tmp_path: Path) -> None:
    file, out = write_study(tmp_path), tmp_path / "out"
    run(file, out)
    (out / REGISTRATION).unlink()
    run(file, out)
    (row,) = read_registration(out)
    assert (row.records, row.changes) == (9, [])


def test_a_study_that_was_not_read_from_a_file_has_no_hash(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path), tmp_path / "out")
    study.out.mkdir()
    register(study, None, 0)
    (row,) = read_registration(study.out)
    assert (row.study_sha256, row.commit) == (None, None)


def test_a_damaged_registration_is_named(tmp_path: Path) -> None:
    (tmp_path / REGISTRATION).write_text('{"date": 3}\n')
    with pytest.raises(UserError, match=r"registration\.jsonl:1: not a row of this version"):
        read_registration(tmp_path)
    (tmp_path / REGISTRATION).write_text('{"date": ')
    study = load_study(write_study(tmp_path), tmp_path)
    register(study, None, 0)
    assert len(list(read_jsonl(tmp_path / REGISTRATION))) == 1, "the torn line is gone"
