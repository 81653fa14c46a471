"""What `docs/results/decode.md` quotes, from the file of the study and from its results."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from quoted.pages import ROOT, Page
from quoted.records import Study, ahead, over_seeds
from quoted.temperature import shares
from quoted.values import Interval, Number, marked
from shaped_trl.study.loading import load_study
from shaped_trl.study.power import LEVEL, difference_power, planned_power

plan = load_study(ROOT / "recipes/studies/decode.yaml", ROOT / "recipes/studies/results/decode")
assert plan.contrasts is not None
sums = plan.regimes["P"]["running_sums"]
chosen = next(each.choose_on for _, each in plan.contrasts.each() if each.choose_on)
margin = Number(100 * plan.contrasts.margin)
study = Study("decode")
LARGEST_SD = 0.0201  # of a contrast on arithmetic, from the README of the pilot

ENTROPY, PRODUCT = "cross_entropy", "precision_product"
DIVIDED, COOLED = f"{ENTROPY}_like_product", "cooled_like_product"
# An arm, and against which, to its words on the page.
CONTRASTS = {
    ("precision_exponent", ENTROPY): "precision | cross-entropy",
    ("precision_exponent", f"{ENTROPY}_like_precision"): "precision | its divided head",
    (PRODUCT, DIVIDED): "the product | its divided head",
    (
        f"best of {PRODUCT}, {PRODUCT}_t75, {PRODUCT}_t60",
        f"best of {ENTROPY}, {ENTROPY}_t75, {ENTROPY}_t60",
    ): "the best of the product | the best of cross-entropy",
    ("tail_penalty", ENTROPY): "tail penalty | cross-entropy",
    ("diversity_exponent", ENTROPY): "diversity | cross-entropy",
}
# What the product is compared with its divided head in, to its stage and metric.
BEFORE_AND_AFTER = {
    "avg@64 before RL, T = 0.6": ("eval_midtrain-t0.6", "avg@64"),
    "cons@64 before RL, T = 0.6": ("eval_midtrain-t0.6", "cons@64"),
    "reward over RL": ("rlvr", "reward"),
    "thousand rollout tokens to 80% of the plateau": ("rlvr", "tokens_to_80"),
    "cons@64 after RL, T = 0.6": ("eval_rlvr-t0.6", "cons@64"),
    "pass@64 after RL, T = 0.6": ("eval_rlvr-t0.6", "pass@64"),
    "avg@64 after RL, T = 1": ("eval_rlvr-t1", "avg@64"),
}

# The arms whose reward is shown, to their words on the page.
REWARDS = {
    "precision_exponent": "precision",
    PRODUCT: "the product",
    DIVIDED: "the product's divided head",
    COOLED: "the earlier control: cross-entropy, sampled at this T",
}
STAGES = ("eval_midtrain-t0.6", "eval_rlvr-t0.6")  # before RL and after it


def primary(arm: str, against: str, regime: str) -> dict[str, Any]:
    """The row of a contrast with its verdict."""
    asked = {"kind": "primary", "arm": arm, "against": against, "regime": regime}
    (found,) = [each for each in study.results["contrasts"] if asked.items() <= each.items()]
    return found


def points(row: dict[str, Any], level: str = "") -> Interval:
    """The difference of a contrast in points, with its 95% interval or that of another level."""
    return Interval(*(100 * row[name] for name in ("value", f"low{level}", f"high{level}")))


def verdict_rows() -> list[str]:
    """The table of the verdicts."""
    rows = []
    for (arm, against), words in CONTRASTS.items():
        cells = []
        for regime in plan.regimes:
            row = primary(arm, against, regime)
            difference = points(row)
            cells.append(f"{difference:+.1f} {difference:[.1f]} {marked(str(row['verdict']))}")
        rows.append(f"| {words} | {' | '.join(cells)} |")
    return rows


def product(stage: str, metric: str, regime: str) -> Interval:
    """The product minus its divided head, in points or in thousands of tokens."""
    found = study.effect(metric, PRODUCT, DIVIDED, stage, regime)
    if metric != "tokens_to_80":
        return found
    return Interval(*(value / 100 / 1000 for value in (found.value, found.low, found.high)))


def before_and_after() -> list[str]:
    """The table of the product against its divided head."""
    rows = []
    for words, (stage, metric) in BEFORE_AND_AFTER.items():
        cells = [product(stage, metric, regime) for regime in plan.regimes]
        rows.append(f"| {words} | {' | '.join(f'{each:+.1f} {each:[.1f]}' for each in cells)} |")
    return rows


def summary() -> list[str]:
    """The count of the verdicts, the open contrasts of arithmetic and the mean over the regimes."""
    rows = [row for row in study.results["contrasts"] if row["kind"] == "primary"]
    verdicts = Counter(row["verdict"] for row in rows)
    assert verdicts.keys() == {"equivalent", "open"}, "the page says so"
    precise, diverse = (
        primary(arm, ENTROPY, "arithmetic") for arm in ("precision_exponent", "diversity_exponent")
    )
    narrow, wide = (points(row, "90") for row in (precise, diverse))
    asked = {"kind": "mean over regimes", "arm": "precision_exponent", "metric": "avg@64"}
    means = [row for row in study.results["contrasts"] if asked.items() <= row.items()]
    mean, of_divided = map(points, means)
    return [
        f"Of the {Number(len(rows))} contrasts {Number(verdicts['equivalent'])} are equivalent and "
        f"{Number(verdicts['open'])} are open",
        f"is {narrow:[.1f]}, and that of diversity is {wide:[.1f]}",
        f"is {mean:.1f} points {mean:[.1f]} and {of_divided:.1f} {of_divided:[.1f]}, over the "
        f"{Number(means[0]['seeds'])} seeds that",
    ]


def by_seed(arm: str, against: str, regime: str) -> list[Number]:
    """The differences of a contrast in points, the largest first."""
    values = primary(arm, against, regime)["by_seed"].values()
    return [Number(100 * value) for value in sorted(values, key=abs, reverse=True)]


def single_seeds() -> list[str]:
    """The seeds at the ceiling of P, and those that make the open contrasts of D."""
    tail, *others = by_seed("tail_penalty", ENTROPY, "D")
    first, second, *rest = by_seed("precision_exponent", ENTROPY, "D")
    ends = study.evaluations(STAGES[1], ENTROPY, "P")
    return [
        f"In {Number(np.sum(ends.round() >= 99))} of {Number(len(ends))} seeds cross-entropy ends",
        f"The tail penalty is {tail:.1f} points ahead in one seed, and within {abs_of(others):.1f} "
        f"points in the other five. Precision is {min(first, second):.1f} points ahead of "
        f"cross-entropy in two seeds, and within {abs_of(rest):.1f} in the other four",
    ]


def power_of_study() -> list[str]:
    """The standard deviations that the study had, those of the pilot, and the power."""
    assert plan.contrasts is not None
    assert isinstance(plan.contrasts.sd, dict)
    found, planned = [], []
    for regime in plan.regimes:
        sds = [primary(*pair, regime)["sd"] for pair in CONTRASTS]
        found.append(Number(100 * np.sqrt(np.mean(np.square(sds)))))
        planned.append(Number(100 * plan.contrasts.sd[regime]))
    powers = sorted(100 * primary(*pair, "arithmetic")["power"]["difference"] for pair in CONTRASTS)
    return [
        f"is {found[0]:.2f} points in P, {found[1]:.2f} in D and {found[2]:.2f} on arithmetic. "
        f"The pilot had {planned[0]:.2f}, {planned[1]:.2f} and {planned[2]:.2f}. On arithmetic the "
        f"power to find {margin:.1f} points was planned as "
        f"{Number(100 * planned_power(plan)[2]['difference'])}%. It is between "
        f"{Number(powers[0])}% and {Number(powers[-1])}%, and above {Number(powers[-2])}% for one",
    ]


def abs_of(values: list[Number]) -> Number:
    return Number(max(map(abs, values)))


def behind(regime: str) -> Interval:
    """The reward over RL of the divided head minus that of the earlier control, in points."""
    seeds = primary(PRODUCT, DIVIDED, regime)["by_seed"]
    divided, cooled = (
        np.array([np.mean(study.log(f"{regime}/{arm}/seed{s}/rlvr")["reward"]) for s in seeds])
        for arm in (DIVIDED, COOLED)
    )
    return over_seeds(100 * (divided - cooled))


def earlier() -> list[str]:
    """What the earlier studies found, and what is left of it."""
    sums, arithmetic = Study("cpu-midtrain"), Study("arithmetic")
    reward = sums.effect("reward", PRODUCT, regime="P")
    avg = sums.effect("avg@64", PRODUCT, stage="eval_rlvr", regime="P")
    cold, warm = (
        study.effect("avg@64", PRODUCT, stage=f"eval_rlvr-t{at}", regime="P") for at in ("0.6", "1")
    )
    gain = study.effect("reward", PRODUCT, regime="P")
    late = [behind(regime) for regime in plan.regimes]
    share_P, share_of_sums = (
        shares["cpu-midtrain", "P"].bootstrap,
        shares["arithmetic", ""].bootstrap,
    )
    before = arithmetic.effect("avg@64", PRODUCT, "matched_temperature", "eval_midtrain")
    again = product(STAGES[0], "avg@64", "arithmetic")
    lead = study.evaluations(STAGES[0], PRODUCT, "arithmetic")
    lead = lead - study.evaluations(STAGES[0], DIVIDED, "arithmetic")
    lower, votes = (-product(STAGES[0], metric, "D") for metric in ("avg@64", "cons@64"))
    slower = product("rlvr", "tokens_to_80", "D")
    return [
        f"it was {reward:.1f} points ahead of cross-entropy in reward over RL, and {avg:.1f} "
        f"points ahead in avg@64 after 60 steps",
        f"Here it is {gain:.1f} points ahead in reward over "
        f"{Number(plan.stages['rlvr'].args['max_steps'])} steps {gain:[.1f]}. In avg@64 after RL "
        f"it is {cold:+.1f} points {cold:[.1f]} ahead at T = 0.6 and {warm:+.1f} {warm:[.1f]} at",
        f"the same control is {late[0]:.1f} points behind the divided head in P {late[0]:[.1f]}, "
        f"{late[1]:.1f} in D {late[1]:[.1f]} and {late[2]:.1f} on arithmetic {late[2]:[.1f]}",
        f"a temperature of equal entropy had {share_P:.0f}% and {share_of_sums:.0f}% of the gain",
        f"equal entropy was {before:.1f} points of avg@64 at T = 1",
        f"the product is {again:.1f} points above its divided head {again:[.1f]}, in {ahead(lead)} "
        f"of {Number(len(lead))} seeds",
        f"its avg@64 is {lower:.1f} points lower {lower:[.1f]} and its cons@64 {votes:.1f} points "
        f"{votes:[.1f]}. In RL it takes {slower:.1f} thousand rollout tokens more to reach 80% of "
        f"cross-entropy's plateau {slower:[.1f]}. This is weak evidence: after correction p = "
        f"{study.p('tokens_to_80', PRODUCT, DIVIDED, 'rlvr', 'D'):.2f}",
    ]


def matched() -> list[str]:
    """The exponent with the product's entropy, before RL and after it."""
    arms = "precision_matched_exponent", f"{ENTROPY}_like_matched"
    before, after, in_D, after_in_D = (
        study.effect("avg@64", *arms, stage, regime)
        for regime in ("arithmetic", "D")
        for stage in STAGES
    )
    return [
        f"its avg@64 is {before:.1f} points above that of its own divided head before RL "
        f"{before:[.1f]}, and the difference after RL is {after:.1f} {after:[.1f]}. In D it is "
        f"{in_D:.1f} points {in_D:[.1f]} before RL and {after_in_D:+.1f} {after_in_D:[.1f]} after",
    ]


def reward_rows() -> list[str]:
    """The table of the reward over RL."""
    rows = []
    for arm, words in REWARDS.items():
        cells = [study.effect("reward", arm, regime=regime) for regime in plan.regimes]
        rows.append(f"| {words} | {' | '.join(f'{each:+.1f} {each:[.1f]}' for each in cells)} |")
    return rows


def before_rows() -> list[str]:
    """The table of the levels before RL and after it."""
    rows = []
    for arm, words in ({ENTROPY: "cross-entropy"} | REWARDS).items():
        if arm == COOLED:  # before RL it is cross-entropy
            continue
        cells = [
            ", ".join(f"{Number(study.evaluations(at, arm, regime).mean()):.1f}" for at in STAGES)
            for regime in plan.regimes
        ]
        rows.append(f"| {words} | {' | '.join(cells)} |")
    return rows


def rollouts() -> list[str]:
    """Cross-entropy with rollouts at T = 0.6."""
    in_P, in_D, on_sums = (
        study.effect("avg@64", f"{ENTROPY}_t60", stage=STAGES[1], regime=regime)
        for regime in plan.regimes
    )
    return [
        f"ends {in_P:+.1f} points {in_P:[.1f]} higher in P, {in_D:+.1f} {in_D:[.1f]} in D and "
        f"{on_sums:+.1f} {on_sums:[.1f]} on arithmetic",
    ]


def level_rows() -> list[str]:
    """The table of the seeds."""
    rows = []
    for regime in plan.regimes:
        levels = study.evaluations(STAGES[1], ENTROPY, regime)
        rows.append(f"| {regime} | {', '.join(f'{Number(each):.1f}' for each in levels)} |")
    return rows


def spreads() -> list[str]:
    """How much the seeds differ, and the arms of a seed."""
    between, within = [], []
    for regime in plan.regimes:
        arms = study.results["regimes"][regime]["arms"]
        levels = np.array([study.evaluations(STAGES[1], arm, regime) for arm in arms])
        between.append(Number(np.ptp(study.evaluations(STAGES[1], ENTROPY, regime))))
        spread = np.ptp(levels, axis=0)
        within.append(f"{Number(spread.min()):.1f} to {Number(spread.max()):.1f}")
    first, second, third = between
    in_P, in_D, on_sums = within
    return [
        f"differs by up to {first:.1f} points in P, {second:.1f} in D and {third:.1f} on "
        f"arithmetic. Within a seed, the best and the worst of the {Number(len(arms))} arms differ "
        f"by {in_P} points in P, {in_D} in D and {on_sums} on arithmetic",
    ]


def percent(power: float) -> str:
    return f"> {marked('99.9')}%" if power > 0.999 else f"{Number(100 * power):.1f}%"


def power_rows() -> list[str]:
    """The table of the regimes."""
    words = {"P": "P, with noise in three steps of ten", "D": "D", "arithmetic": "arithmetic"}
    return [
        f"| {words[row['regime']]} | {Number(row['seeds'])} | {Number(100 * row['sd']):.2f} points "
        f"| {percent(row['difference'])} | {percent(row['equivalence'])} |"
        for row in planned_power(plan)
    ]


def design() -> list[str]:
    """The sizes of a seed, and the choice of a temperature."""
    steps = plan.stages["rlvr"].args["max_steps"]
    texts, prompts, problems = (
        Number(sums[name]) for name in ("train_rows", "rl_rows", "problems")
    )
    first, last = (marked(day(outcome["date"] for outcome in study.outcomes)) for day in (min, max))
    (made,) = {row["commit"][:7] for row in study.results["made_with"]}
    groups = Number(sum(row["seeds"] for row in planned_power(plan)))
    return [
        f"{groups} seeds in three regimes and {study.runs:,.0f} runs ({first} to {last}, commit "
        f"{marked(made)}), and took {study.core_hours:.1f} hours of one core",
        f"corpus of {texts:,.0f} texts, its own {prompts:,.0f} RL prompts and its own {problems} "
        f"problems",
        f"RL takes {Number(steps)} steps",
        f"chosen on {Number(chosen)} problems, and compared on the other "
        f"{Number(sums['problems'] - chosen)}",
        f"± {margin:.1f} points, and *open*",
    ]


def limits() -> list[str]:
    """What the powers leave out, and the error over the regimes."""
    rows = {row["regime"]: row for row in planned_power(plan)}
    row = rows["arithmetic"]
    power = difference_power(row["margin"], LARGEST_SD, row["seeds"], row["contrasts"])
    error = 1 - (1 - LEVEL) ** len(plan.regimes)
    in_P, in_D, on_sums = (Number(rows[regime]["seeds"]) for regime in ("P", "D", "arithmetic"))
    return [
        f"0.48 and {Number(100 * LARGEST_SD):.2f} points, and with the largest one the power to "
        f"find {margin:.1f} points is {Number(100 * power)}%",
        f"with a probability of about {Number(100 * error)}%",
        f"of the {Number(in_P + in_D + on_sums)} seeds were complete (P has {in_P} seeds, "
        f"D {in_D} and arithmetic {on_sums})",
    ]


PAGE = Page(
    "docs/results/decode.md",
    quotes=[
        *verdict_rows(),
        *before_and_after(),
        *summary(),
        *single_seeds(),
        *power_of_study(),
        *earlier(),
        *matched(),
        *reward_rows(),
        *before_rows(),
        *rollouts(),
        *level_rows(),
        *spreads(),
        *power_rows(),
        *design(),
        *limits(),
    ],
    settings=[
        *("T = 0.6", "T = 1, 0.75 and 0.6", "60 steps", "p < 0.05", "90% interval"),
        *(
            "cons@64",
            "at 50% and at 80%",
            "1.5 points",
            "β −0.62, in D −0.97",
            "reach 80% of",
            "80% of the plateau",
            "in place of 1",
        ),
        *(
            "between 0.48",
            "when 13 were complete",
            "98.9% to 100.0% in P",
            "above 99% in two",
            "at 99% or more",
            "a plateau near 1%",
            "an error rate of up to 5%",
            "end near 100%",
            "no arm ends above 5%",
            "0.2 million parameters",
        ),
    ],
)
