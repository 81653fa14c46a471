"""The numbers in the README's two tables are those of the committed records, rounded."""

import csv
import importlib.util
import json
import re

import numpy as np
import pytest
from places import ROOT
from scipy import stats

RESULTS = ROOT / "recipes" / "studies" / "results"
specification = importlib.util.spec_from_file_location(
    "temperature_share", ROOT / "docs" / "temperature_share.py"
)
temperature = importlib.util.module_from_spec(specification)
specification.loader.exec_module(temperature)
SIZE, DEVICE = "8192x2560x151936", "NVIDIA H200"


def rows_of(path: str) -> list[dict[str, str]]:
    with (ROOT / path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def readme_row(start: str) -> list[str]:
    """The cells of the table's row that begins so, with plain minus signs."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("−", "-")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+(?:\.\d+)?", cell)]


def effect(
    regime: str, stage: str, metric: str, arm: str, against: str, study: str = "cpu-midtrain"
) -> list[float]:
    """Difference and interval of a study in points or %."""
    results = json.loads((RESULTS / study / "results.json").read_text(encoding="utf-8"))
    asked = {"regime": regime, "stage": stage, "metric": metric, "arm": arm, "against": against}
    (found,) = [row for row in results["effects"] if asked.items() <= row.items()]
    return [100 * found[name] for name in ("value", "low", "high")]


@pytest.mark.parametrize(
    ("start", "metric", "arm", "against"),
    [
        ("precision gives better RL", "reward", "precision_product", "cross_entropy"),
        ("and more than", "reward", "precision_product", "matched_temperature"),
        ("tail suppression", "reward", "tail_penalty", "cross_entropy"),
        ("high entropy", "length_change", "diversity_product", "cross_entropy"),
    ],
)
def test_differences_in_rl_are_those_of_the_study(start, metric, arm, against):
    _, *cells, _ = readme_row(start)
    for regime, cell in zip("PD", cells, strict=True):
        digits = 1 if "." in cell else 0
        expected = [round(value, digits) for value in effect(regime, "rlvr", metric, arm, against)]
        assert numbers(cell.replace("%", "")) == expected


def test_entropies_are_those_of_the_study():
    results = json.loads((RESULTS / "cpu-midtrain/results.json").read_text(encoding="utf-8"))
    _, *cells, _ = readme_row("β orders entropy")
    for regime, cell in zip("PD", cells, strict=True):
        found = {
            row["arm"]: round(100 * row["value"])
            for row in results["regimes"][regime]["training_differences"]
            if (row["stage"], row["quantity"]) == ("midtrain", "entropy")
        }
        assert numbers(cell) == [found["precision_product"], found["diversity_product"]]


@pytest.mark.parametrize(
    ("study", "verdicts"),
    [
        ("cpu-midtrain", ["shown", *["not resolved"] * 4]),
        ("arithmetic", ["shown", *["not resolved"] * 3, "refuted"]),
    ],
)
def test_verdicts_are_those_of_the_studies(study, verdicts):
    results = json.loads((RESULTS / study / "results.json").read_text(encoding="utf-8"))
    assert [claim["verdict"] for claim in results["claims"]] == verdicts
    starts = ("β orders", "precision gives", "and more than", "tail supp", "high entropy")
    for start, verdict in zip(starts, verdicts, strict=True):
        assert verdict in readme_row(start)[-1]


def test_the_share_of_temperature_is_that_of_the_records():
    """Against a jackknife, which is another estimate of the spread than the script's two."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    stated = re.search(
        r"explains (.*)% \[(.*)\] of precision's reward in P and (.*)% \[(.*)\]", text
    )
    shown = zip(temperature.STUDIES, (stated.group(1, 2), stated.group(3, 4)), strict=True)
    for (study, regime), (value, interval) in shown:
        found = temperature.rewards(study, regime)
        base = found["cross_entropy"]
        part, whole = (found[arm] - base for arm in ("matched_temperature", "precision_product"))
        effects = [
            effect(regime, "rlvr", "reward", arm, "cross_entropy", study)[0]
            for arm in ("matched_temperature", "precision_product")
        ]
        assert 100 * part.mean() == pytest.approx(effects[0])
        assert int(value) == round(100 * effects[0] / effects[1])
        share = temperature.share(part, whole)
        assert numbers(interval) == [round(100 * end) for end in share.bootstrap]
        without = [np.delete(part, i).mean() / np.delete(whole, i).mean() for i in range(len(base))]
        spread = np.sqrt((len(base) - 1) * np.var(without))
        widths = [(high - low) / (2 * 1.96) for low, high in (share.bootstrap, share.fieller)]
        assert widths[0] == pytest.approx(spread, rel=0.3)
        assert widths[1] > widths[0]


def test_fiellers_interval_has_the_ratios_that_a_t_test_does_not_refuse():
    part, whole = np.array([1.0, 2.0, 4.0, 3.5]), np.array([3.0, 4.5, 5.0, 6.5])
    for end in temperature.share(part, whole).fieller:
        assert stats.ttest_1samp(part - end * whole, 0).pvalue == pytest.approx(0.05)
    with pytest.raises(ValueError, match="no bounds"):
        temperature.share(part, whole - whole.mean())


def test_the_differences_before_rl_are_those_of_the_studies():
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("−", "-")
    places = (("arithmetic", ""), ("cpu-midtrain", "P"), ("cpu-midtrain", "D"))
    pattern = (
        r"by (\S+) points of avg@64 \[(.*?)\].*?in P, (\S+) \[(.*?)\], or in D, (\S+) \[(.*?)\]"
    )
    stated = re.search(pattern, text, flags=re.DOTALL).groups()
    pair = ("precision_product", "matched_temperature")
    for number, (study, regime) in enumerate(places):
        found = effect(regime, "eval_midtrain", "avg@64", *pair, study)
        value, interval = stated[2 * number : 2 * number + 2]
        assert [float(value), *numbers(interval)] == [round(each, 1) for each in found]
    by_seed = {
        (row["arm"], row["seed"]): float(row["y"])
        for row in rows_of("recipes/studies/results/arithmetic/report/avg.csv")
        if row["x"] == "eval_midtrain" and row["seed"] != "mean"
    }
    seeds = [seed for arm, seed in by_seed if arm == pair[0]]
    ahead = sum(by_seed[pair[0], seed] > by_seed[pair[1], seed] for seed in seeds)
    assert f"in {ahead} of {len(seeds)} seeds" in text


def test_times_of_the_loss_are_those_measured():
    measured = {
        (row["size"], row["variant"]): row
        for row in rows_of("kernels/benchmarks/results.csv")
        if row["device"].startswith(DEVICE) or row["date"] == "2026-11-21T08:22"
    }
    names = ("base_ratio", "base_ratio_low", "base_ratio_high")
    expected = [
        float(measured[SIZE, variant][name])
        for variant in ("ours cross-entropy", "ours full, metrics")
        for name in names
    ]
    assert numbers(readme_row("loss, H200")[1]) == pytest.approx(expected, abs=0.0051)
    ours, full = measured[SIZE, "ours full"], measured[SIZE, "full logits, full shape"]
    expected = [float(full[name]) / float(ours[name]) for name in ("median_ms", "peak_mb")]
    found = numbers(readme_row("the same, against full logits")[1])
    assert [f"{expected[0]:.1f}", f"{expected[1]:.0f}"] == [f"{found[0]:.1f}", f"{found[1]:.0f}"]
    cpu = "1024x512x151936"
    floor = float(measured[cpu, "floor: 3 matmuls, our chunks"]["median_ms"])
    expected = [
        round(float(measured[cpu, variant]["median_ms"]) / floor, 2)
        for variant in ("ours cross-entropy", "ours full, metrics")
    ]
    assert numbers(readme_row("loss, CPU")[1]) == expected


def test_speeds_of_training_are_those_measured():
    rows = {row["size"]: row for row in rows_of("speed/training.csv")}
    names = ("speed_ratio", "speed_ratio_low", "speed_ratio_high")
    expected = [float(rows[size][name]) for size in ("demo", "32k") for name in names]
    assert numbers(readme_row("`ShapedTrainer`")[1]) == pytest.approx(expected, abs=0.0051)


def test_dynamic_sampling_at_equal_tokens_is_what_was_measured():
    table = (RESULTS / "dynamic_sampling/table.md").read_text(encoding="utf-8")
    (line,) = [line for line in table.splitlines() if "at equal rollout tokens" in line]
    assert numbers(readme_row("dynamic sampling")[1])[1:] == numbers(line)


def test_dynamic_sampling_ended_where_greedy_decoding_had_begun():
    folder = "recipes/studies/results/dynamic_sampling"
    ended = {row["seed"]: row for row in rows_of(f"{folder}/seeds.csv")}
    for row in rows_of(f"{folder}/greedy.csv"):
        greedy = float(row["greedy before RL"])
        assert float(ended[row["seed"]]["before"]) < greedy
        for run in ("on", "off, equal tokens"):
            half_a_problem = 0.5 / int(row["problems"])
            assert float(ended[row["seed"]][run]) < greedy + half_a_problem
