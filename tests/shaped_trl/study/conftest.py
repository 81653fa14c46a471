"""A study whose effects are planted: its folder with a report, what the report found, and its runs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from planted_study import planted_report

from shaped_trl.study.loading import load_study
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.results import read_regimes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_report(tmp_path_factory)


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture
def regimes(read: list[RegimeRuns]) -> list[RegimeRuns]:
    """A copy to change."""
    return copy.deepcopy(read)


@pytest.fixture(scope="module")
def read(folder: Path) -> list[RegimeRuns]:
    return read_regimes(load_study(folder / "study.yaml", folder))
