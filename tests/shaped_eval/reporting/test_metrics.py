"""The modules of `evaluate`: loaded offline from their folders, with the numbers of statistics."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from shaped_eval import metrics
from shaped_eval.errors import UserError
from shaped_eval.statistics import (
    avg_at_m,
    cons_at_m,
    maj_at_k,
    pass_at_k,
    problem_interval,
    sampling_se,
    vote_sampling_se,
)

evaluate = pytest.importorskip("evaluate", reason="needs the extra evaluate")

PASSES = [[True, False, True, False], [False] * 4, [True] * 4, [True, False, False, False]]
ANSWERS, GOLDS = (
    [["7", "8", "7", ""], ["1", "2", "2", "2"], ["3"] * 4, ["", "", "5", "6"]],
    ["7", "1", "3", "5"],
)


def check(found: dict, name: str, values, sampling: float) -> None:
    expected = asdict(problem_interval(values, sampling))
    got = {
        "value": found[name],
        **{key: found[f"{name}_{key}"] for key in ("low", "high", "sampling_se")},
    }
    assert got == expected


def test_each_module_computes_what_the_statistics_do(load):
    counts = [sum(row) for row in PASSES]
    found = load("pass_at_k").compute(predictions=PASSES, k=[1, 3])
    assert found["pass@1"] == pytest.approx((0.5 + 0 + 1 + 0.25) / 4)
    for k in (1, 3):
        check(found, f"pass@{k}", pass_at_k(counts, 4, k), sampling_se(counts, 4, k))
    check(
        load("avg_at_m").compute(predictions=PASSES),
        "avg@4",
        avg_at_m(counts, 4),
        sampling_se(counts, 4),
    )
    ballots = metrics.votes(ANSWERS, GOLDS)
    found = load("cons_at_m").compute(predictions=ANSWERS, references=GOLDS)
    assert found["cons@4"] == (1 + 0 + 1 + 0.5) / 4
    statuses = [
        ["pass", "fail", "pass", "unparsed"],
        ["pass", "fail", "fail", "fail"],
        ["pass"] * 4,
    ]
    statuses += [["unparsed", "unparsed", "pass", "fail"]]
    answers = [[answer or None for answer in row] for row in ANSWERS]
    check(found, "cons@4", cons_at_m(statuses, answers), vote_sampling_se(ballots, 4))
    found = load("maj_at_k").compute(predictions=ANSWERS, references=GOLDS, k=[2])
    check(found, "maj@2", maj_at_k(ballots, 2), vote_sampling_se(ballots, 2))


def test_batches_add_up_and_bad_input_is_refused(load):
    metric = load("pass_at_k")
    for row in PASSES:
        metric.add(predictions=row)
    assert metric.compute(k=[2])["pass@2"] == pytest.approx((1 - 1 / 6 + 0 + 1 + 0.5) / 4)
    with pytest.raises(UserError, match="k=5 needs 1 <= k <= n=4"):
        metric.compute(predictions=PASSES, k=[5])
    with pytest.raises(
        UserError, match=r"predictions\[1\] has 3 samples, but predictions\[0\] has 4"
    ):
        metric.compute(predictions=[PASSES[0], PASSES[1][:3]], k=[1])


def test_each_name_is_a_folder_with_its_script_and_others_are_refused():
    for name in metrics.NAMES:
        assert (Path(metrics.path(name)) / f"{name}.py").is_file()
    with pytest.raises(UserError, match="metric='pass@k' does not exist: use one of pass_at_k"):
        metrics.path("pass@k")
