"""The index of a run against a plain reading of its files, selections against a plain filter."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from graded_runs import write_run
from shaped_eval.errors import UserError
from shaped_eval.records import Sample, append_jsonl, jsonl_line
from shaped_eval.reporting.viewing import scan
from shaped_eval.reporting.viewing.index import AGREEMENTS, VERDICTS
from shaped_eval.reporting.viewing.scan import read_indices
from shaped_eval.reporting.viewing.selection import TRUNCATED, Selection, select

WORDS = ("alpha", "Beta", 'quo"te', "back\\slash", "naïve", "a/b", "gamma delta")


def rows_of(path: Path) -> list[dict]:
    """The rows of a file whose last line may be cut off."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def write_rows(path: Path, rows: list[dict], **how) -> None:
    path.write_text("".join(json.dumps(row, **how) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of two benchmarks with 6 samples of each problem, in a random order."""
    rng = random.Random(0)
    letters = ["".join(rng.choices("paabuteAP", k=6)) for _ in range(12)]
    run = write_run(
        tmp_path_factory.mktemp("index") / "run", {"gsm8k": letters[:7], "mine": letters[7:]}, 6
    )
    samples = rows_of(run / "samples.jsonl")
    for row in samples:
        row["completion"] = " ".join(rng.choices(WORDS, k=3))
        row["tokens"] = rng.randrange(1, 40)
    problems = rows_of(run / "problems.jsonl")
    for number, row in enumerate(problems):
        row["prompt"] = f"Shared words.\nQuestion: is it {number * 111}?"
    verdicts = rows_of(run / "verdicts.jsonl")
    for rows in (samples, verdicts):
        rng.shuffle(rows)
    for name, rows in (("samples", samples), ("problems", problems), ("verdicts", verdicts)):
        write_rows(run / f"{name}.jsonl", rows, ensure_ascii=False)
    return run


def plain(folder: Path) -> list[dict]:
    """Every sample with all that is known of it, in order, read in the plainest way."""
    problems = rows_of(folder / "problems.jsonl")
    verdicts = {(r["problem_id"], r["sample_index"]): r for r in rows_of(folder / "verdicts.jsonl")}
    order = [row["problem_id"] for row in problems]
    found = []
    for row in rows_of(folder / "samples.jsonl"):
        key = row["problem_id"], row["sample_index"]
        problem = problems[order.index(key[0])]
        verdict = verdicts.get(key, {"status": "ungraded", "answer": None})
        status, answer = verdict["status"], verdict["answer"]
        vote = "gold" if status == "pass" else None if answer is None else f"not {answer}"
        found.append(
            {
                **row,
                "key": key,
                "problem": problem,
                "status": status,
                "vote": vote,
                "answer": answer,
                "place": (order.index(key[0]), key[1]),
            }
        )
    for row in found:
        votes = Counter(
            other["vote"] for other in found if other["key"][0] == row["key"][0] and other["vote"]
        )
        row["same"] = votes[row["vote"]] if row["vote"] else 0
        most = max(votes.values(), default=0)
        row["agreement"] = (
            "none" if not row["vote"] else "majority" if row["same"] == most else "minority"
        )
    return sorted(found, key=lambda row: row["place"])


def check_against_plain(folder: Path) -> None:
    expected = plain(folder)
    with read_indices([folder]) as (index,):
        assert len(index) == len(expected)
        for row, one in enumerate(expected):
            shown = index.shown(row)
            assert (shown.sample.problem_id, shown.sample.sample_index) == one["key"]
            assert shown.sample.completion == index.completion(row) == one["completion"]
            assert (shown.status, shown.answer) == (one["status"], one["answer"])
            assert (shown.length, shown.same) == (one["tokens"], one["same"])
            assert shown.agreement == one["agreement"]
            assert shown.truncated == (one["finish_reason"] == "length")
            assert index.row_of(*one["key"]) == row
            number = index.rows.problem_S[row]
            assert row in index.samples_of(number)
            assert index.problem(number).gold == one["problem"]["gold"]


def test_the_index_is_what_the_files_say(folder):
    check_against_plain(folder)
    with read_indices([folder]) as (index,):
        assert index.row_of("gsm8k/0", 6) is None
        assert index.row_of("nothing", 0) is None
        assert {*index.rows.agreement_S} == {0, 1, 2}


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_rows_of_other_writers_are_read_as_well(folder, tmp_path):
    run = copied(folder, tmp_path / "run")
    rows = [dict(reversed(row.items())) for row in rows_of(run / "samples.jsonl")]
    write_rows(run / "samples.jsonl", rows, separators=(",", ":"))
    check_against_plain(run)


def test_a_completion_that_looks_like_the_end_of_its_row_is_one(folder, tmp_path):
    run = copied(folder, tmp_path / "run")
    rows = rows_of(run / "samples.jsonl")
    for row in rows:
        row["completion"] = '", "finish_reason": "length", "tokens": 9}\n\\' * 2
    write_rows(run / "samples.jsonl", rows)
    check_against_plain(run)


@pytest.mark.parametrize(
    "row",
    [
        Sample("a/1", 3, "text", "length", 7),
        Sample("a/1", 0, 'quote " \\ \n \u2028 é', "stop", 0),
        Sample("a/1", 0, '{"problem_id": "b"}', "stop", 12),
    ],
)
def test_a_row_is_read_quickly_as_it_is_read_slowly(row):
    found = scan._without_completion(jsonl_line(row).encode())
    assert found == Sample(row.problem_id, row.sample_index, "", row.finish_reason, row.tokens)


@pytest.mark.parametrize("row", [Sample('a"b', 0, ""), Sample("é", 0, ""), Sample("a\\b", 0, "")])
def test_a_row_with_another_id_is_parsed(row):
    assert scan._without_completion(jsonl_line(row).encode()) is None


def test_completions_stay_on_the_disk(tmp_path):
    run = write_run(tmp_path / "run", {"mine": ["p" * 4] * 100}, completion="x" * 50_000)
    tracemalloc.start()
    with read_indices([run]) as (index,):
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(index.completion(399)) == 50_000
    assert (run / "samples.jsonl").stat().st_size > 20_000_000
    assert most < 3_000_000


def test_a_run_that_is_not_complete_opens(folder, tmp_path):
    run = copied(folder, tmp_path / "run")
    lines = (run / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (run / "samples.jsonl").write_bytes(b"".join(lines[:30]) + lines[30][:20])
    verdicts = (run / "verdicts.jsonl").read_bytes().splitlines(keepends=True)
    (run / "verdicts.jsonl").write_bytes(b"".join(verdicts[:25]))
    check_against_plain(run)
    (run / "verdicts.jsonl").unlink()
    with read_indices([run]) as (index,):
        assert len(index) == 30
        assert {VERDICTS[status] for status in index.rows.status_S} == {"ungraded"}


def test_what_is_written_meanwhile_changes_nothing(folder, tmp_path):
    run = copied(folder, tmp_path / "run")
    with read_indices([run]) as (index,):
        before = [index.shown(row) for row in range(len(index))]
        append_jsonl(run / "samples.jsonl", [Sample("gsm8k/0", 5, "again")])
        (run / "verdicts.jsonl").unlink()
        (run / "verdicts.jsonl").write_text("")
        assert [index.shown(row) for row in range(len(index))] == before
        (run / "samples.jsonl").write_bytes(b"x" * 9_000)  # in place, which nobody should
        with pytest.raises(UserError, match="has changed since it was opened"):
            index.shown(0)


def test_of_repeated_rows_the_first_sample_and_the_last_verdict_count(tmp_path):
    run = write_run(tmp_path / "run", {"mine": ["pa"]}, 2)
    append_jsonl(run / "samples.jsonl", [Sample("mine/0", 0, "another")])
    append_jsonl(
        run / "verdicts.jsonl", [{**rows_of(run / "verdicts.jsonl")[1], "status": "error"}]
    )
    with read_indices([run]) as (index,):
        assert len(index) == 2
        assert index.shown(0).sample.completion == "some text"
        assert index.shown(0).status == "error"


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("samples", '{"problem_id": "other/0", "sample_index": 0, "completion": ""}', "not belong"),
        ("verdicts", "{", "verdicts.jsonl:73: not a JSON row"),
        ("samples", '{"problem_id": "gsm8k/0", "sample_index": -1, "completion": ""}', "2\\^53"),
        (
            "samples",
            '{"problem_id": "gsm8k/0", "sample_index": 9999999999, "completion": ""}',
            "not",
        ),
        (
            "problems",
            '{"problem_id": "gsm8k/0", "benchmark": "b", "prompt": "", "gold": "", '
            '"grader": "math"}',
            "occurs twice",
        ),
    ],
)
def test_rows_that_do_not_belong_are_named(folder, tmp_path, name, line, message):
    run = copied(folder, tmp_path / "run")
    with (run / f"{name}.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message), read_indices([run]):
        pass


def test_folders_that_hold_no_run_are_refused(folder, tmp_path):
    (tmp_path / "run.json").write_text('{"settings": {"n": 1}}')
    for folders, message in (
        ([tmp_path / "nothing"], "is not a run's folder"),
        ([tmp_path], "has no problems.jsonl"),
        ([folder, folder], "is given twice"),
    ):
        with pytest.raises(UserError, match=message), read_indices(folders):
            pass


def is_selected(row: dict, selection: Selection) -> bool:
    problem = row["problem"]
    own = problem["prompt"].removeprefix("Shared words.\nQuestion: ")
    texts = (row["completion"], problem["problem_id"], own, problem["gold"])
    verdict = selection.verdict
    return (
        selection.benchmark in ("", problem["benchmark"])
        and (
            verdict in ("", row["status"])
            or (verdict == TRUNCATED and row["finish_reason"] == "length")
        )
        and selection.agreement in ("", row["agreement"])
        and row["tokens"] >= int(selection.shortest or 0)
        and row["tokens"] <= int(selection.longest or 10**9)
        and any(selection.words.lower() in text.lower() for text in texts)
    )


def selections() -> list[Selection]:
    words = (
        "",
        "BETA",
        'quo"te',
        "\\",
        "naÏve",
        "a/b",
        "gsm8k/3",
        "is it 333",
        "Shared",
        "nowhere",
    )
    single = [
        *(Selection(verdict=verdict) for verdict in (*VERDICTS, TRUNCATED)),
        *(Selection(agreement=agreement) for agreement in AGREEMENTS),
        *(Selection(words=each) for each in words),
        *(Selection(benchmark=name) for name in ("gsm8k", "mine", "unknown")),
        Selection(shortest="11", longest="20"),
        Selection(shortest="20", longest="11"),
    ]
    rng = random.Random(1)
    joint = [
        Selection(
            rng.choice(("", "gsm8k", "mine")),
            rng.choice(("", "", "pass", "fail", TRUNCATED)),
            rng.choice(("", *AGREEMENTS)),
            rng.choice(("", "5", "10")),
            rng.choice(("", "30", "35")),
            rng.choice(words),
        )
        for _ in range(60)
    ]
    return single + joint


def test_selections_are_those_of_a_plain_filter(folder):
    expected = plain(folder)
    sizes = []
    with read_indices([folder]) as (index,):
        for selection in selections():
            found = select(index, selection).tolist()
            assert found == [
                row for row, one in enumerate(expected) if is_selected(one, selection)
            ], selection
            sizes.append(len(found))
    assert len(set(sizes)) > 12


def test_words_are_found_however_a_writer_escapes_them(folder, tmp_path):
    run = copied(folder, tmp_path / "run")
    text = (run / "samples.jsonl").read_text()
    (run / "samples.jsonl").write_text(text.replace("a/b", r"a\/b").replace("ï", r"\u00ef"))
    with read_indices([folder, run]) as (plainly, escaped):
        for words in ("a/b", "naïve", "NAÏVE a"):
            found = select(escaped, Selection(words=words)).tolist()
            assert found == select(plainly, Selection(words=words)).tolist() != []


def test_what_has_no_meaning_is_refused():
    for field, value in (
        ("verdict", "PASS"),
        ("agreement", "most"),
        ("shortest", "-1"),
        ("longest", "1e3"),
        ("longest", "²"),
        ("shortest", "9" * 30),
    ):
        with pytest.raises(UserError, match=f"{field}='"):
            Selection(**{field: value})
    asked = Selection.of({"verdict": " pass ", "run": "1", "words": "a b"})
    assert asked.fields() == {"verdict": "pass", "words": "a b"}
