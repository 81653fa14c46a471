"""The file of a study's records: what a line means, hostile lines, and several writers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shaped_eval.errors import UserError

from shaped_trl.study import records
from shaped_trl.study.records import (
    EARLIER,
    RECORDS,
    Records,
    add_record,
    read_records,
    remove_records,
    take_over,
)

OUTCOME = {"wall_seconds": 2.5, "cpu_seconds": 2, "attempt": 1, "fingerprint": "f1"}
FAILED = {"fingerprint": "f1", "why": "exit code 1"}


def done(value: float) -> dict[str, Any]:
    return {"version": 2, "outcome": OUTCOME, "log": {"step": [1, 2], "nll": [value, None]}}


def evaluated(**changes: Any) -> dict[str, Any]:
    plain = {
        "benchmark": "sums",
        "problem_ids": ["sums/0", "sums/1"],
        "n": 4,
        "statuses": {"pass": 5, "fail": 3},
        "graders": ["sums"],
        "truncated": 0,
        "tokens": 40,
        "passes_P": [4, 1],
        "ballots_P": [[4, [], 0], [1, [[2, 1]], 1]],
    }
    run = {"settings": {"n": 4}}
    return {
        "version": 2,
        "outcome": OUTCOME,
        "evaluation": {"run": run, "outcomes": {"sums": plain | changes}},
    }


def lines_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / RECORDS).read_text().splitlines()]


def test_a_later_line_supersedes_an_earlier_one(tmp_path: Path) -> None:
    assert read_records(tmp_path) == Records({}, {})
    add_record(tmp_path, "a", FAILED)
    assert read_records(tmp_path) == Records({}, {"a": FAILED})
    add_record(tmp_path, "a", done(1.0))
    add_record(tmp_path, "b", evaluated())
    add_record(tmp_path, "a", done(2.0))
    assert read_records(tmp_path) == Records({"a": done(2.0), "b": evaluated()}, {})
    assert [line["key"] for line in lines_of(tmp_path)] == ["a", "a", "b", "a"]


def test_a_failure_leaves_what_was_done(tmp_path: Path) -> None:
    add_record(tmp_path, "a", done(1.0))
    add_record(tmp_path, "a", FAILED)
    expected = Records({"a": done(1.0)}, {"a": FAILED})
    assert read_records(tmp_path) == expected
    remove_records(tmp_path, finished=["unknown"], failed=["unknown"])
    assert len(lines_of(tmp_path)) == 2
    add_record(tmp_path, "b", done(3.0))
    remove_records(tmp_path, finished=["b"], failed=[])
    records._read.clear()
    assert read_records(tmp_path) == expected, "also in the order of the file that was rewritten"
    remove_records(tmp_path, finished=[], failed=["a"])
    assert lines_of(tmp_path) == [{"key": "a", **done(1.0)}]


def test_a_torn_last_line_loses_nothing_else(tmp_path: Path) -> None:
    add_record(tmp_path, "a", done(1.0))
    whole = (tmp_path / RECORDS).read_bytes()
    (tmp_path / RECORDS).write_bytes(whole + whole.replace(b'"a"', b'"b"')[:-9])
    assert set(read_records(tmp_path).finished) == {"a"}
    add_record(tmp_path, "c", done(2.0))
    records._read.clear()
    assert set(read_records(tmp_path).finished) == {"a", "c"}


def test_the_file_is_read_again_only_if_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    read_jsonl = records.read_jsonl
    monkeypatch.setattr(records, "read_jsonl", lambda *given: read.append(1) or read_jsonl(*given))
    for number in range(20):
        add_record(tmp_path, f"run{number}", done(number))
        assert len(read_records(tmp_path).finished) == number + 1
    assert len(read) == 1, "before the first record"
    with open(tmp_path / RECORDS, "a") as file:  # another part of the study
        file.write(json.dumps({"key": "theirs", **done(0.5)}) + "\n")
    assert read_records(tmp_path).finished["theirs"] == done(0.5)
    assert len(read_records(tmp_path).finished) == 21
    assert len(read) == 2


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "records.jsonl:2: not a JSON row"),
        ("[1]", "not an object"),
        (done(1.0), "key=None"),
        ({"key": ["a"], **done(1.0)}, "key="),
        ({"key": "a", "why": 3}, "why=3"),
        ({"key": "a", **FAILED, "more": 1}, "unknown field 'more'"),
        ({"key": "a", **done(1.0), "code": "import os"}, "unknown field 'code'"),
        ({"key": "a", "outcome": OUTCOME}, "log, evaluation or found"),
        ({"key": "a", "outcome": OUTCOME, "found": {"temperature": "hot"}}, "temperature='hot'"),
        ({"key": "a", **done(1.0), "outcome": {}}, "wall_seconds=None"),
        ({"key": "a", **done(1.0), "outcome": OUTCOME | {"wall_seconds": 1e999}}, "wall_seconds"),
        ({"key": "a", **done(1.0), "outcome": OUTCOME | {"cpu_seconds": 10**400}}, "cpu_seconds"),
        ({"key": "a", **done(1.0), "log": {"nll": [10**400]}}, "nll="),
        ({"key": "a", **done(1.0), "outcome": OUTCOME | {"fingerprint": 7}}, "fingerprint=7"),
        ({"key": "a", **done(1.0), "outcome": OUTCOME | {"machine": [[]]}}, "machine="),
        ({"key": "a", **done(1.0), "log": {"nll": ["<b>"]}}, "nll="),
        ({"key": "a", **done(1.0), "log": {"nll": [1.0], "step": []}}, "not equally long"),
        ({"key": "a", **done(1.0), "log": {"nll": [1.0]}}, "step=None"),
        ({"key": "a", **done(1.0), "log": {"nll": [1.0], "step": [None]}}, "step=[None]"),
        (
            {"key": "a", **evaluated(), "evaluation": {"run": {"settings": {}}, "outcomes": {}}},
            "outcomes={}",
        ),
        ({"key": "a", **evaluated(n=10**12)}, "n=1000000000000"),
        ({"key": "a", **evaluated(passes_P=[4, 5])}, "passes_P"),
        ({"key": "a", **evaluated(passes_P=[4])}, "passes_P"),
        ({"key": "a", **evaluated(ballots_P=[[4, [], 0], [0, [[0, 10**12]], 0]])}, "ballots_P"),
        ({"key": "a", **evaluated(ballots_P=[[4, [], 0], [0, [[1, 10**12]], 0]])}, "ballots_P"),
        ({"key": "a", **evaluated(problem_ids=[1, 2])}, "problem_ids"),
        ({"key": "a", **evaluated(statuses={"pass": -1})}, "statuses"),
    ],
)
def test_a_line_that_is_not_a_record_is_named(tmp_path: Path, line: Any, named: str) -> None:
    text = line if isinstance(line, str) else json.dumps(line)
    good = json.dumps({"key": "a", **evaluated()})
    (tmp_path / RECORDS).write_text(f"{good}\n{text}\n{good}\n")
    with pytest.raises(UserError) as error:
        read_records(tmp_path)
    assert f"{RECORDS}:2" in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_files_of_a_run_do_not_get_into_the_records(tmp_path: Path) -> None:
    add_record(tmp_path, "a", done(1.0))
    with pytest.raises(UserError, match="the run b are damaged"):
        add_record(tmp_path, "b", done(1.0) | {"outcome": {}})
    assert set(read_records(tmp_path).finished) == {"a"}


def test_nothing_is_appended_through_a_link(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "precious"
    out.mkdir()
    elsewhere.write_text("")
    (out / RECORDS).symlink_to(elsewhere)
    with pytest.raises(UserError, match="symbolic link"):
        add_record(out, "a", done(1.0))
    assert elsewhere.read_text() == ""


def test_parts_of_a_study_write_at_the_same_time(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from shaped_trl.study.records import add_record, remove_records\n"
        "out, name = Path(sys.argv[1]), sys.argv[2]\n"
        f"record = {done(1.0)!r}\n"
        "for number in range(60):\n"
        "    add_record(out, f'{name}/{number}', record)\n"
        "    add_record(out, f'{name}/failed', {'why': str(number)})\n"
        "    if number % 10 == 9:\n"
        "        remove_records(out, finished=[f'{name}/{number}'], failed=[])\n"
    )
    parts = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in "abc"
    ]
    assert [part.wait() for part in parts] == [0, 0, 0]
    found = read_records(tmp_path)
    left = {f"{name}/{number}" for name in "abc" for number in range(60) if number % 10 != 9}
    assert set(found.finished) == left
    assert {key: each["why"] for key, each in found.failed.items()} == {
        f"{name}/failed": "59" for name in "abc"
    }
    assert [path.name for path in tmp_path.iterdir()] == [RECORDS]


# Folders from before there was one file


def write_earlier(out: Path, **content: dict[str, Any]) -> None:
    for name, record in content.items():
        path = out / EARLIER / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))


def test_an_earlier_folder_becomes_one_file(tmp_path: Path) -> None:
    write_earlier(
        tmp_path,
        P__a__seed0__rlvr=done(1.0),
        P__a__seed0__eval=evaluated(),
        P__b__seed0__rlvr=done(2.0),
    )
    failed = tmp_path / EARLIER / "P/b/seed0/rlvr.failed.json"
    failed.write_text(json.dumps(FAILED))
    expected = Records(
        {
            "P/a/seed0/rlvr": done(1.0),
            "P/a/seed0/eval": evaluated(),
            "P/b/seed0/rlvr": done(2.0),
        },
        {"P/b/seed0/rlvr": FAILED},
    )
    assert read_records(tmp_path) == expected, "read as it is"
    assert failed.exists()
    take_over(tmp_path)
    records._read.clear()
    assert read_records(tmp_path) == expected
    assert [path.name for path in tmp_path.iterdir()] == [RECORDS]
    assert len(lines_of(tmp_path)) == 4
    before = (tmp_path / RECORDS).read_bytes()
    take_over(tmp_path)
    assert (tmp_path / RECORDS).read_bytes() == before


def test_an_earlier_folder_replaces_no_record_and_keeps_other_files(tmp_path: Path) -> None:
    add_record(tmp_path, "a/seed0/rlvr", done(5.0))
    write_earlier(tmp_path, a__seed0__rlvr=done(1.0), b__seed0__rlvr=done(2.0))
    notes = tmp_path / EARLIER / "a/notes.txt"
    notes.write_text("mine")
    take_over(tmp_path)
    assert read_records(tmp_path).finished == {
        "a/seed0/rlvr": done(5.0),
        "b/seed0/rlvr": done(2.0),
    }
    assert [path for path in (tmp_path / EARLIER).rglob("*") if path.is_file()] == [notes]


def test_an_earlier_folder_is_converted_whole_or_not_at_all(tmp_path: Path) -> None:
    write_earlier(tmp_path, a__seed0__rlvr=done(1.0), b__seed0__rlvr={"outcome": 3})
    with pytest.raises(UserError, match=r"b/seed0/rlvr\.json"):
        take_over(tmp_path)
    assert not (tmp_path / RECORDS).exists()
    assert (tmp_path / EARLIER / "a/seed0/rlvr.json").exists()


def test_an_earlier_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    write_earlier(tmp_path / "elsewhere", a__seed0__rlvr=done(1.0))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / EARLIER).symlink_to(tmp_path / "elsewhere" / EARLIER)
    with pytest.raises(UserError, match="symbolic link"):
        take_over(tmp_path / "out")
    assert (tmp_path / "elsewhere" / EARLIER / "a/seed0/rlvr.json").exists()
