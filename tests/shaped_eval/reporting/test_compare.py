"""Two runs on the same problems: changes counted by hand, and refusals."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from graded_runs import write_run
from html_pages import check_self_contained
from shaped_eval.report import compare
from shaped_eval.reporting.compare import paired_differences, solve_rates
from shaped_eval.reporting.results import GradedRun, average, grouped, read_runs
from shaped_eval.statistics import paired_difference, problem_interval

from shaped_trl.cli import main

A = {"gsm8k": ["pppp", "aaaa", "ppaa", "paaa", "uuuu", "pppp"], "math500": ["aaaa", "pppp", "abab"]}
B = {"gsm8k": ["pppp", "pppa", "aaaa", "ppaa", "uuuu", "aapp"], "math500": ["aaap", "pppp", "abab"]}
HARD = "An </table> | `awkward` question"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    a = write_run(
        out / "a", A, prompt=f"Worked example\n\nQuestion: {HARD}", model="m/a", max_new_tokens=64
    )
    b = write_run(
        out / "b", B, prompt=f"Worked example\n\nQuestion: {HARD}", model="m/b", max_new_tokens=128
    )
    lines = (b / "problems.jsonl").read_text().splitlines(keepends=True)
    (b / "problems.jsonl").write_text("".join(lines[::-1]))  # the order of files does not matter
    return a, b


@pytest.fixture(scope="module")
def runs(folders) -> list[GradedRun]:
    return read_runs(folders)


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "deep" / "folder"
    return out, compare(*folders, out=out)


def row_of(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_differences_are_those_of_aligned_problems(runs):
    found = paired_differences(*runs)
    a, b = ([row.count("p") / 4 for row in side["gsm8k"]] for side in (A, B))
    expected = paired_difference(a, b)
    assert found["gsm8k"]["avg@n"] == pytest.approx(vars(expected))
    assert set(found["gsm8k"]) == {"avg@n", "pass@2", "pass@4", "maj@2", "cons@n"}
    assert list(paired_differences(*runs, ["pass@4"])["math500"]) == ["pass@4"]
    assert {label: list(rates) for label, rates in solve_rates("gsm8k", runs).items()} == {
        "a": a,
        "b": b,
    }


def test_values_differences_and_flips_are_printed(written):
    _, text = written
    _, a, b, difference, p = row_of(text, "pass@4")
    assert (a[:5], b[:5], difference[:5]) == ("66.7 ", "66.7 ", "0.0 [")
    assert p == "1.000"
    # gsm8k: 1 and 3 better, 2 and 5 worse, 0 and 4 the same; 1 solved by b alone, 2 by a alone
    assert row_of(text, "gsm8k")[1:] == ["6", "2", "2", "2", "1", "1"]
    assert row_of(text, "math500")[1:] == ["3", "1", "0", "2", "1", "0"]
    assert row_of(text, "gsm8k/1")[1:4] == ["0.0", "75.0", "+75.0"]
    assert text.index("| gsm8k/1 |") < text.index("| gsm8k/3 |") < text.index("| gsm8k/5 |")
    assert "| gsm8k/0 |" not in text
    assert "| max_new_tokens | 64 | 128 |" in text
    assert "not corrected for the number of rows" in text
    assert "fewer than 30 problems" in text
    assert "n 4, 0.0% cut, 16.7% unparsed" in text


def test_the_page_shows_the_same_and_fetches_nothing(written):
    out, _ = written
    page = check_self_contained((out / "report.html").read_text())
    assert page.tags.count("img") == 6  # avg, pass@2, pass@4, cons; and 2 benchmarks
    assert sorted(path.name for path in out.glob("flips_*")) == [
        "flips_gsm8k.png",
        "flips_math500.png",
    ]
    # the table of problems that changed
    assert len(re.findall("awkward", (out / "report.html").read_text())) == 5
    markdown = (out / "report.md").read_text()
    assert "Worked example" not in markdown
    assert (
        "![gsm8k: solve rates of 6 problems; 2 are solved more often by b than by a, 2 less often]"
        in markdown
    )


def test_results_hold_every_row(written, runs):
    results = json.loads((written[0] / "results.json").read_text())
    assert {label: one["results"] for label, one in results["runs"].items()} == {
        run.label: run.results for run in runs
    }
    rows = {(row["benchmark"], row["metric"]): row for row in results["differences"]}
    assert set(rows) == {
        (name, key) for name in A for key in ("avg@4", "pass@2", "pass@4", "maj@2", "cons@4")
    }
    assert all(
        row["run"] == "b" and row["against"] == "a" and 0 < row["p_value"] <= 1
        for row in rows.values()
    )


def test_the_command_compares_and_names_what_is_wrong(folders, tmp_path, capsys):
    a, b = map(str, folders)
    assert main(["compare", a, b, "--pass_at", "1,2", "--out", str(tmp_path / "page")]) == 0
    shown = capsys.readouterr()
    assert "| pass@2 |" in shown.out
    assert "pass@4" not in shown.out
    assert str(tmp_path / "page" / "report.html") in shown.err
    (tmp_path / "file").write_text("")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.yaml").write_text("")
    elsewhere = str(write_run(tmp_path / "elsewhere", {"aime24": ["pppp"]}))
    fewer = str(write_run(tmp_path / "fewer", {"gsm8k": A["gsm8k"][:5], "math500": A["math500"]}))
    ungraded = write_run(tmp_path / "ungraded", A)
    (ungraded / "verdicts.jsonl").unlink()
    for arguments, message in (
        ([a], "give the folder of a second run, B, or --plan POINTS"),
        ([a, a], "is given twice: give each run once"),
        ([a, str(tmp_path / "none")], "is not a run's folder: it has no run.json"),
        ([a, str(ungraded)], "does not exist: complete the run with the command `grade`"),
        ([a, elsewhere], "(gsm8k, math500) and .* (aime24) have no benchmark in common"),
        ([a, fewer], "differ in 1 problems of gsm8k, such as gsm8k/5"),
        ([a, b, "--pass_at", "5"], "pass_at=5: the run has n=4"),
        ([a, b, "--out", a], "is the folder of a run or a study (run.json): choose another --out"),
        ([a, b, "--out", str(tmp_path / "study")], "(study.yaml): choose another --out"),
        ([a, b, "--out", str(tmp_path / "file")], "is a file: name a folder"),
    ):
        assert main(["compare", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("shaped-trl: error: ")
        assert len(error.splitlines()) == 1
        assert re.search(message.replace("(", r"\(").replace(")", r"\)"), error), error


def test_runs_of_other_n_compare_where_they_can(folders, tmp_path):
    b = write_run(tmp_path / "b", {"gsm8k": [row[:2] for row in B["gsm8k"]], "aime24": ["pp"]}, n=2)
    first, other = read_runs([folders[0], b])
    found = paired_differences(first, other)
    assert set(found) == {"gsm8k"}
    assert set(found["gsm8k"]) == {"avg@n", "pass@2"}  # cons@4 and cons@2 are different metrics
    expected = paired_difference(
        [row.count("p") / 4 for row in A["gsm8k"]], [row[:2].count("p") / 2 for row in B["gsm8k"]]
    )
    assert found["gsm8k"]["avg@n"]["value"] == pytest.approx(expected.value)
    text = compare(folders[0], b)
    assert "Not compared, because only one run has them: aime24, math500." in text
    assert "| avg@n |" in text


def test_equal_runs_differ_in_nothing(folders, tmp_path):
    twin = write_run(tmp_path / "twin", A)
    found = paired_differences(*read_runs([folders[0], twin]))
    for by_metric in found.values():
        for difference in by_metric.values():
            assert difference == {"value": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
    text = compare(folders[0], twin)
    assert "largest gains" not in text
    assert not re.search("▲ |▼ ", text.split("mark differences")[1])


def test_averages_of_independent_benchmarks_cover_the_truth():
    """The interval of an average over benchmarks of 60, 80 and 90 problems, in 600 draws."""
    rng = np.random.default_rng(0)
    shapes = {"gsm8k": (2.0, 2.0, 60), "math500": (1.0, 2.0, 80), "minerva": (3.0, 1.5, 90)}
    truth = np.mean([a / (a + b) for a, b, _ in shapes.values()])
    hits, widths = 0, []
    for _ in range(600):
        intervals = {
            name: vars(problem_interval(rng.beta(a, b, problems)))
            for name, (a, b, problems) in shapes.items()
        }
        mean = average(intervals)
        hits += mean["low"] <= truth <= mean["high"]
        widths.append(mean["high"] - mean["low"])
        assert mean["value"] == pytest.approx(np.mean([one["value"] for one in intervals.values()]))
    variance = (
        sum(a * b / (a + b) ** 2 / (a + b + 1) / problems for a, b, problems in shapes.values()) / 9
    )
    assert 0.93 <= hits / 600 <= 0.985
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.08)


def test_averages_of_the_same_problems_are_no_better_known():
    one = {"value": 0.5, "low": 0.4, "high": 0.7, "sampling_se": 0.03}
    twice = average({"humaneval": one, "humanevalplus": one})
    assert (twice["value"], twice["low"], twice["high"]) == pytest.approx((0.5, 0.4, 0.7))
    apart = average({"humanevalplus": one, "mbppplus": one})
    assert (apart["low"], apart["high"]) == pytest.approx((0.5 - 0.1 / 2**0.5, 0.5 + 0.2 / 2**0.5))
    assert apart["sampling_se"] == pytest.approx(0.03 / 2**0.5)
    assert average({"gsm8k": one, "arc_easy": {**one, "sampling_se": None}})["sampling_se"] is None


def test_groups_are_the_papers_and_what_stands_beside_them():
    names = ["new_one", "aime24", "mmlu", "gsm8k", "humanevalplus", "humaneval", "math500"]
    assert grouped(names) == {
        "knowledge": ["mmlu"],
        "math": ["gsm8k", "math500"],
        "code": ["humanevalplus"],
        "more math": ["aime24"],
        "more code": ["humaneval"],
        "other": ["new_one"],
    }
