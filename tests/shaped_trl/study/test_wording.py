"""CSV files of a report open in a spreadsheet as what they are, and its introduction is true."""

import csv

from shaped_trl.recipes import ROOT
from shaped_trl.study.loading import load_study
from shaped_trl.study.reporting.pages import _introduction
from shaped_trl.study.reporting.wording import csv_text


def test_a_name_is_never_a_formula_and_a_number_stays_one() -> None:
    names = ["=1+1", "@SUM(A1)", "+1", "-1", "\t=1", "plain", "a=1", 'quoted "x", y']
    text = csv_text(("name", "value"), [(name, -0.5) for name in names] + [("none", None)])
    header, *rows = csv.reader(text.splitlines())
    assert header == ["name", "value"]
    assert [row[0].removeprefix("'") for row in rows] == [*names, "none"]
    assert [row[0][:1] == "'" for row in rows] == [True] * 5 + [False] * 4
    assert [row[1] for row in rows] == ["-0.5"] * 8 + [""]


def test_the_introduction_names_the_seeds_of_each_regime() -> None:
    def introduction(name: str, *regimes: str) -> str:
        study = load_study(ROOT / f"studies/{name}.yaml", ROOT / "nowhere")
        return _introduction(study, {"regimes": dict.fromkeys(regimes), "contrasts": []})

    few = "seeds 0, 1, 2, 3, 4, 5 in "
    text = introduction("decode", "P", "D", "arithmetic")
    assert f"{few}P; {few}D; seeds 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 in arit" in text
    assert "seeds 0, 1, 2, 3, 4, 5, 6, 7 in each of the regimes P, D, co" in introduction(
        "cpu-midtrain", "P", "D"
    )
