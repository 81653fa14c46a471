"""A benchmark whose examples may not be published: none of its text leaves the run's own files."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest
from hub_stand_in import hub_stand_in, point_client_at
from shaped_eval.records import Problem, Sample, Verdict, append_jsonl
from shaped_eval.report import compare, report

from shaped_trl import cli

SECRETS = [b"SECRET-PROMPT", b"SECRET-GOLD", b"SECRET-COMPLETION", b"SECRET-ANSWER"]


def write(folder, passes):
    """A run of two problems of GPQA and one of GSM8K, two samples each."""
    folder.mkdir()
    settings = {"n": 2, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 64}
    (folder / "run.json").write_text(json.dumps({"model": "me/tiny", "settings": settings}))
    texts = {"gpqa_diamond/0": "SECRET-", "gpqa_diamond/1": "SECRET-", "gsm8k/0": "PUBLIC-"}
    for (key, kind), passed in zip(texts.items(), passes, strict=True):
        name = key.partition("/")[0]
        problem = Problem(key, name, f"{kind}PROMPT {key}", f"{kind}GOLD", "choice")
        append_jsonl(folder / "problems.jsonl", [problem])
        for i in range(2):
            status = "pass" if i < passed else "fail"
            append_jsonl(folder / "samples.jsonl", [Sample(key, i, f"{kind}COMPLETION")])
            verdict = Verdict(key, i, status, f"{kind}ANSWER", "choice/1")
            append_jsonl(folder / "verdicts.jsonl", [verdict])
    return folder


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run", [1, 2, 1])


def texts_below(folder):
    own = {"problems.jsonl", "samples.jsonl", "verdicts.jsonl"}
    return {path: path.read_bytes() for path in folder.rglob("*") if path.name not in own
            and path.is_file()}  # fmt: skip


def test_reports_and_comparisons_leave_its_texts_out(run, tmp_path, capsys):
    report([run])
    compare(run, write(tmp_path / "other", [2, 0, 2]), out=tmp_path / "comparison")
    printed = capsys.readouterr().out.encode()
    for folder in (run, tmp_path / "comparison"):
        found = texts_below(folder)
        assert len(found) >= 3
        for path, content in found.items():
            assert not any(secret in content for secret in SECRETS), path
    assert not any(secret in printed for secret in SECRETS)
    page = (run / "report.html").read_text()
    assert "PUBLIC-COMPLETION" in page
    assert "The authors of gpqa_diamond ask that its examples are not published" in page
    assert "PUBLIC-GOLD" in (tmp_path / "comparison" / "report.html").read_text()


def test_nothing_of_it_arrives_on_the_hub(run, monkeypatch):
    with hub_stand_in() as hub:
        point_client_at(hub, monkeypatch)
        assert cli.main(["report", str(run), "--push_to_hub", "me/tiny"]) == 0
        files = {
            **hub.files["model", "me/tiny"],
            **hub.files["dataset", "me/tiny-evaluation-samples"],
        }
    assert any(path.endswith("parquet") for path in files)
    for path, content in files.items():
        assert not any(secret in content for secret in SECRETS), path
    for path in (run / "hub" / "samples").rglob("*.parquet"):
        rows = pyarrow.parquet.read_table(path).to_pylist()
        withheld = path.parent.name.startswith("gpqa")
        assert [row["status"] for row in rows] == (
            ["pass", "fail", "pass", "pass"] if withheld else ["pass", "fail"]
        )
        kept = {(row["completion"], row["answer"]) for row in rows}
        assert kept == {(None, None) if withheld else ("PUBLIC-COMPLETION", "PUBLIC-ANSWER")}
