"""The studies of this repository still have the numbers that their reports have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shaped_trl.recipes import ROOT
from shaped_trl.study.loading import load_study
from shaped_trl.study.reporting.results import collect, read_regimes

pytestmark = pytest.mark.slow

RESULTS = ROOT / "studies/results"
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/results.json"))


@pytest.mark.parametrize("name", STUDIES)
def test_a_committed_study_has_the_same_results(name: str, tmp_path: Path) -> None:
    """All but what rounding of another NumPy could change."""
    shutil.copytree(RESULTS / name, tmp_path / name)
    study = load_study(tmp_path / name / "study.yaml", tmp_path / name).named_by_form()
    found = json.loads(json.dumps(collect(read_regimes(study))))
    _check(found, json.loads((RESULTS / name / "results.json").read_text()), name)


def _check(found: object, committed: object, where: str) -> None:
    if isinstance(found, dict) and isinstance(committed, dict):
        assert found.keys() == committed.keys(), where
        for key in found:
            _check(found[key], committed[key], f"{where}.{key}")
    elif isinstance(found, list) and isinstance(committed, list):
        assert len(found) == len(committed), where
        for number, pair in enumerate(zip(found, committed, strict=True)):
            _check(*pair, f"{where}[{number}]")
    elif isinstance(found, float):
        assert found == pytest.approx(committed, rel=1e-9, abs=1e-12, nan_ok=True), where
    else:
        assert found == committed, where
