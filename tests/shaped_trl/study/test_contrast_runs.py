"""Which values of a study's runs its contrasts compare, and which they leave out or refuse."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from contrast_values import PLANTED, contrasted_report
from shaped_eval.errors import UserError

from shaped_trl.study.loading import load_study
from shaped_trl.study.report import report_study
from shaped_trl.study.reporting.contrast_results import PRIMARY, SECONDARY, contrast_rows
from shaped_trl.study.reporting.effects import effects
from shaped_trl.study.reporting.reading import RegimeRuns

pytestmark = pytest.mark.slow

BEFORE = {"stage": "eval_pretrain", "benchmark": "running_sums"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contrasted_report(tmp_path_factory)


def find(results: dict[str, Any], kind: str, arm: str, **more: str) -> dict[str, Any]:
    """A row of P."""
    labels = {"kind": kind, "regime": "P", "arm": arm, **more}
    (row,) = (row for row in results["contrasts"] if labels.items() <= row.items())
    return row


def shares(runs: RegimeRuns, arm: str, stage: str) -> np.ndarray:
    """Share of passes [seeds, problems]."""
    found = runs.evaluations[arm, stage]
    return np.array([found[seed]["running_sums"].passes_P / 8 for seed in range(8)])


def test_an_arm_is_measured_by_the_run_that_measured_its_model(
    folder: Path, read: list[RegimeRuns]
) -> None:
    """Before RL `cooled` has the model of `cross_entropy`: at T=1 one run measures both."""
    values = yaml.safe_load((folder / "study.yaml").read_text())
    values["stages"]["eval_pretrain"]["temperature"] = 1.0
    values["contrasts"]["secondary"] = [{**BEFORE, "metric": "avg@8"}]
    (folder / "measured.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    study = load_study(folder / "measured.yaml", folder)
    (folder / "measured.yaml").unlink()
    regimes = [
        replace(runs, study=view, evaluations=dict(runs.evaluations))
        for runs, view in zip(read, study.each_regime(), strict=True)
    ]
    for runs in regimes:
        runs.evaluations["cooled", "eval_pretrain"] = {}
    row = find(
        {"contrasts": contrast_rows(regimes)}, SECONDARY, "precision_product", against="cooled"
    )
    own, base = (
        shares(read[0], arm, "eval_pretrain") for arm in ("precision_product", "cross_entropy")
    )
    assert row["seeds"] == 8
    assert row["value"] == pytest.approx((own - base).mean(), abs=1e-11)


def test_other_problems_with_the_same_names_are_not_paired(regimes: list[RegimeRuns]) -> None:
    for arm, own in (("cross_entropy", "a"), ("tail_penalty", "b")):
        for seed, found in regimes[0].evaluations[arm, "eval_rlvr"].items():
            outcomes = found["running_sums"]
            tasks_P = [f"{own}{seed}"] * len(outcomes.problem_ids)
            found["running_sums"] = replace(outcomes, tasks_P=tasks_P)
    with pytest.raises(UserError, match="different problems with the same names"):
        contrast_rows(regimes)
    with pytest.raises(UserError, match="different problems with the same names"):
        effects(regimes)


def test_a_run_that_diverged_is_named_and_decides_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(folder, out)
    values = yaml.safe_load((out / "study.yaml").read_text())
    claims = {name: claim for name, claim in PLANTED["claims"].items() if name != "tuned"}
    values["contrasts"] |= {"primary": {"stage": "rlvr", "metric": "reward"}, "claims": claims}
    (out / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    (record,) = (each for each in lines if each["key"] == "P/tail_penalty/seed3/rlvr")
    record["log"]["raw_reward"][-1] = math.nan
    (out / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    shutil.rmtree(out / "runs")
    report_study(out)
    page = (out / "report.md").read_text()
    assert "is not judged in P (a value is not a finite number)" in page
    assert "values that are not finite numbers: P/tail_penalty/seed3/rlvr." in page
    results = json.loads((out / "results.json").read_text())
    row = find(results, PRIMARY, "tail_penalty")
    assert (row["seeds"], row["verdict"], row["value"]) == (8, None, None)
    assert sorted(row["by_seed"]) == list("0124567")
    assert find(results, PRIMARY, "precision_product", against="cooled")["verdict"]


def test_a_record_of_another_kind_than_its_stage_is_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(folder, out)
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    by_key = {each["key"]: each for each in lines}
    log = by_key["P/cross_entropy/seed0/rlvr"]["log"]
    lines.append(by_key["P/cross_entropy/seed0/eval_rlvr"] | {"log": log})
    del lines[-1]["evaluation"]
    (out / "records.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    shutil.rmtree(out / "runs")
    with pytest.raises(UserError, match="P/cross_entropy/seed0/eval_rlvr: its record has no eval"):
        report_study(out)
