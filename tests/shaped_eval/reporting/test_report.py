"""The report: numbers recomputed by hand from verdicts, refusals, and the content of the pages."""

from __future__ import annotations

import base64
import json
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from graded_runs import N, write_run
from shaped_eval.errors import UserError
from shaped_eval.report import report, report_run
from shaped_eval.reporting.plots import plot_pass_at_k
from shaped_eval.reporting.results import default_pass_at, parse_pass_at
from shaped_eval.statistics import paired_difference

# One letter for each sample, see graded_runs.
TOY = ["ppab", "aabp", "uuuu", "puuT", "pppp", "abpP", "eaat"]
OTHER = ["aaaa", "ppppp"[:4]]


def by_hand(letters: list[str], k: int) -> float:
    """Mean over problems of the share of k-subsets with a pass."""
    shares = [
        np.mean([any(letter in "pP" for letter in subset) for subset in combinations(row, k)])
        for row in letters
    ]
    return float(np.mean(shares))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", {"toy": TOY, "other": OTHER})


def test_results_are_those_of_the_verdicts(run):
    results = report_run(run)
    assert json.loads((run / "results.json").read_text()) == results
    assert set(results) == {"toy", "other"}
    toy = results["toy"]
    assert (toy["problems"], toy["n"]) == (7, N)
    assert toy["truncated"] == 2 / 28
    assert toy["unparsed"] == 6 / 28
    metrics = toy["metrics"]
    assert list(metrics) == ["pass@1", "pass@2", "pass@4", "avg@4", "maj@2", "cons@4"]
    for k in (1, 2, 4):
        assert metrics[f"pass@{k}"]["value"] == pytest.approx(by_hand(TOY, k), abs=1e-12)
    assert metrics["avg@4"] == metrics["pass@1"]
    # The winner of the vote: ppab -> gold; aabp -> A; nobody; gold alone; gold; gold 2 of 4; A.
    assert metrics["cons@4"]["value"] == pytest.approx(4 / 7, abs=1e-12)
    # Of two samples, gold wins alone or with one that does not vote; it ties with A or B.
    pairs = [1 / 6 + 4 / 12, 3 / 12, 0, 3 / 6, 1, 1 / 6 + 4 / 12, 0]
    assert metrics["maj@2"]["value"] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert results["other"]["metrics"]["pass@4"]["value"] == 0.5


def test_intervals_and_sampling_errors_agree_with_their_definitions(run):
    metrics = report_run(run)["toy"]["metrics"]
    for metric in metrics.values():
        assert 0 <= metric["low"] < metric["value"] < metric["high"] <= 1
    # Sampling alone, by enumeration: passes of a problem with c of 4 are Binomial(4, (c + 1/2)/5).
    variance = 0.0
    for row in TOY:
        p = (sum(letter in "pP" for letter in row) + 0.5) / (N + 1)
        moments = np.zeros(2)
        for draw in product([0, 1], repeat=N):
            weight = np.prod([p if one else 1 - p for one in draw])
            share = np.mean([any(subset) for subset in combinations(draw, 2)])
            moments += weight * np.array([share, share**2])
        variance += moments[1] - moments[0] ** 2
    assert metrics["pass@2"]["sampling_se"] == pytest.approx(np.sqrt(variance) / len(TOY), rel=1e-9)


def test_chosen_k_replace_the_default(run):
    metrics = report_run(run, pass_at=[3, 1])["toy"]["metrics"]
    assert list(metrics) == ["pass@1", "pass@3", "avg@4", "maj@3", "cons@4"]
    assert metrics["pass@3"]["value"] == pytest.approx(by_hand(TOY, 3), abs=1e-12)


def test_default_k_are_powers_of_two_and_n():
    assert default_pass_at(1) == [1]
    assert default_pass_at(16) == [1, 2, 4, 8, 16]
    assert default_pass_at(100) == [1, 2, 4, 8, 16, 32, 64, 100]


def test_pass_at_parses():
    assert parse_pass_at(None) is None
    assert parse_pass_at("64, 1,8", n=64) == [1, 8, 64]
    for text in ("", "1,x", "0", "-1", "1.5"):
        with pytest.raises(UserError, match="is not a valid k"):
            parse_pass_at(text)
    with pytest.raises(UserError, match="pass_at=65: the run has n=64"):
        parse_pass_at("1,65", n=64)


def test_k_above_n_is_refused_before_anything_is_written(run):
    for refused in (lambda: report_run(run, pass_at=[1, 5]), lambda: report([run], pass_at=[1, 5])):
        with pytest.raises(UserError, match="pass_at=5: the run has n=4 samples per problem"):
            refused()
    assert not (run / "results.json").exists()


def edit(path: Path, change) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(change(lines)))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "samples.jsonl",
            lambda lines: lines[:-1],
            r"^other/1 has 3 of n=4 samples: repeat the sample command",
        ),
        ("verdicts.jsonl", lambda lines: lines[1:], r"^toy/0 has 3 of n=4 verdicts: .* grade "),
        (
            "verdicts.jsonl",
            lambda lines: [*lines[:-1], lines[-1][:-5]],
            r"^other/1 has 3 of n=4 verdicts",
        ),
        ("samples.jsonl", lambda lines: [*lines, lines[0]], r"sample 0 of 'toy/0' occurs twice"),
        ("verdicts.jsonl", lambda lines: [*lines, lines[0]], r"sample 3 of 'toy/0' occurs twice"),
        (
            "problems.jsonl",
            lambda lines: lines[1:],
            r"sample 0 of 'toy/0' does not belong to this run",
        ),
        (
            "samples.jsonl",
            lambda lines: [*lines, lines[3].replace("3,", "4,")],
            "sample 4 of .* does not belong to this run",
        ),
    ],
    ids=[
        "sample",
        "verdict",
        "cut_verdict",
        "sample_twice",
        "verdict_twice",
        "no_problem",
        "index_n",
    ],
)
def test_a_run_that_is_not_complete_is_not_aggregated(run, file, change, message):
    edit(run / file, change)
    with pytest.raises(UserError, match=message):
        report_run(run)
    assert not (run / "results.json").exists()


@pytest.mark.parametrize("file", ["run.json", "problems.jsonl", "samples.jsonl", "verdicts.jsonl"])
def test_a_missing_file_is_named(run, file):
    (run / file).unlink()
    with pytest.raises(UserError, match=file.replace(".", r"\.")):
        report_run(run)


def test_pages_hold_numbers_settings_and_the_picture(run):
    results = report_run(run)
    markdown, page = (run / "report.md").read_text(), (run / "report.html").read_text()
    picture = (run / "pass_at_k_toy.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert base64.b64encode(picture).decode() in page
    assert "<img" in page
    assert 'src="pass_at' not in page
    value = f"{100 * results['toy']['metrics']['pass@2']['value']:.1f}"
    for text in (markdown, page):
        for expected in (
            value,
            "temperature: 0.7",
            "some/model",
            "abc123",
            "math/1",
            "7.1% of samples truncated",
        ):
            assert expected in text
    assert "| toy | math/1 | 10 | 9 | 6 | 2 | 1 | 2 | 10.0 |" in markdown


def test_equal_verdicts_give_equal_bytes(run):
    report_run(run)
    first = {path.name: path.read_bytes() for path in run.iterdir()}
    report_run(run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == first


def test_one_folder_prints_its_table(run, capsys):
    text = report([run])
    assert capsys.readouterr().out.strip() == text.strip()
    assert "| toy | 35.7 [" in text
    assert "data:image" not in text


def test_several_folders_are_compared_pairwise(run, tmp_path):
    better = ["pppp", "appp", "uupp", "pppp", "pppp", "pppP", "paap"]
    other = write_run(tmp_path / "better", {"toy": better[:]}, temperature=1.0)
    # The order of problems in the files does not matter.
    edit(other / "problems.jsonl", lambda lines: lines[::-1])
    text = report([run, other], pass_at=[1, 2])
    assert (run / "results.json").exists()
    assert (other / "report.html").exists()
    assert (tmp_path / "comparison" / "report.html").exists()
    a, b = ([by_hand([row], 2) for row in letters] for letters in (TOY, better))
    expected = paired_difference(a, b)
    cell = f"{100 * expected.value:+.1f} [{100 * expected.low:+.1f}, {100 * expected.high:+.1f}]"
    assert expected.value == pytest.approx(np.mean(b) - np.mean(a))
    assert (
        f"{cell} (p = {expected.p_value:.3f})"
        in text.split("**Pass@2: difference to run")[1].split("**Cons")[0]
    )
    assert "| temperature | 0.7 | 1.0 |" in text
    values = text.split("**Pass@2, %**")[1].split("**Cons")[0]
    assert next(line for line in values.splitlines() if line.startswith("| other |")).endswith(
        "| – |"
    )
    combined = json.loads((tmp_path / "comparison" / "results.json").read_text())
    assert combined["runs"]["better"]["results"] == json.loads((other / "results.json").read_text())
    row = next(row for row in combined["differences"] if row["metric"] == "pass@2")
    assert (row["run"], row["against"], row["benchmark"]) == ("better", "run", "toy")
    assert (row["value"], row["low"], row["high"], row["p_value"]) == pytest.approx(
        (expected.value, expected.low, expected.high, expected.p_value)
    )


def test_runs_with_other_problems_are_not_paired(run, tmp_path):
    other = write_run(tmp_path / "fewer", {"toy": TOY[:-1]})
    with pytest.raises(UserError, match="differ in 1 problems of toy, such as toy/6"):
        report([run, other])


def test_runs_of_different_n_share_the_k_that_both_can_estimate(run, tmp_path):
    other = write_run(tmp_path / "two", {"toy": [row[:2] for row in TOY]}, n=2)
    text = report([run, other], out=tmp_path / "out")
    differences = text.split("## Differences")[1]
    assert "Pass@2: difference" in differences
    assert "Avg@n: difference" in differences
    assert "Pass@4: difference" not in differences
    assert "Cons@n: difference" not in differences
    with pytest.raises(UserError, match="pass_at=4: the run has n=2"):
        report([run, other], pass_at=[4])


def test_figure_has_a_band_for_each_curve():
    metrics = {k: {"value": 0.1 * k, "low": 0.05 * k, "high": 0.12 * k} for k in (1, 2, 4)}
    figure = plot_pass_at_k({"before": {"a": metrics, "b": metrics}, "after": {"a": metrics}})
    before, after = figure.axes[:2]
    assert [line.get_label() for line in before.lines] == ["a", "b"]
    assert list(before.lines[0].get_xdata()) == [1, 2, 4]
    assert before.lines[0].get_ydata() == pytest.approx([0.1, 0.2, 0.4])
    assert (len(before.collections), len(after.collections)) == (2, 1)
    assert after.get_title() == "after"
