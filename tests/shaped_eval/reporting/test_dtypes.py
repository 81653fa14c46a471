"""Runs with weights of other dtypes are not compared without a word."""

import json

import pytest
from graded_runs import write_run
from shaped_eval.reporting.cautions import cautions_of_many
from shaped_eval.reporting.results import read_runs
from shaped_eval.reporting.tables import differing_settings, settings


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [
        ("float32", "bfloat16", True),
        ("float32", "float32", False),
        (None, "float32", False),  # a run from before dtypes were recorded
        (["float32"], "float32", True),  # somebody else's run
    ],
)
def test_runs_with_weights_of_other_dtypes_are_warned_of(tmp_path, first, second, warned):
    folders = [write_run(tmp_path / name, {"big": ["p"] * 60}, n=1) for name in "ab"]
    for folder, dtype in zip(folders, (first, second), strict=True):
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(record | {"dtype": dtype}))
    runs = read_runs(folders)
    said = cautions_of_many(runs)
    assert any("different dtypes" in sentence for sentence in said) == warned
    shown = [row for table in differing_settings(runs) for row in table.rows]
    assert any(row[0] == "dtype that ran" for row in shown) == (first != second)
    facts = "\n".join(settings(runs[1].record).items)
    assert f"dtype that ran: {second}" in facts
