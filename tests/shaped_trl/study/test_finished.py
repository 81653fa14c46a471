"""The records of finished runs are enough for the report, and to continue elsewhere."""

from __future__ import annotations

import json
import math
import random
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from planted_study import write_planted
from shaped_eval.records import jsonl_line, read_jsonl
from shaped_eval.reporting.outcomes import read_outcomes
from shaped_eval.statistics.votes import Ballot, cons
from study_processes import FAKES, run, write_study

from shaped_trl.study.definition import Study
from shaped_trl.study.finished import _ballot, finished_run, outcomes_of, rows_of
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import StudyRun, plan
from shaped_trl.study.records import RECORDS, read_records, remove_records
from shaped_trl.study.registration import REGISTRATION
from shaped_trl.study.report import report_study
from shaped_trl.study.reporting.reading import runs_not_finite
from shaped_trl.study.reporting.results import collect, read_regimes
from shaped_trl.study.reporting.training_results import training_ends
from shaped_trl.study.state import DONE, PLANNED, STARTED, claim, is_done


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKES)


def only_finished(source: Path, target: Path) -> Path:
    target.mkdir(exist_ok=True)
    for name in ("study.yaml", RECORDS, PLANNED, REGISTRATION):
        if (source / name).exists():  # a study that was never started has only records
            shutil.copy(source / name, target)
    return target


def forget(out: Path, *keys: str) -> None:
    remove_records(out, finished=keys, failed=())


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
    assert max(map(len, (tmp_path / "there" / RECORDS).read_text().splitlines())) < 8_000


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


def test_votes_that_are_written_as_pairs_are_kept_as_pairs() -> None:
    """A pair of some letters stands for up to ten million rivals."""
    rng = random.Random(0)
    for _ in range(50):
        rivals = [rng.choice([1, 1, 2, 5]) for _ in range(rng.randrange(9))]
        expected = Ballot.of(3, rivals, 60)
        pairs = [list(pair) for pair in Counter(expected.rivals).items()]
        found = _ballot(3, pairs, expected.silent)
        assert found == expected
        assert hash(found) == hash(expected)
        assert [*found.rivals] == [*expected.rivals]
        assert [found.rivals[index] for index in range(len(rivals))] == [*expected.rivals]
        assert [found.rivals.count(votes) for votes in (1, 2, 3)] == [
            expected.rivals.count(votes) for votes in (1, 2, 3)
        ]
        assert (found.n, cons(found)) == (expected.n, cons(expected))
    tracemalloc.start()
    kept = [_ballot(0, [(2, 500_000), (1, number)], 0) for number in range(4)]
    assert len(kept[0].rivals) == 500_000
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_value_that_was_not_finite_is_not_taken_for_a_missing_one(tmp_path: Path) -> None:
    write_planted(tmp_path / "out")
    study = next(load_study(tmp_path / "out/study.yaml", tmp_path / "out").each_regime())
    log = study.folder("precision_product", 3, "pretrain") / "train_log.jsonl"
    *rows, last = read_jsonl(log)
    log.write_text("".join(map(jsonl_line, [*rows, last | {"nll": None, "eval_nll": None}])))
    kept = finished_run(study, "precision_product", 3, "pretrain")
    assert kept is not None
    assert math.isnan(rows_of(kept)[-1]["nll"])
    line = json.dumps(kept, allow_nan=False)
    assert json.dumps(kept["log"]["nll"][-1]) == '"NaN"' in line
    (runs, *_) = read_regimes(study)
    assert list(runs_not_finite(runs)) == ["P/precision_product/seed3/pretrain"]
    assert math.isnan(training_ends(runs, "precision_product", "pretrain")["nll"][3])
    report_study(tmp_path / "out")
    json.loads((tmp_path / "out/results.json").read_text(), parse_constant=pytest.fail)


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
    written = (study.out / RECORDS).read_bytes()
    assert finished_run(study, "precision_product", 3, "rlvr") == kept
    assert (study.out / RECORDS).read_bytes() == written, "the record is not renewed"
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
    forget(moved, "b/seed0/rlvr")
    assert started() == {"b/seed0/pretrain", "b/seed0/rlvr"}  # its evaluation is done already
    moved_eval, first_eval = (
        read_records(out).finished["b/seed0/eval"] for out in (moved, tmp_path / "here")
    )
    assert moved_eval == first_eval


@pytest.mark.slow
def test_a_run_that_is_done_anew_replaces_its_json(tmp_path: Path) -> None:
    path = write_study(tmp_path, eval={"max_steps": 80})
    study = load_study(path, tmp_path / "out")
    assert run(study) == 0
    before = read_records(study.out).finished["b/seed0/eval"]
    (tmp_path / "pretrain.yaml").write_text("max_steps: 4\n")
    assert run(load_study(path, tmp_path / "out")) == 0
    after = read_records(study.out).finished["b/seed0/eval"]
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
    only_finished(tmp_path / "there", tmp_path / "here")  # fetched from there
    assert run(load_study(path, tmp_path / "here")) == 0
    assert files_of(tmp_path / "here") == files_of(tmp_path / "there")


def test_a_run_killed_before_its_json_gets_it_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(write_study(tmp_path, eval={"max_steps": 8}), tmp_path / "out")
    assert run(study) == 0
    before = read_records(study.out).finished["b/seed0/rlvr"]
    forget(study.out, "b/seed0/rlvr")
    monkeypatch.setattr(
        "shaped_trl.study.report.report_study", lambda folder: folder / "report.html"
    )
    assert run(study) == 0
    assert read_records(study.out).finished["b/seed0/rlvr"] == before


def test_a_run_that_is_made_again_for_its_model_keeps_its_json_until_then(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    assert run(load_study(path, tmp_path / "here")) == 0
    study = load_study(path, only_finished(tmp_path / "here", tmp_path / "there"))
    repeated = run_of(study, "b/seed0/pretrain")
    claim(repeated, {})
    assert is_done(repeated)
    path.write_text(path.read_text().replace("beta: -0.25", "beta: -0.5"))
    changed = run_of(load_study(path, study.out), "b/seed0/pretrain")
    kept = read_records(study.out).finished["b/seed0/pretrain"]
    claim(changed, {})
    assert "b/seed0/pretrain" not in read_records(study.out).finished
    moved = study.out / f"stale/b-seed0-pretrain-{repeated.fingerprint}.json"
    assert json.loads(moved.read_text()) == {"key": "b/seed0/pretrain", **kept}


@pytest.mark.slow
def test_what_was_begun_before_a_folder_was_moved_starts_afresh(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    assert run(load_study(path, tmp_path / "here")) == 0
    (tmp_path / "here/runs/b/seed0/rlvr" / DONE).unlink()
    forget(tmp_path / "here", *(f"b/seed0/{stage}" for stage in ("pretrain", "rlvr", "eval")))
    (tmp_path / "here").rename(tmp_path / "there")
    study = load_study(path, tmp_path / "there")
    assert run(study) == 0
    state = json.loads((study.folder("b", 0, "rlvr") / STARTED).read_text())
    assert state["attempt"] == 1  # a trainer refuses to continue with other paths
    assert (study.out / "stale" / f"b-seed0-rlvr-{state['fingerprint']}").is_dir()
    assert json.loads((study.folder("a", 0, "rlvr") / STARTED).read_text())["argv"][4].startswith(
        str(tmp_path / "here")
    )
