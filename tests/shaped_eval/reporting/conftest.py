"""The modules of `evaluate`, loaded offline with their copies in the test's folder."""

from __future__ import annotations

import sys

import pytest
from shaped_eval import metrics


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`evaluate.load` with our path, without the network."""
    evaluate = pytest.importorskip("evaluate", reason="needs the extra evaluate")
    # An earlier test's package of modules would be searched in that test's folder.
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    return lambda name: evaluate.load(metrics.path(name), cache_dir=str(tmp_path / "cache"))
