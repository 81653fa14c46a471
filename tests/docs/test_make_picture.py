"""The README's picture: what it shows is what the committed records hold."""

import importlib.util
import re

import pytest
from places import ROOT

SCRIPT = ROOT / "docs" / "make_picture.py"
specification = importlib.util.spec_from_file_location("make_picture", SCRIPT)
picture = importlib.util.module_from_spec(specification)
specification.loader.exec_module(picture)


def signed(value: float) -> str:
    """As the reports of studies write a number of percent or points."""
    return f"{value:+.1f}"


@pytest.mark.parametrize(("label", "study", "arm"), picture.ROWS)
@pytest.mark.parametrize("regime", picture.REGIMES)
def test_points_are_those_of_the_studys_report(label, study, arm, regime):
    """The report of a study, which another program wrote, has each of the numbers."""
    found = picture.results(study)
    report = (ROOT / f"recipes/studies/results/{study}/report.md").read_text(encoding="utf-8")
    about = [
        line
        for line in report.splitlines()
        if line.startswith(f"- {regime}: {arm} ") and "against cross_entropy" in line
    ]
    words = {"entropy": "entropy {}% [{}%, {}%]", "reward": "reward over the run {} [{}, {}]"}
    for _, stage, quantity in picture.PANELS:
        point = picture.difference(found, regime, arm, stage, quantity)
        if point is None:
            assert (arm, stage) == ("matched_temperature", "midtrain")
            continue
        text = words.get(quantity, quantity + " {} [{}, {}]").format(*map(signed, point))
        assert any(text in line for line in about), (label, text)


def test_the_picture_is_drawn_and_small_enough_for_a_page(tmp_path):
    picture.main(["--out", str(tmp_path / "new.png")])
    for path in (tmp_path / "new.png", SCRIPT.with_name("shaping.png")):
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert 20_000 < len(content) < 150_000


def test_two_rows_of_one_difference_are_refused():
    row = {
        "regime": "P",
        "arm": "a",
        "against": "cross_entropy",
        "stage": "rlvr",
        "metric": "reward",
    }
    with pytest.raises(ValueError, match=re.escape("2 rows of P")):
        picture.difference({"effects": [row, row]}, "P", "a", "rlvr", "reward")
