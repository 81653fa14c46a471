"""The records of finished runs are enough for the report, and to continue elsewhere."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from planted_study import write_planted
from shaped_eval.records import read_jsonl
from shaped_eval.reporting.outcomes import read_outcomes
from study_processes import FAKES, run, write_study

from shaped_trl.study.definition import Study
from shaped_trl.study.finished import finished_run, outcomes_of, rows_of
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import StudyRun, plan
from shaped_trl.study.report import report_study
from shaped_trl.study.reporting.results import collect, read_regimes
from shaped_trl.study.state import DONE, STARTED, claim, is_done


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


@pytest.mark.slow
def test_the_report_is_the_same_without_the_folders_of_the_runs(tmp_path: Path) -> None:
    write_planted(tmp_path / "here")
    report_study(tmp_path / "here")
    report_study(only_finished(tmp_path / "here", tmp_path / "there"))
    expected = files_of(tmp_path / "here")
    assert len(expected) > 15
    assert files_of(tmp_path / "there") == expected
    largest = max(path.stat().st_size for path in (tmp_path / "there/finished").rglob("*.json"))
    assert largest < 8_000


@pytest.mark.slow
def test_results_do_not_depend_on_the_order_of_folders_and_rows(tmp_path: Path) -> None:
    folder, out = tmp_path / "planted", tmp_path / "copy"
    write_planted(folder)
    rng = random.Random(0)
    for path in sorted((path for path in folder.rglob("*") if path.is_file()), reverse=True):
        target = out / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines(keepends=True) if path.suffix == ".jsonl" else []
        if path.name in ("samples.jsonl", "verdicts.jsonl", "rl_log.jsonl"):
            rng.shuffle(lines)
            target.write_text("".join(lines))
        elif path.suffix in (".jsonl", ".json", ".yaml"):
            shutil.copy(path, target)
    found, expected = (
        collect(read_regimes(load_study(each / "study.yaml", each))) for each in (out, folder)
    )
    assert found == expected


def test_what_is_kept_is_what_was_there(tmp_path: Path) -> None:
    write_planted(tmp_path / "out")
    study = next(load_study(tmp_path / "out/study.yaml", tmp_path / "out").each_regime())
    folder = study.folder("precision_product", 3, "eval_rlvr")
    kept = finished_run(study, "precision_product", 3, "eval_rlvr")
    assert kept is not None
    (name, expected), (_, found) = (
        *read_outcomes(folder).items(),
        *outcomes_of(json.loads(json.dumps(kept))).items(),
    )
    for key, value in vars(expected).items():
        if key.endswith("_PM"):  # a value for each sample, which is not kept
            assert vars(found)[key] is None
            continue
        assert (
            list(vars(found)[key]) == list(value)
            if key.endswith("_P")
            else vars(found)[key] == value
        ), (name, key)

    kept = finished_run(study, "precision_product", 3, "pretrain")
    assert kept is not None
    logged = list(read_jsonl(study.folder("precision_product", 3, "pretrain") / "train_log.jsonl"))
    assert rows_of(kept) == [pytest.approx(row, rel=1e-6) for row in logged]


def test_what_is_kept_does_not_say_where_the_study_lies(tmp_path: Path) -> None:
    write_planted(tmp_path / "out")
    study = next(load_study(tmp_path / "out/study.yaml", tmp_path / "out").each_regime())
    done = study.folder("precision_product", 3, "rlvr") / DONE
    elsewhere = f"/mnt{tmp_path}/out/model"  # contains the folder's name only
    outcome = json.loads(done.read_text()) | {
        "argv": ["rlvr", "--m", elsewhere, "--output_dir", str(done.parent)]
    }
    done.write_text(json.dumps(outcome))
    kept = finished_run(study, "precision_product", 3, "rlvr")
    assert kept is not None
    assert kept["outcome"]["argv"] == [
        "rlvr",
        "--m",
        elsewhere,
        "--output_dir",
        "runs/P/precision_product/seed3/rlvr",
    ]
    record = study.record("precision_product", 3, "rlvr")
    written = record.stat().st_mtime_ns
    assert finished_run(study, "precision_product", 3, "rlvr") == kept
    assert record.stat().st_mtime_ns == written  # the record is not renewed
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    copy = next(load_study(tmp_path / "out/study.yaml", tmp_path / "copy").each_regime())
    assert finished_run(copy, "precision_product", 3, "rlvr") == kept


@pytest.mark.slow
def test_a_study_goes_on_elsewhere_and_makes_only_the_models_again_that_it_starts_from(
    tmp_path: Path,
) -> None:
    path = write_study(tmp_path)
    assert run(load_study(path, tmp_path / "here")) == 0
    moved = only_finished(tmp_path / "here", tmp_path / "there")

    def started() -> set[str]:
        assert run(load_study(path, moved)) == 0
        events = moved / "runs/events.jsonl"
        rows = list(read_jsonl(events)) if events.exists() else []
        return {
            str(Path(row["run"]).relative_to(moved / "runs"))
            for row in rows
            if row["event"] == "start"
        }

    assert started() == set()
    assert files_of(moved) == files_of(tmp_path / "here")
    (moved / "finished/b/seed0/rlvr.json").unlink()
    assert started() == {"b/seed0/pretrain", "b/seed0/rlvr"}  # its evaluation is done already
    moved_eval = json.loads((moved / "finished/b/seed0/eval.json").read_text())
    assert moved_eval == json.loads((tmp_path / "here/finished/b/seed0/eval.json").read_text())


@pytest.mark.slow
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


def run_of(study: Study, key: str) -> StudyRun:
    return next(each for each in plan(study) if each.key == key)


def test_what_was_done_with_other_settings_is_in_no_number(tmp_path: Path) -> None:
    path = write_study(tmp_path, eval={"max_steps": 8})
    study = load_study(path, tmp_path / "out")
    assert run(study) == 0
    path.write_text(path.read_text().replace("beta: -0.25", "beta: -0.5"))
    (tmp_path / "rlvr.yaml").write_text("max_steps: 3\nfail_arm: b\n")
    assert run(load_study(path, tmp_path / "out")) == 1
    results = json.loads((study.out / "results.json").read_text())
    # the latter was made with the other beta
    assert results["incomplete"] == ["b/seed0/rlvr", "b/seed0/eval"]
    assert results["regimes"][""]["arms"]["b_exponent"]["evaluations"] == {}


@pytest.mark.slow
def test_an_older_folder_does_not_replace_a_newer_json(tmp_path: Path) -> None:
    path = write_study(tmp_path, eval={"max_steps": 8})
    for name in ("here", "there"):
        assert run(load_study(path, tmp_path / name)) == 0
    (tmp_path / "pretrain.yaml").write_text("max_steps: 5\n")
    assert run(load_study(path, tmp_path / "there")) == 0
    shutil.rmtree(tmp_path / "here/finished")
    only_finished(tmp_path / "there", tmp_path / "here")  # fetched from there
    assert run(load_study(path, tmp_path / "here")) == 0
    assert files_of(tmp_path / "here") == files_of(tmp_path / "there")


def test_a_run_killed_before_its_json_gets_it_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(write_study(tmp_path, eval={"max_steps": 8}), tmp_path / "out")
    assert run(study) == 0
    before = study.record("b", 0, "rlvr").read_bytes()
    study.record("b", 0, "rlvr").unlink()
    monkeypatch.setattr(
        "shaped_trl.study.report.report_study", lambda folder: folder / "report.html"
    )
    assert run(study) == 0
    assert study.record("b", 0, "rlvr").read_bytes() == before


def test_a_run_that_is_made_again_for_its_model_keeps_its_json_until_then(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    assert run(load_study(path, tmp_path / "here")) == 0
    study = load_study(path, only_finished(tmp_path / "here", tmp_path / "there"))
    repeated = run_of(study, "b/seed0/pretrain")
    claim(repeated, study.out / "stale")
    assert is_done(repeated)
    path.write_text(path.read_text().replace("beta: -0.25", "beta: -0.5"))
    changed = run_of(load_study(path, study.out), "b/seed0/pretrain")
    kept = changed.record.read_bytes()
    claim(changed, study.out / "stale")
    assert not changed.record.exists()
    assert (study.out / f"stale/b-seed0-pretrain-{repeated.fingerprint}.json").read_bytes() == kept


@pytest.mark.slow
def test_what_was_begun_before_a_folder_was_moved_starts_afresh(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    assert run(load_study(path, tmp_path / "here")) == 0
    (tmp_path / "here/runs/b/seed0/rlvr" / DONE).unlink()
    shutil.rmtree(tmp_path / "here/finished/b")
    (tmp_path / "here").rename(tmp_path / "there")
    study = load_study(path, tmp_path / "there")
    assert run(study) == 0
    state = json.loads((study.folder("b", 0, "rlvr") / STARTED).read_text())
    assert state["attempt"] == 1  # a trainer refuses to continue with other paths
    assert (study.out / "stale" / f"b-seed0-rlvr-{state['fingerprint']}").is_dir()
    assert json.loads((study.folder("a", 0, "rlvr") / STARTED).read_text())["argv"][4].startswith(
        str(tmp_path / "here")
    )


def test_two_parts_of_a_study_may_keep_a_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_planted(tmp_path / "out")
    study = next(load_study(tmp_path / "out/study.yaml", tmp_path / "out").each_regime())
    replace, others = os.replace, [os.getpid() + 1]

    def interleaved(source: Path, target: Path) -> None:
        """os.replace, after another process has written the whole record."""
        if others:
            pid = others.pop()
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: pid)
                finished_run(study, "precision_product", 3, "rlvr")
        replace(source, target)

    monkeypatch.setattr(os, "replace", interleaved)
    kept = finished_run(study, "precision_product", 3, "rlvr")
    assert others == []
    record = study.record("precision_product", 3, "rlvr")
    assert json.loads(record.read_text()) == kept
    assert list(record.parent.iterdir()) == [record]
