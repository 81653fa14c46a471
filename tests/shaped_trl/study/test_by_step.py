"""Benchmarks during RL, rollout tokens and the tokens to a plateau, on made-up logs."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_study import write_study
from scipy import stats
from shaped_eval.records import append_jsonl

from shaped_trl.study.loading import load_study
from shaped_trl.study.report import report_study
from shaped_trl.study.reporting.by_step.curves import with_averages
from shaped_trl.study.reporting.results import collect, read_regimes
from shaped_trl.study.reporting.rollout_tokens import sampled_at, tokens_to

pytestmark = pytest.mark.slow

ARMS, SEEDS = ("cross_entropy", "precision_exponent"), (0, 1, 2)
CODE = ("humanevalplus", "mbppplus")  # a whole group of the paper's
NAMES = (*CODE, "running_sums")
METRICS = ("avg@4", "cons@4", "pass@4")
EVALUATED = (0, 15, 40)  # 15 lies between two logged steps
STEPS = tuple(range(2, 42, 2))
NEVER = ("precision_exponent", 2)  # the run that does not get to the plateau


def tokens_of(arm: str, seed: int) -> int:
    """The rollout tokens between two rows of a run."""
    return 1000 + 100 * seed + (50 if arm == "precision_exponent" else 0)


def reward(arm: str, seed: int, step: int) -> float:
    if (arm, seed) == NEVER:
        return 0.1
    return step / 50 + 0.01 * seed + (0.1 if arm == "precision_exponent" else 0)


def share(arm: str, seed: int, step: int, name: str, metric: str) -> float:
    return (
        0.1
        + step / 100
        + 0.02 * seed
        + 0.03 * NAMES.index(name)
        + 0.05 * METRICS.index(metric)
        + 0.04 * ARMS.index(arm)
    )


def rl_rows(arm: str, seed: int) -> list[dict[str, Any]]:
    rows = [
        {"step": step, "benchmark/runtime": 1.0, "benchmark/mbppplus/truncated": 0.5}
        | {
            f"benchmark/{name}/{metric}": share(arm, seed, step, name, metric)
            for name in NAMES
            for metric in METRICS
        }
        for step in EVALUATED
    ]
    return rows + [
        {
            "step": step,
            "raw_reward": reward(arm, seed, step),
            "entropy": 1.0 + 0.1 * seed,
            "completion_length": 30.0,
            "rollout_tokens": float(tokens_of(arm, seed)),
        }
        for step in STEPS
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("steps") / "known"
    write_study(out, SEEDS)
    for arm in ARMS:
        for seed in SEEDS:
            log = out / "runs" / arm / f"seed{seed}" / "rlvr/rl_log.jsonl"
            log.unlink()
            append_jsonl(log, rl_rows(arm, seed))
    report_study(out)
    return out


@pytest.fixture(scope="module")
def summaries(study: Path) -> dict[str, Any]:
    """Arm → its summary of RL."""
    arms = json.loads((study / "results.json").read_text())["regimes"][""]["arms"]
    return {arm: values["rl"]["rlvr"] for arm, values in arms.items()}


def found(rows: list[dict[str, Any]], **labels: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if labels.items() <= row.items())
    return row


def csv_rows(study: Path, name: str) -> list[dict[str, str]]:
    with (study / f"report/{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check_interval(row: dict[str, Any], values: list[float]) -> None:
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    expected = [np.mean(values), interval.low, interval.high]
    assert [row[key] for key in ("value", "low", "high")] == pytest.approx(expected)


def test_values_by_step_are_those_of_the_logs(summaries: dict[str, Any]) -> None:
    for arm, summary in summaries.items():
        rows = summary["by_step"]
        # The averages are over the paper's group and over all three.
        assert len(rows) == len(EVALUATED) * len(METRICS) * (len(NAMES) + 2)
        assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
        for step in EVALUATED:
            for name, over in (("mbppplus", ("mbppplus",)), ("average, code", CODE)):
                values = [
                    float(np.mean([share(arm, seed, step, each, "cons@4") for each in over]))
                    for seed in SEEDS
                ]
                row = found(rows, step=step, benchmark=name, metric="cons@4")
                assert row["seeds"] == len(SEEDS)
                check_interval(row, values)
                # Two logged steps are as far apart as the tokens of a row, also at step 15.
                tokens = [step / 2 * tokens_of(arm, seed) for seed in SEEDS]
                assert row["tokens"] == pytest.approx(np.mean(tokens))


def test_only_a_whole_group_has_an_average() -> None:
    part = {"gsm8k": 0.25, "math500": 0.25, "minerva": 0.25, "mine": 0.75}
    assert with_averages(part) == part | {"average, all": (3 * 0.25 + 0.75) / 4}
    whole = {"gsm8k": 0.1, "math500": 0.2, "minerva": 0.3, "olympiadbench": 0.6}
    assert with_averages(whole) == whole | {"average, math": pytest.approx(0.3)}
    assert with_averages({"gsm8k": 0.5}) == {"gsm8k": 0.5}


def first_reached(arm: str, seed: int, target: float) -> tuple[float, bool]:
    """Tokens when the mean of two rows, a tenth of 20, is first high enough; by a plain loop."""
    rewards = [reward(arm, seed, step) for step in STEPS]
    for number in range(1, len(rewards)):
        if (rewards[number - 1] + rewards[number]) / 2 >= target:
            return (number + 1) * tokens_of(arm, seed), False
    return len(rewards) * tokens_of(arm, seed), True


def test_tokens_to_a_plateau_are_those_of_a_plain_loop(
    study: Path, summaries: dict[str, Any]
) -> None:
    effects = json.loads((study / "results.json").read_text())["effects"]
    for metric, level in (("tokens_to_50", 0.5), ("tokens_to_80", 0.8)):
        reached = {}
        for arm in ARMS:
            for seed in SEEDS:
                plateau = np.mean([reward("cross_entropy", seed, step) for step in STEPS[-2:]])
                reached[arm, seed] = first_reached(arm, seed, level * float(plateau))
            tokens = [reached[arm, seed][0] for seed in SEEDS]
            summary = summaries[arm]
            censored = sum(reached[arm, seed][1] for seed in SEEDS)
            assert summary["tokens_to"][metric] == {
                "value": pytest.approx(np.mean(tokens)),
                "censored": censored,
            }
            assert censored == (arm == NEVER[0])
            assert summary["over_seeds"][metric]["value"] == pytest.approx(np.mean(tokens))
        row = found(effects, metric=metric, arm=ARMS[1], against=ARMS[0])
        check_interval(row, [reached[ARMS[1], s][0] - reached[ARMS[0], s][0] for s in SEEDS])
        assert (row["unit"], row["censored"]) == ("tokens", 1)
        bounds = {
            (each["arm"], int(each["seed"])): each["lower_bound"]
            for each in csv_rows(study, "tokens_to")
            if each["x"] == f"{level:.0%}" and each["seed"] != "mean"
        }
        assert bounds == {key: "yes" if key == NEVER else "no" for key in reached}


def test_a_lucky_row_is_not_a_plateau() -> None:
    rows = [
        {"step": step, "raw_reward": float(step == 5), "rollout_tokens": 10.0}
        for step in range(1, 31)
    ]
    # The mean of three rows is at most a third.
    assert tokens_to(rows, 0.34) == (300.0, True)
    assert tokens_to(rows, 0.33) == (50.0, False)
    assert tokens_to(rows, 0.0) == (30.0, False)
    without = [{"step": 1, "raw_reward": 1.0}]
    assert tokens_to(without, 0.5) is None
    assert sampled_at(without, [1]) == []


def test_curves_over_tokens_are_means_at_equal_tokens(study: Path) -> None:
    rows = csv_rows(study, "reward_by_tokens")
    means = [row for row in rows if (row["arm"], row["seed"]) == ("cross_entropy", "mean")]
    # The grid is what all seeds cover: from the longest first row to the shortest run.
    grid = [int(row["x"]) for row in means]
    assert (grid[0], grid[-1]) == (1200, 20_000)
    assert len(grid) == len(STEPS)
    for row in means:
        # A reward rises by 0.04 in a row, so it is linear in the tokens.
        values = [
            0.04 * int(row["x"]) / tokens_of("cross_entropy", seed) + 0.01 * seed for seed in SEEDS
        ]
        assert float(row["y"]) == pytest.approx(np.mean(values))
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert float(row["low"]) == pytest.approx(interval.low)


def test_the_page_has_the_papers_tables(study: Path) -> None:
    text = (study / "report.md").read_text()
    assert "rlvr by step: cross_entropy, %, means over 3 seeds with their 95% intervals" in text
    value = 100 * np.mean([share("cross_entropy", s, 15, "mbppplus", "pass@4") for s in SEEDS])
    (line,) = (each for each in text.splitlines() if each.startswith("| 15 | 8,250 | mbppplus |"))
    assert f"{value:.1f} [" in line.split(" | ")[-1]
    assert "not reached in 1 of 3 runs" in text
    for name in ("rl_avg", "rl_cons", "rl_pass", "policy_entropy", "response_length"):
        assert f"(report/{name}_by_tokens.png)" in text
        assert f"(report/{name}.png)" in text


def test_the_records_have_all_that_the_tables_need(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/runs")
    again = read_regimes(load_study(tmp_path / "copy/study.yaml", tmp_path / "copy"))
    assert collect(again) == json.loads((study / "results.json").read_text())


def test_averages_over_the_benchmarks_of_an_evaluation(study: Path) -> None:
    (runs,) = read_regimes(load_study(study / "study.yaml", study))
    assert "averages" not in collect([runs])["regimes"][""]["arms"]["cross_entropy"]
    for by_seed in runs.evaluations.values():
        for seed, benchmarks in by_seed.items():
            own = benchmarks["running_sums"]
            more = replace(own, passes_P=np.minimum(own.passes_P + seed, own.n))
            by_seed[seed] = {"running_sums": own, "other": more}
    results = collect([runs])["regimes"][""]["arms"]["precision_exponent"]
    values = [
        float(np.mean([each.passes_P.mean() / each.n for each in benchmarks.values()]))
        for benchmarks in runs.evaluations["precision_exponent", "eval_rlvr"].values()
    ]
    check_interval(results["averages"]["eval_rlvr"]["average, all"]["avg@8"], values)
