"""CSV files of a report open in a spreadsheet as what they are: texts and numbers."""

import csv

from shaped_trl.study.reporting.wording import csv_text


def test_a_name_is_never_a_formula_and_a_number_stays_one() -> None:
    names = ["=1+1", "@SUM(A1)", "+1", "-1", "\t=1", "plain", "a=1", 'quoted "x", y']
    text = csv_text(("name", "value"), [(name, -0.5) for name in names] + [("none", None)])
    header, *rows = csv.reader(text.splitlines())
    assert header == ["name", "value"]
    assert [row[0].removeprefix("'") for row in rows] == [*names, "none"]
    assert [row[0][:1] == "'" for row in rows] == [True] * 5 + [False] * 4
    assert [row[1] for row in rows] == ["-0.5"] * 8 + [""]
