"""The JSON of each finished run: the report needs nothing else, and a study goes on from it on another machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from planted_study import write_planted
from study_processes import FAKES, run, write_study

from eval_suite.outcomes import read_outcomes
from eval_suite.records import read_jsonl
from shaped_trl.study.definition import load_study
from shaped_trl.study.finished import finished, outcomes_of, rows_of
from shaped_trl.study.report import report_study


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKES)


def only_finished(source: Path, target: Path) -> Path:
    shutil.copytree(source / "finished", target / "finished")
    shutil.copy(source / "study.yaml", target)
    return target


def files_of(out: Path) -> dict[str, bytes]:
    paths = [out / "results.json", *out.glob("report.*"), *(out / "report").iterdir()]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def test_the_report_is_the_same_without_the_folders_of_the_runs(tmp_path: Path) -> None:
    write_planted(tmp_path / "here")
    report_study(tmp_path / "here")
    report_study(only_finished(tmp_path / "here", tmp_path / "there"))
    expected = files_of(tmp_path / "here")
    assert len(expected) > 15
    assert files_of(tmp_path / "there") == expected
    largest = max(path.stat().st_size for path in (tmp_path / "there/finished").rglob("*.json"))
    assert largest < 8_000


def test_what_is_kept_is_what_was_there(tmp_path: Path) -> None:
    write_planted(tmp_path / "out")
    study = next(load_study(tmp_path / "out/study.yaml", tmp_path / "out").each_regime())
    folder = study.folder("precision", 3, "eval_rlvr")
    kept = finished(study, "precision", 3, "eval_rlvr")
    assert kept is not None
    (name, expected), (_, found) = *read_outcomes(folder).items(), *outcomes_of(json.loads(json.dumps(kept))).items()
    for key, value in vars(expected).items():
        assert list(vars(found)[key]) == list(value) if key.endswith("_P") else vars(found)[key] == value, (name, key)

    kept = finished(study, "precision", 3, "pretrain")
    assert kept is not None
    logged = list(read_jsonl(study.folder("precision", 3, "pretrain") / "train_log.jsonl"))
    assert rows_of(kept) == [pytest.approx(row, rel=1e-6) for row in logged]


def test_a_study_goes_on_elsewhere_and_makes_only_the_models_again_that_it_starts_from(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    assert run(load_study(path, tmp_path / "here")) == 0
    there = only_finished(tmp_path / "here", tmp_path / "there")

    def started() -> set[str]:
        assert run(load_study(path, there)) == 0
        events = there / "runs/events.jsonl"
        rows = list(read_jsonl(events)) if events.exists() else []
        return {str(Path(row["run"]).relative_to(there / "runs")) for row in rows if row["event"] == "start"}

    assert started() == set()
    assert files_of(there) == files_of(tmp_path / "here")
    (there / "finished/b/seed0/rlvr.json").unlink()
    assert started() == {"b/seed0/pretrain", "b/seed0/rlvr"}  # its evaluation is done
    there_eval = json.loads((there / "finished/b/seed0/eval.json").read_text())
    assert there_eval == json.loads((tmp_path / "here/finished/b/seed0/eval.json").read_text())


def test_a_run_that_is_done_anew_replaces_its_json(tmp_path: Path) -> None:
    path = write_study(tmp_path, eval={"max_steps": 80})
    study = load_study(path, tmp_path / "out")
    assert run(study) == 0
    before = json.loads(study.record("b", 0, "eval").read_text())
    (tmp_path / "pretrain.yaml").write_text("max_steps: 4\n")
    assert run(load_study(path, tmp_path / "out")) == 0
    after = json.loads(study.record("b", 0, "eval").read_text())
    assert after["outcome"]["fingerprint"] != before["outcome"]["fingerprint"]
    assert after["evaluation"] != before["evaluation"]
