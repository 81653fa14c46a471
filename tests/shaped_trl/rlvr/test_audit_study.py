"""The table of blind answers: the script that writes it, and the one that is shipped."""

import csv
from pathlib import Path

import pytest
from places import ROOT
from shaped_eval.grading.gym.grader import version

from speed import blind_answers as audit_study

RESULTS = ROOT / audit_study.OUT


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "audits.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_set_is_audited_and_one_that_is_missing_is_named(tmp_path, monkeypatch):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0")  # put back afterwards
    (tmp_path / "mirror").mkdir()
    argv = [
        "--out",
        str(tmp_path),
        "--only",
        "demo/rlvr,gsm8k",
        "--hub_mirror",
        str(tmp_path / "mirror"),
    ]
    assert audit_study.main(argv) == 0
    demo, gsm8k = read(tmp_path)
    assert (demo["group"], demo["name"], demo["grader"], demo["prompts"]) == (
        *("recipes", "demo/rlvr", "running_sums", "64"),
    )
    assert (demo["golds_passed"], demo["above_bar"], demo["bar"]) == ("64", "0", "0.3")
    assert (
        gsm8k["problem"]
        == "hub_mirror='DIR' has no data set 'openai/gsm8k' (config 'main', split 'test')"
    )
    text = (tmp_path / "README.md").read_text()
    assert "Of 1 rewards **0** are refused." in text
    assert "| demo/rlvr |" in text
    assert f"- gsm8k: {gsm8k['problem']}" in text


def test_the_shipped_table_has_every_task():
    factory = pytest.importorskip("reasoning_gym.factory")
    rows = read(RESULTS)
    text = (RESULTS / "README.md").read_text()
    if f"reasoning-gym {version()}" not in text:
        pytest.skip("another version of reasoning-gym made the table")
    audited = {row["name"] for row in rows if row["group"] == audit_study.TASKS}
    assert audited == set(factory.DATASETS) - set(audit_study.NEEDS_CONFIGURATION)
    for row in rows:
        line = next(
            line
            for line in text.splitlines()
            if line.startswith((f"| {row['name']} |", f"- {row['name']}: "))
        )
        assert line.startswith("- ") == bool(row["problem"])
        assert ("**refused**" in line) == (row["above_bar"] != "0")
    refused = {row["name"]: row for row in rows if row["above_bar"] != "0"}
    assert refused["coin_flip"]["tried_on"] == "64"
    assert not [name for name, row in refused.items() if row["group"] == audit_study.RECIPES]
