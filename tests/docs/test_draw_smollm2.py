"""The figure of SmolLM2's study: what it shows is what the report has."""

import importlib
import sys

import pytest
from places import ROOT

RESULTS = ROOT / "recipes/studies/results/smollm2"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield importlib.import_module("draw_smollm2")
    for name in ("draw_smollm2", "make_picture"):
        sys.modules.pop(name)


def test_points_are_those_of_the_report(script):
    report = (RESULTS / "report.md").read_text(encoding="utf-8")
    found = script.results("smollm2")
    for arm in script.ARMS:
        about = "\n".join(line for line in report.splitlines() if arm in line)
        for title, stage, quantity in script.PANELS:
            numbers = script.difference(found, "", arm, stage, quantity)
            value, low, high = (f"{number:+.1f}" for number in numbers)
            assert f"{value} [{low}, {high}]" in about, (arm, title)


def test_the_figure_is_drawn(script, tmp_path):
    script.main(["--out", str(tmp_path / "new.png")])
    for path in (tmp_path / "new.png", RESULTS / "smollm2.png"):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert 20_000 < len(content) < 150_000
