"""Planted effects come back as verdicts, from the folders of a study to its report."""

import copy
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_study import ARMS, SEEDS, effect
from scipy import stats
from shaped_eval.reporting.document import to_markdown
from study_rows import BENCHMARK

from shaped_trl.study.loading import load_study
from shaped_trl.study.reporting.claims import judge
from shaped_trl.study.reporting.effects import effects, holm
from shaped_trl.study.reporting.findings import find
from shaped_trl.study.reporting.pages import blocks
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.results import collect, read_regimes


def verdicts(claims: Sequence[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Claim → the overall verdict, and those in P and D."""
    return {
        claim["claim"]: (
            claim["verdict"],
            *(claim["regimes"][each]["verdict"] for each in ("P", "D")),
        )
        for claim in claims
    }


def judged(regimes: Sequence[RegimeRuns]) -> list[dict[str, Any]]:
    return judge(regimes, effects(regimes))


def sentence(claims: Sequence[dict[str, Any]], claim: str, regime: str) -> str:
    return next(each["regimes"][regime]["sentence"] for each in claims if each["claim"] == claim)


def report_text(regimes: Sequence[RegimeRuns], results: dict[str, Any]) -> str:
    return to_markdown("Study", blocks(regimes[0].study, results, ()))


def change_log(runs: RegimeRuns, arm: str, stage: str, key: str, factor: float) -> None:
    for rows in runs.logs[arm, stage].values():
        for row in rows:
            row[key] *= factor


PLANTED = {
    "entropy_order": ("shown", "shown", "shown"),
    "precision_rl": ("not resolved", "shown", "refuted"),
    "shape_or_temperature": ("not resolved", "not resolved", "refuted"),
    "tail_suppression": ("not resolved", "not resolved", "not resolved"),
    "entropy_collapse": ("shown", "shown", "shown"),
}


def test_verdicts_are_as_planted(results: dict[str, Any]) -> None:
    claims = results["claims"]
    assert verdicts(claims) == PLANTED
    by_name = {claim["claim"]: claim for claim in claims}
    assert (
        by_name["precision_rl"]["sentence"] == "it depends on the regime: shown in P, refuted in D"
    )
    assert by_name["shape_or_temperature"]["arms"] == ["precision_product", "cooled"]
    text = sentence(claims, "precision_rl", "P")
    row = effect(results, "P", "precision_product", "cross_entropy", "rlvr", "reward")
    assert (
        f"{100 * row['value']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}] points"
        in text
    )
    assert "(8 seeds)" in text


def test_effects_are_those_of_the_rows(folder: Path, results: dict[str, Any]) -> None:
    def rewards(arm: str, seed: int) -> float:
        lines = (folder / f"runs/D/{arm}/seed{seed}/rlvr/rl_log.jsonl").read_text().splitlines()
        return float(np.mean([json.loads(line)["raw_reward"] for line in lines]))

    own, base = ([rewards(arm, seed) for seed in SEEDS] for arm in ("precision_product", "cooled"))
    row = effect(results, "D", "precision_product", "cooled", "rlvr", "reward")
    expected = stats.ttest_rel(own, base)
    assert (row["value"], row["p_value"]) == pytest.approx(
        (np.mean(own) - np.mean(base), expected.pvalue)
    )
    interval = expected.confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["unit"] == "share"

    change = effect(results, "P", "diversity_product", "cross_entropy", "rlvr", "entropy_change")
    # last and first tenths are 2 of 20 rows each
    assert change["value"] == pytest.approx(-0.4, abs=0.06)
    nll = effect(results, "P", "precision_product", "cross_entropy", "pretrain", "nll_relative")
    assert abs(nll["value"]) < 0.01
    metrics = {
        (row["benchmark"], row["metric"])
        for row in results["effects"]
        if row["stage"] == "eval_rlvr"
    }
    assert metrics == {(BENCHMARK, "avg@8"), (BENCHMARK, "cons@8"), (BENCHMARK, "pass@8")}


def test_exploratory_arms_have_no_part_in_the_correction(results: dict[str, Any]) -> None:
    family = [
        row
        for row in results["effects"]
        if (row["regime"], row["stage"], row["metric"]) == ("P", "rlvr", "reward")
        and not row["exploratory"]
    ]
    assert {(row["arm"], row["against"]) for row in family} == {
        *(
            (arm, "cross_entropy")
            for arm in ("precision_product", "diversity_product", "tail_penalty", "cooled")
        ),
        ("precision_product", "cooled"),
    }
    assert [row["p_corrected"] for row in family] == holm([row["p_value"] for row in family])
    tried = [row for row in results["effects"] if row["arm"] == "exponent"]
    assert {row["seeds"] for row in tried} == {3}
    assert {row["p_corrected"] for row in tried} == {None}
    assert not any("exponent" in claim["arms"] for claim in results["claims"])
    findings = find(results)
    assert "P: exponent against cross_entropy, rlvr: reward over the run" in "\n".join(
        findings.hints
    )
    assert not any(
        "exponent" in each and "rlvr" in each and "→" not in each for each in findings.shown
    )
    assert "exponent: exploratory, and therefore left out of the correction" in "\n".join(
        findings.limits
    )


def test_what_was_not_planned_is_not_missed(
    folder: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    assert (results["failed"], results["incomplete"]) == ({}, [])
    assert results["regimes"]["P"]["temperatures"] == {
        "cooled": {str(s): 0.8 + s / 100 for s in SEEDS}
    }
    assert results["arms"]["cooled"]["entropy_of"] == "precision_product"
    part = shutil.copytree(folder / "runs/D/cooled", tmp_path / "out/runs/D/cooled")
    shutil.copy(folder / "study.yaml", tmp_path / "out")
    (part / "seed3/temperature-pretrain/done.json").unlink()
    left = collect(read_regimes(load_study(tmp_path / "out/study.yaml", tmp_path / "out")))[
        "incomplete"
    ]
    assert [key for key in left if "D/cooled" in key] == ["D/cooled/seed3/temperature-pretrain"]
    assert not any("cooled" in key and key.endswith("/pretrain") for key in left)
    assert {key for key in left if key.startswith("P/exponent")} == {
        f"P/exponent/seed{seed}/{stage}"
        for seed in (0, 1, 2)
        for stage in ("pretrain", "eval_pretrain", "rlvr", "eval_rlvr")
    }


def test_rl_is_not_compared_where_training_was_not_alike(regimes: list[RegimeRuns]) -> None:
    change_log(regimes[1], "precision_product", "pretrain", "eval_nll", 1.2)
    claims = judged(regimes)
    expected = PLANTED | {
        "entropy_order": ("not resolved", "shown", "not resolved"),
        "precision_rl": ("not resolved", "shown", "not resolved"),
        "shape_or_temperature": ("not resolved", "not resolved", "not resolved"),
    }
    assert verdicts(claims) == expected
    assert "perplexity is not equal" in sentence(claims, "entropy_order", "D")
    for name in ("precision_rl", "shape_or_temperature"):
        assert sentence(claims, name, "D").startswith(
            "not trained alike (NLL of precision_product +20."
        )


def test_verdicts_turn_with_the_numbers(regimes: list[RegimeRuns]) -> None:
    for runs in regimes:
        change_log(runs, "precision_product", "pretrain", "eval_entropy", 3.0)
        change_log(runs, "diversity_product", "pretrain", "eval_entropy", 0.3)
        for rows in runs.logs["diversity_product", "rlvr"].values():
            for row in rows:
                row["entropy"], row["completion_length"] = 1 + row["step"] / 20, 30 + row["step"]
    found = verdicts(judged(regimes))
    assert found["entropy_order"] == ("refuted",) * 3
    assert found["entropy_collapse"] == ("refuted",) * 3
    # one of the two claimed differences, and none against the claim
    for rows in regimes[0].logs["diversity_product", "rlvr"].values():
        for row in rows:
            row["entropy"] = 2 - row["step"] / 20
    # one of the two differences against the claim, and none for it
    for seed, rows in regimes[1].logs["diversity_product", "rlvr"].items():
        for row, like in zip(rows, regimes[1].logs["cross_entropy", "rlvr"][seed], strict=True):
            row["completion_length"] = like["completion_length"]
    assert verdicts(judged(regimes))["entropy_collapse"] == (
        "not resolved",
        "not resolved",
        "refuted",
    )


def test_rl_is_not_compared_where_a_likelihood_is_not_a_number(regimes: list[RegimeRuns]) -> None:
    change_log(regimes[1], "precision_product", "pretrain", "eval_nll", math.nan)
    claims = judged(regimes)
    for name in ("precision_rl", "shape_or_temperature"):
        assert verdicts(claims)[name][2] == "not resolved"
        assert sentence(claims, name, "D").startswith(
            "not trained alike (NLL of precision_product unknown"
        )


def test_stages_may_have_another_number_of_samples(regimes: list[RegimeRuns]) -> None:
    """They have no gains then, and the tables have the metrics of both."""
    for runs in regimes:
        for (_, stage), by_seed in runs.evaluations.items():
            for found in by_seed.values() if stage == "eval_rlvr" else ():
                found.update({name: replace(each, n=2 * each.n) for name, each in found.items()})
    results = collect(regimes)
    assert all(not each["gains"] for each in results["regimes"].values())
    text = report_text(regimes, results)
    for stage, n in (("eval_pretrain", 8), ("eval_rlvr", 16)):
        for metric in (f"avg@{n}", f"cons@{n}", f"pass@{n}"):
            assert f"| {stage}, running_sums: {metric}, % |" in text


@pytest.mark.parametrize(("p_reward", "verdict"), [(0.02, "refuted"), (0.03, "not resolved")])
def test_one_of_two_quantities_refutes_at_half_the_level(
    regimes: list[RegimeRuns], p_reward: float, verdict: str
) -> None:
    rows = effects(regimes)
    for row in rows:
        if (row["regime"], row["arm"], row["against"]) == (
            "D",
            "precision_product",
            "cross_entropy",
        ):
            row["p_corrected"] = p_reward if row["metric"] == "reward" else 0.5
    assert verdicts(judge(regimes, rows))["precision_rl"] == ("not resolved", "shown", verdict)


def test_an_arm_with_data_of_its_own_is_not_compared_in_likelihood(
    regimes: list[RegimeRuns],
) -> None:
    for runs in regimes:
        change_log(runs, "precision_product", "pretrain", "eval_nll", 1.2)
    before = collect(regimes)
    assert "precision_product was not trained alike" in "\n".join(find(before).limits)
    assert "| precision_product | -0.6 | +3.2 |" in report_text(regimes, before)
    for runs in regimes:
        runs.study.arms["precision_product"] = replace(
            runs.study.arms["precision_product"], prepare={"running_sums": {"p_long": 0.6}}
        )
    results = collect(regimes)
    findings = find(results)
    assert "precision_product was not trained alike" not in "\n".join(findings.limits)
    assert "P: precision_product on texts of its own against cross_entropy" in "\n".join(
        findings.shown
    )
    assert not any("precision_product" in claim["arms"] for claim in results["claims"])
    assert "| precision_product | -0.6 | +3.2 |" not in report_text(regimes, results)


def test_an_arm_with_options_of_its_own_has_no_part_in_a_claim(regimes: list[RegimeRuns]) -> None:
    """The arm differs from the baseline in more than its shape."""
    for runs in regimes:
        arms = runs.study.arms
        arms["precision_product"] = replace(
            arms["precision_product"], args={"rlvr": {"learning_rate": 1.0}}
        )
        arms["tail_penalty"] = replace(
            arms["tail_penalty"], shape={}, args={"pretrain": {"shape_schedule": "{}"}}
        )
    found = {claim["claim"]: set(claim["arms"]) for claim in judged(regimes)}
    both = {"cross_entropy", "diversity_product"}
    assert found == {"entropy_order": both, "entropy_collapse": both}


def test_a_claim_needs_two_seeds_of_its_arms(regimes: list[RegimeRuns]) -> None:
    for runs in regimes:
        for stage in ("rlvr", "eval_rlvr"):
            for kind in (runs.logs, runs.evaluations):
                if ("tail_penalty", stage) in kind:
                    kind["tail_penalty", stage] = dict(
                        list(kind["tail_penalty", stage].items())[:1]
                    )
    assert "tail_suppression" not in verdicts(judged(regimes))
    only = [row for row in effects(regimes) if row["stage"] != "rlvr" or row["regime"] != "D"]
    found = judge(
        regimes, [row for row in only if (row["regime"], row["stage"]) != ("D", "eval_rlvr")]
    )
    assert verdicts(found)["precision_rl"] == ("not resolved", "shown", "not resolved")
    assert "fewer than two seeds" in sentence(found, "precision_rl", "D")
    unmeasured = judge(regimes, [row for row in effects(regimes) if row["stage"] != "eval_rlvr"])
    assert verdicts(unmeasured)["precision_rl"] == ("not resolved", "not resolved", "refuted")


def test_what_a_claim_says_of_regimes_and_seeds(regimes: list[RegimeRuns]) -> None:
    del regimes[0].evaluations["diversity_product", "eval_rlvr"][0]
    for seed, rows in regimes[1].logs["precision_product", "rlvr"].items():
        for row, like in zip(rows, regimes[1].logs["cross_entropy", "rlvr"][seed], strict=True):
            row["raw_reward"] = like["raw_reward"]
    del regimes[1].evaluations["precision_product", "eval_rlvr"][0]
    regimes[1].evaluations["precision_product", "eval_rlvr"].update(
        {
            seed: own
            for seed, own in regimes[1].evaluations["cross_entropy", "eval_rlvr"].items()
            if seed
        }
    )
    claim = next(each for each in judged(regimes) if each["claim"] == "precision_rl")
    # no difference between the two is shown
    assert claim["sentence"] == "not the same in every regime: shown in P, not resolved in D"
    assert "(8 seeds)" in claim["regimes"]["P"]["sentence"]
    assert "(7 to 8 seeds)" in claim["regimes"]["D"]["sentence"]


def test_limits_count_the_seeds_that_are_done(folder: Path, read: list[RegimeRuns]) -> None:
    def limits(done: dict[str, int]) -> str:
        """The limits if some arms have only so many seeds."""
        regimes = copy.deepcopy(read)
        for runs in regimes:
            for kind in (runs.logs, runs.evaluations):
                for (arm, _), by_seed in kind.items():
                    for seed in SEEDS[done.get(arm, 8) :]:
                        by_seed.pop(seed, None)  # type: ignore[attr-defined]
        return "\n".join(find(collect(regimes)).limits)

    assert "8 training seeds: the intervals over seeds are t intervals of 3 to 8 paired" in limits(
        {"exponent": 3}
    )
    every = dict.fromkeys(ARMS, 2)
    assert (
        "2 training seeds: the intervals over seeds are t intervals of 2 paired values"
        in limits(every)
    )
    text = limits(dict.fromkeys(ARMS, 1))
    assert (
        "No two arms have two of the 8 training seeds yet: the intervals are over problems" in text
    )
    assert "training seeds: the intervals over seeds" not in text


def test_arms_with_other_seeds_are_compared_on_those_in_common(regimes: list[RegimeRuns]) -> None:
    for runs in regimes:
        for seed, rows in runs.logs["cross_entropy", "pretrain"].items():
            for row in rows:
                row["eval_nll"] *= 1 if seed in (0, 1, 2) else 2
    limits = [each for each in find(collect(regimes)).limits if "was not trained alike" in each]
    assert not any("exponent" in each for each in limits)
