"""`compare --plan` against simulation, and several runs against one baseline with Holm."""

from __future__ import annotations

import json

import numpy as np
import pytest
from graded_runs import write_run
from scipy import stats
from shaped_eval.errors import UserError
from shaped_eval.reporting.compare_many import compare_many
from shaped_eval.statistics import paired_difference
from shaped_eval.statistics.multiple import holm
from shaped_eval.statistics.planning import (
    Spread,
    power,
    problems_needed,
    smallest_difference,
    spread_of_shift,
    spread_of_two,
)

from shaped_trl.cli import main


def population(rng, problems, gain=0.06):
    """Chances of two models, of which the second is better by `gain` on average, not everywhere."""
    a_P = rng.beta(2, 2, problems) * 0.8 + 0.05
    b_P = np.clip(a_P + gain + rng.normal(0, 0.08, problems), 0.01, 0.99)
    return a_P, b_P


def test_the_spread_of_two_runs_is_that_of_the_population():
    rng = np.random.default_rng(0)
    a_P, b_P = population(rng, 40_000)
    found = spread_of_two(rng.binomial(4, a_P), 4, rng.binomial(8, b_P), 8)
    assert found.between == pytest.approx((b_P - a_P).var(), rel=0.1)
    assert found.within == pytest.approx((a_P * (1 - a_P) + b_P * (1 - b_P)).mean(), rel=0.01)
    same = spread_of_two([2, 2, 2], 4, [2, 2, 2], 4)
    assert same.between == 0.0


@pytest.mark.parametrize("n", [1, 8])
def test_so_many_problems_show_the_difference_in_four_studies_of_five(n):
    """The planned test is a t-test, and the comparison's sign-flip test agrees with it."""
    rng = np.random.default_rng(n)
    a_P, b_P = population(rng, 100_000)
    difference = float((b_P - a_P).mean())
    spread = Spread(float((b_P - a_P).var()), float((a_P * (1 - a_P) + b_P * (1 - b_P)).mean()))
    problems = problems_needed(spread, difference, n)
    studies = 3000
    chosen = rng.integers(len(a_P), size=(studies, problems))
    found = (rng.binomial(n, b_P[chosen]) - rng.binomial(n, a_P[chosen])) / n
    shown = stats.ttest_1samp(found, 0.0, axis=1).pvalue < 0.05
    assert shown.mean() == pytest.approx(0.8, abs=0.03)
    pairs = [paired_difference(np.zeros(problems), row).p_value < 0.05 for row in found[:60]]
    assert np.mean(np.array(pairs) == shown[:60]) > 0.95
    assert power(spread, difference, problems - 1, n) < 0.8
    assert smallest_difference(spread, problems, n) == pytest.approx(difference, rel=0.01)


def test_more_samples_do_not_replace_problems():
    spread = Spread(between=0.01, within=0.4)
    needed = [problems_needed(spread, 0.02, n) for n in (1, 16, 10**6)]
    assert needed[0] > needed[1] > needed[2]
    limit = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) ** 2 * 0.01 / 0.02**2
    assert needed[2] == pytest.approx(limit, abs=3)
    assert problems_needed(Spread(0.0, 0.0), 0.02, 1) == 2


def test_the_spread_of_a_shift_is_by_the_difference_on_average():
    """16 problems, half of them at a chance of (4 + ½)/9: a shift to d more, found by bisection."""
    found = spread_of_shift([4] * 8, 8, 0.1)
    assert found.between == pytest.approx(0.0, abs=1e-12)  # equal chances move together
    assert found.within == pytest.approx(0.5 * 0.5 + 0.6 * 0.4)
    spread = spread_of_shift([0, 2, 4, 6, 8], 8, 0.1)
    before = (np.array([0, 2, 4, 6, 8]) + 0.5) / 9
    low, high = 0.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        after = 1 / (1 + (1 / before - 1) * np.exp(-middle))
        low, high = (middle, high) if (after - before).mean() < 0.1 else (low, middle)
    assert spread.between == pytest.approx((after - before).var())
    with pytest.raises(UserError, match=r"10 points is more than the run can gain: it passes 9"):
        spread_of_shift([8] * 5, 8, 0.1)


def test_runs_that_never_differ_say_nothing_about_a_plan(tmp_path, capsys):
    folders = [str(write_run(tmp_path / name, {"gsm8k": ["pppp", "aaaa"]})) for name in "ab"]
    assert main(["compare", *folders, "--plan", "5"]) == 2
    assert (
        "gsm8k: in both runs the samples of each problem are all right" in capsys.readouterr().err
    )


def test_few_problems_and_little_spread_have_a_power():
    for within in (1e-6, 1e-4, 1e-2, 0.5):
        for n in (1, 256):
            spread = Spread(0.0, within)
            problems = problems_needed(spread, 0.05, n)
            assert 0.8 <= power(spread, 0.05, problems, n) <= 1.0
            assert problems == 2 or power(spread, 0.05, problems - 1, n) < 0.8


def test_holm_is_that_of_the_definition():
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A baseline, two runs that are better in most problems, and one that is the same."""
    out = tmp_path_factory.mktemp("runs")
    base = ["paaa", "aaaa", "ppaa", "paaa", "aaaa", "paaa", "aaaa", "ppaa"]
    better = [row.replace("a", "p", 2) for row in base]
    some = [row.replace("a", "p", 1) if i < 6 else row for i, row in enumerate(base)]
    rows = {"base": base, "better": better, "some": some, "same": base}
    extra = {"better": {"math500": ["pppp", "paaa"]}, "base": {"math500": ["paaa", "paaa"]}}
    return [
        str(write_run(out / name, {"gsm8k": each, **extra.get(name, {})}))
        for name, each in rows.items()
    ]


def test_several_runs_have_corrected_p_values(runs):
    title, _, results = compare_many(runs, pictures=False)
    assert title == "better, some, same against base"
    rows = {(row["run"], row["benchmark"], row["metric"]): row for row in results["differences"]}
    family = [rows[run, "gsm8k", "avg@4"] for run in ("better", "some", "same")]
    assert [row["p_value"] for row in family] == [2 / 2**8, 2 / 2**6, 1.0]
    assert [row["p_corrected"] for row in family] == [6 / 2**8, 4 / 2**6, 1.0]
    alone = rows["better", "math500", "avg@4"]  # the only run that has it
    assert alone["p_corrected"] == alone["p_value"]


def test_the_command_compares_several_and_plans(runs, tmp_path, capsys):
    assert main(["compare", *runs, "--out", str(tmp_path / "many")]) == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if line.startswith("| some | ")]
    found = [line for line in lines if line.endswith("| 0.031 | 0.062 |")]
    assert found
    assert not any("▲" in line for line in found)  # they would be without the correction
    assert "p (Holm)" in (tmp_path / "many" / "report.html").read_text()
    assert main(["compare", *runs[:2], "--plan", "5", "--out", str(tmp_path / "plan")]) == 0
    assert "| samples of each | problems needed |" in capsys.readouterr().out
    rows = json.loads((tmp_path / "plan" / "results.json").read_text())["gsm8k"]
    assert [row["n"] for row in rows] == [1 << power for power in range(9)]
    assert all(row["samples"] == row["n"] * row["problems"] for row in rows)
    assert main(["compare", runs[0], "--plan", "5"]) == 0
    assert "same shift of the log-odds" in capsys.readouterr().out


def test_where_nothing_is_drawn_problems_alone_count(tmp_path, capsys):
    """The variance of a difference is what the two runs show, and has no part of sampling."""
    rng = np.random.default_rng(0)
    letters = rng.choice(["p", "a"], (2, 200), p=[0.5, 0.5])
    a, b = (
        write_run(tmp_path / name, {"gsm8k": list(row)}, n=1, temperature=0.0)
        for name, row in zip("ab", letters, strict=True)
    )
    out = tmp_path / "plan"
    assert main(["compare", str(a), str(b), "--plan", "5", "--out", str(out)]) == 0
    (row,) = json.loads((out / "results.json").read_text())["gsm8k"]
    differences = (letters[1] == "p").astype(float) - (letters[0] == "p")
    spread = Spread(differences.var(ddof=1), 0.0)
    assert (row["n"], row["problems"]) == (1, problems_needed(spread, 0.05, 1))
    assert "More samples" not in capsys.readouterr().out
    assert main(["compare", str(a), "--plan", "5"]) == 2
    assert "gsm8k: nothing is drawn here" in capsys.readouterr().err


def test_a_benchmark_that_cannot_be_planned_does_not_end_the_plan(tmp_path, capsys):
    rows = {"gsm8k": ["paaa", "ppaa", "pppa"], "math500": ["pppp", "aaaa"]}
    folders = [
        str(write_run(tmp_path / name, rows | {"gsm8k": rows["gsm8k"][::step]}))
        for name, step in (("a", 1), ("b", -1))
    ]
    assert main(["compare", *folders, "--plan", "5", "--out", str(tmp_path / "plan")]) == 0
    assert "No plan. math500: in both runs" in " ".join(capsys.readouterr().out.split())
    assert list(json.loads((tmp_path / "plan/results.json").read_text())) == ["gsm8k"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plan", "0"], "plan=0 is out of range"),
        (["--plan", "100"], "plan=100 is out of range"),
        (["--plan", "nan"], "plan=nan is out of range"),
        (["B", "C", "--plan", "5"], "plan=5 takes one run or two, not 3"),
        (["--plan", "5", "--pass_at", "2"], "pass_at='2' has no meaning with --plan"),
    ],
)
def test_plans_that_cannot_be_made_are_one_line(words, message, runs, capsys):
    assert main(["compare", runs[0], *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
