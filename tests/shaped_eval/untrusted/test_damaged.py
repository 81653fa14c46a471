"""Damaged files of a run: one line names the file, the exit code is 2, nothing else changes."""

import errno
import json
import os
import resource
import signal

import pytest
from graded_runs import write_run
from shaped_eval import records
from shaped_eval.backends.base import BatchLimits
from shaped_eval.errors import UserError
from shaped_eval.records import Problem, Sample, Verdict, append_jsonl, read_jsonl
from shaped_eval.sampling.chunks import collect, plan_chunks

from shaped_trl import cli

ROWS = ("problems.jsonl", "samples.jsonl", "verdicts.jsonl")
# makes the replacement of a row from the row
FORMS = {
    "cut off": lambda row: json.dumps(row)[: len(json.dumps(row)) // 2],
    "not UTF-8": lambda row: json.dumps(row).encode()[:-1] + b"\xff}",
    "zeros": lambda row: b"\0" * 64,
    "two rows in a line": lambda row: json.dumps(row) * 2,
    "a list": lambda row: json.dumps(list(row)),
    "a number": lambda row: "7",
    "null": lambda row: "null",
    "without its key": lambda row: json.dumps({k: v for k, v in row.items() if k != "problem_id"}),
    "empty": lambda row: "{}",
    "an unknown field": lambda row: json.dumps(row | {"x" * 999: 1}),
    "a key of another type": lambda row: json.dumps(row | {"problem_id": ["a"]}),
    "all null": lambda row: json.dumps(dict.fromkeys(row)),
    "all NaN": lambda row: json.dumps(dict.fromkeys(row, float("nan"))),
    "all nested": lambda row: json.dumps({name: [[{}]] for name in row}),
    "nested without end": lambda row: "[" * 100_000,
    "an endless number": lambda row: json.dumps(row)[:-1] + f', "n": {"9" * 5000}}}',
}
INDEX_FORMS = {
    "a text": '"0"',
    "true": "true",
    "a fraction": "0.0",
    "negative": "-1",
    "huge": "1" + "0" * 30,
}


def damage(path, replace) -> None:
    """Replace the second row."""
    lines = path.read_bytes().splitlines()
    new = replace(json.loads(lines[1]))
    lines[1] = new if isinstance(new, bytes) else new.encode()
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def contents(folder, but: str | None = None) -> dict:
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != but
    }


def refused(words: list, folder, capsys, but: str | None = None) -> str:
    """The one line that a command ends with; all files except `but` stay unchanged."""
    before = contents(folder, but)
    assert cli.main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("shaped-trl: error: ")
    assert len(lines[0]) < 700
    assert contents(folder, but) == before
    return lines[0]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ROWS)
def test_a_damaged_row_is_named_with_its_line(name, form, tmp_path, capsys):
    run = write_run(tmp_path / "run", {"gsm8k": ["ppab", "aabb"]})
    damage(run / name, form)
    assert f"{run / name}:2: " in refused(["report", run], tmp_path, capsys)
    graded_before = "verdicts.jsonl" if name == "samples.jsonl" else None
    assert f"{run / name}:2: " in refused(["grade", run], tmp_path, capsys, graded_before)


@pytest.mark.parametrize("form", INDEX_FORMS.values(), ids=INDEX_FORMS)
@pytest.mark.parametrize("name", ROWS[1:])
def test_an_index_that_is_none_is_no_row(name, form, tmp_path, capsys):
    run = write_run(tmp_path / "run", {"gsm8k": ["ppab"]})
    damage(
        run / name, lambda row: json.dumps(row | {"sample_index": "HERE"}).replace('"HERE"', form)
    )
    assert "sample_index" in refused(["report", run], tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "verdicts.jsonl",
            {"status": "maybe"},
            "status='maybe' must be one of pass, fail, timeout, error, unparsed",
        ),
        ("verdicts.jsonl", {"answer": 7}, "answer=7 must be a text, or null"),
        (
            "samples.jsonl",
            {"finish_reason": "tired"},
            "finish_reason='tired' must be one of stop, length",
        ),
        ("samples.jsonl", {"tokens": 10**400}, "must be a whole number from 0 to 2^53"),
        (
            "problems.jsonl",
            {"meta": {"n": 10**12}},
            "n=1000000000000 must be a whole number from 1 to 10,000,000",
        ),
        ("problems.jsonl", {"meta": {"metric": 1}}, "metric=1 must be a text"),
        ("problems.jsonl", {"meta": []}, "meta=[] must be an object"),
        ("problems.jsonl", {"problem_id": "gsm8k/0"}, "'gsm8k/0' occurs twice"),
        ("problems.jsonl", {"meta": {"n": 2}}, "does not belong to this run (n=2)"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_value_that_cannot_be_is_named(name, change, said, tmp_path, capsys):
    run = write_run(tmp_path / "run", {"gsm8k": ["ppab", "aabb"]})
    damage(run / name, lambda row: json.dumps(row | change))
    assert said in refused(["report", run], tmp_path, capsys)


@pytest.mark.parametrize(
    "content",
    [
        *(
            "",
            "{",
            "[]",
            "null",
            "7",
            "\0\0",
            '{"settings": []}',
            '{"settings": {}}',
            '{"settings": {"n": "4"}}',
        ),
        *(
            '{"settings": {"n": 0}}',
            '{"settings": {"n": true}}',
            '{"settings": {"n": 1e3}}',
            "[" * 100_000,
        ),
        *('{"settings": {"n": 4}, "versions": 3}', '{"settings": {"n": 4}, "model": ["m"]}'),
        *('{"settings": {"n": 4}, "left_out": [1]}', '{"settings": {"n": NaN}}'),
    ],
    ids=lambda content: content[:40],
)
def test_a_damaged_record_of_a_run_is_named(content, tmp_path, capsys):
    run = write_run(tmp_path / "run", {"gsm8k": ["ppab"]})
    (run / "run.json").write_text(content)
    assert f"'{run / 'run.json'}' cannot be read (" in refused(["report", run], tmp_path, capsys)


@pytest.mark.parametrize("name", [*ROWS, "run.json"])
def test_a_folder_in_the_place_of_a_file_is_named(name, tmp_path, capsys):
    run = write_run(tmp_path / "run", {"gsm8k": ["ppab"]})
    (run / name).unlink()
    (run / name).mkdir()
    for command in ("report", "grade"):
        if (command, name) != ("grade", "run.json"):  # the command does not read it
            said = refused([command, run], tmp_path, capsys)
            assert name in said


@pytest.mark.parametrize("name", ROWS)
def test_an_empty_file_is_no_run(name, tmp_path, capsys):
    run = write_run(tmp_path / "run", {"gsm8k": ["ppab"]})
    (run / name).write_text("")
    refused(["report", run], tmp_path, capsys)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_sampling_goes_on_over_no_damaged_row(form, tmp_path):
    problems = [Problem(f"b/{i}", "b", "Q", "1", "math") for i in range(2)]
    path = tmp_path / "samples.jsonl"
    append_jsonl(
        path, [Sample(problem.problem_id, i, "A") for problem in problems for i in range(2)]
    )
    damage(path, form)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"samples\.jsonl: not a row of this version"):
        collect(tmp_path, plan_chunks(problems, 2, BatchLimits(2)))
    assert path.read_bytes() == before


def full_after(size: int):
    """Limit files of this process to this many bytes, like a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_rows_that_do_not_fit_leave_the_file_as_it_was(tmp_path):
    path = tmp_path / "verdicts.jsonl"
    rows = [Verdict("b/0", i, "pass", "7", "math/1") for i in range(20)]
    append_jsonl(path, rows[:1])
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        full_after(3 * size + size // 2)
        with pytest.raises(OSError, match="File too large"):
            append_jsonl(path, rows[1:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert list(read_jsonl(path, Verdict)) == rows[:1]
    append_jsonl(path, rows[1:])
    assert list(read_jsonl(path, Verdict)) == rows


@pytest.mark.parametrize(
    "number",
    [
        errno.ENOSPC,
        *(
            pytest.param(number, marks=pytest.mark.slow)
            for number in (errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
        ),
    ],
)
def test_verdicts_that_cannot_be_written_are_one_line_and_are_graded_again(
    number, tmp_path, monkeypatch, capsys
):
    run = write_run(tmp_path / "run", {"gsm8k": ["ppab"]})
    (run / "verdicts.jsonl").unlink()
    real = records.append_jsonl

    def refuse(path, rows):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("shaped_eval.grade.append_jsonl", refuse)
    said = refused(["grade", run], tmp_path, capsys)
    assert f"{run / 'verdicts.jsonl'}: {os.strerror(number)}" in said
    monkeypatch.setattr("shaped_eval.grade.append_jsonl", real)
    assert cli.main(["grade", str(run)]) == 0
    assert len(list(read_jsonl(run / "verdicts.jsonl", Verdict))) == 4
