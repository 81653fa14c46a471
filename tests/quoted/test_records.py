"""What is computed from the records, by other means than the studies' own statistics."""

import numpy as np
import pytest
from scipy import stats

from quoted.dynamic_sampling import FOLDER, difference
from quoted.pages import ROOT
from quoted.records import BASELINE, Study, ahead, bound, over_seeds, row, rows
from quoted.temperature import script, shares

MIDTRAIN = {regime: ("cpu-midtrain", regime) for regime in "PD"}
ARMS = ("precision_product", "diversity_product", "tail_penalty", "matched_temperature")


@pytest.fixture(scope="module")
def studies():
    return {name: Study(name) for name in ("cpu-midtrain", "arithmetic", "cpu")}


def interval(values) -> list[float]:
    """Mean and 95% interval by another program."""
    found = stats.ttest_1samp(values, 0).confidence_interval()
    return [np.mean(values), found.low, found.high]


def test_a_mean_over_seeds_has_the_interval_of_a_t_test():
    values = [1.0, 4.0, 2.0, 7.5]
    found = over_seeds(values)
    assert [found.value, found.low, found.high] == pytest.approx(interval(values))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(("name", "regime"), [*MIDTRAIN.values(), ("arithmetic", ""), ("cpu", "P")])
def test_effects_on_rl_are_those_of_the_curves_of_each_seed(studies, name, regime, arm):
    study = studies[name]
    own, base = (study.curves("reward", each, regime).mean(1) for each in (arm, BASELINE))
    found = study.effect("reward", arm, regime=regime)
    assert [found.value, found.low, found.high] == pytest.approx(interval(100 * (own - base)))


@pytest.mark.parametrize("stage", ["eval_midtrain", "eval_rlvr"])
@pytest.mark.parametrize(("name", "regime"), [*MIDTRAIN.values(), ("arithmetic", "")])
def test_effects_on_avg_are_those_of_the_evaluations_of_each_seed(studies, name, regime, stage):
    study = studies[name]
    arm, against = "precision_product", "matched_temperature"
    difference = study.evaluations(stage, arm, regime) - study.evaluations(stage, against, regime)
    found = study.effect("avg@64", arm, against, stage, regime)
    assert [found.value, found.low, found.high] == pytest.approx(interval(difference))


def test_curves_of_training_are_those_of_the_logs(studies):
    """The figure's numbers, and the log of the run in the records."""
    study = studies["cpu-midtrain"]
    for seed, curve in enumerate(study.curves("policy_entropy", "diversity_product", "P")):
        log = study.log(f"P/diversity/seed{seed}/rlvr")
        assert curve == pytest.approx(np.array(log["entropy"], dtype=float))


def test_held_out_differences_are_those_of_the_logs(studies):
    study = studies["cpu-midtrain"]
    found = study.held_out("entropy", "precision_product", regime="D")
    own, base = (
        np.array([study.log(f"D/{arm}/seed{seed}/midtrain")["eval_entropy"][-1] for seed in range(8)])
        for arm in ("precision", BASELINE)
    )  # fmt: skip
    assert found.value == pytest.approx(100 * (own.mean() / base.mean() - 1), abs=0.05)
    assert found.low < found.value < found.high < 0


def test_a_record_is_found_once():
    with pytest.raises(ValueError, match=r"0 rows have \{'size': 'none'\}; there must be one"):
        row("speed/training.csv", size="none")
    with pytest.raises(ValueError, match="2 rows have"):
        row("speed/training.csv", pairs="10")


def test_bounds_and_counts():
    assert [bound(p) for p in (0.0002, 0.001, 0.04, 0.3)] == [0.001, 0.01, 0.05, 1]
    assert ahead([0.5, -1.0, 0.0]) == 1


@pytest.mark.parametrize(("study", "regime"), script.STUDIES)
def test_the_share_of_temperature_has_the_spread_of_a_jackknife(study, regime):
    """A jackknife is another estimate of the spread than the script's two."""
    found = script.rewards(study, regime)
    base = found[BASELINE]
    part, whole = (found[arm] - base for arm in ("matched_temperature", "precision_product"))
    without = [np.delete(part, i).mean() / np.delete(whole, i).mean() for i in range(len(base))]
    spread = 100 * np.sqrt((len(base) - 1) * np.var(without))
    widths = [(each.high - each.low) / (2 * 1.96) for each in shares[study, regime]]
    assert widths[0] == pytest.approx(spread, rel=0.3)
    assert widths[1] > widths[0]
    assert shares[study, regime].fieller.value == pytest.approx(100 * part.mean() / whole.mean())


def test_fiellers_interval_has_the_ratios_that_a_t_test_does_not_refuse():
    part, whole = np.array([1.0, 2.0, 4.0, 3.5]), np.array([3.0, 4.5, 5.0, 6.5])
    for end in script.share(part, whole).fieller:
        assert stats.ttest_1samp(part - end * whole, 0).pvalue == pytest.approx(0.05)
    with pytest.raises(ValueError, match="no bounds"):
        script.share(part, whole - whole.mean())


def test_dynamic_sampling_ended_where_greedy_decoding_had_begun():
    """At most half a problem above it, as docs/results/dynamic-sampling.md says."""
    folder = "recipes/studies/results/dynamic_sampling"
    ended = {each["seed"]: each for each in rows(f"{folder}/seeds.csv")}
    for greedy in rows(f"{folder}/greedy.csv"):
        share, half_a_problem = float(greedy["greedy before RL"]), 0.5 / int(greedy["problems"])
        own = ended[greedy["seed"]]
        assert float(own["before"]) < share
        for run in ("on", "off, equal tokens"):
            assert float(own[run]) < share + half_a_problem


def test_the_table_of_dynamic_sampling_is_that_of_its_seeds():
    """The script that measured wrote the differences into table.md."""
    found = difference("on", "off, equal tokens")
    written = f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    table = (ROOT / FOLDER / "table.md").read_text(encoding="utf-8")
    assert f"| on − off, at equal rollout tokens | {written} |" in table
