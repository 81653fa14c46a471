"""What `README.md` quotes."""

from __future__ import annotations

from collections import Counter

from quoted.dynamic_sampling import difference
from quoted.kernel_rows import CROSS_ENTROPY, FULL, LARGE, faster, leaner, measured
from quoted.pages import Page
from quoted.records import Number, Study, ratio, row
from quoted.temperature import shares

PRECISION, DIVERSITY, MATCHED = "precision_product", "diversity_product", "matched_temperature"


def study_quotes() -> list[str]:
    sums, arithmetic, exponent = map(Study, ("cpu-midtrain", "arithmetic", "cpu-midtrain-exponent"))
    low, high, low_D, high_D = (
        sums.held_out("entropy", arm, regime=regime)
        for regime in "PD"
        for arm in (PRECISION, DIVERSITY)
    )
    gain, gain_D = (sums.effect("reward", PRECISION, regime=regime) for regime in "PD")
    weak_low, weak_high = (
        exponent.held_out("entropy", arm, regime="P")
        for arm in ("precision_exponent", "diversity_exponent")
    )
    weak_gain, weak_gain_D = (
        exponent.effect("reward", "precision_exponent", regime=regime) for regime in "PD"
    )
    less = -sums.effect("avg@64", PRECISION, MATCHED, "eval_midtrain", "D")
    share = shares["cpu-midtrain", "P"].bootstrap
    share_of_sums = shares["arithmetic", ""].bootstrap
    reward = arithmetic.effect("reward", PRECISION)
    before = arithmetic.effect("avg@64", PRECISION, MATCHED, "eval_midtrain")
    smollm2 = Study("smollm2")
    forms = ("precision_exponent", PRECISION)
    moved, moved_product = (smollm2.held_out("entropy", arm) for arm in forms)
    after, after_product = (smollm2.effect("avg@16", arm, stage="eval_rlvr") for arm in forms)
    return [
        f"β orders entropy ({low:+.0f}% and {high:+.0f}% in P, {low_D:+.1f}% and {high_D:+.0f}% in "
        f"D): **{sums.verdict('entropy_order')}**. "
        f"Precision adds {gain:.1f} points of reward in RL {gain:[.1f]} in P and "
        f"{gain_D:.1f} {gain_D:[.1f]} in D: {sums.verdict('precision_rl')}",
        f"gives {share:.0f}% {share:[.0f]} of that gain in P, {share_of_sums:.0f}% "
        f"{share_of_sums:[.0f]} on arithmetic",
        f"precision adds {reward:.1f} points {reward:[.1f]}: {arithmetic.verdict('precision_rl')}. "
        f"High entropy shortens responses in RL: **{arithmetic.verdict('entropy_collapse')}**",
        f"precision has {before:.1f} points more avg@64 {before:[.1f]} than that temperature; "
        f"in D, {less:.1f} less {less:[.1f]}",
        f"moves entropy by {weak_low:+.1f}% and {weak_high:+.1f}% in P. Precision adds "
        f"{weak_gain:.1f} points {weak_gain:[.1f]} in P and {weak_gain_D:.1f} {weak_gain_D:[.1f]} "
        "in D",
        f"Studies have {sums.seeds} seeds unless named",
        f"{smollm2.seeds} seeds, a demonstration | precision moves entropy by "
        f"{moved:+.1f}% {moved:[.1f]} as exponent and by {moved_product:+.1f}% "
        f"{moved_product:[.1f]} as product. After RL avg@16 differs by {after:.1f} points "
        f"{after:[.1f]} and {after_product:.1f} {after_product:[.1f]}",
    ]


def decode_quotes() -> list[str]:
    """The verdicts of the study of decoding."""
    study = Study("decode")
    rows = [row for row in study.results["contrasts"] if row["kind"] == "primary"]
    assert {row["verdict"] for row in rows} <= {"equivalent", "open"}, "the row says so"
    seeds = {row["regime"]: row["seeds"] for row in rows}
    equivalent = Counter(row["regime"] for row in rows if row["verdict"] == "equivalent")
    in_P, in_D, on_sums = (Number(equivalent[regime]) for regime in ("P", "D", "arithmetic"))
    (margin,) = {Number(100 * row["margin"]) for row in rows}
    return [
        f"{Number(sum(seeds.values()))} seeds | no prior is better or worse: of "
        f"{Number(len(rows) / len(seeds))} contrasts each, {in_P} are **equivalent** (within "
        f"{margin:.1f} points) in P, {in_D} in D, {on_sums} on arithmetic",
    ]


def speed_quotes() -> list[str]:
    entropy, full = (measured(LARGE, variant).to_base for variant in (CROSS_ENTROPY, FULL))
    slow, fast = (
        ratio(row("speed/training.csv", size=size), "speed_ratio") for size in ("demo", "32k")
    )
    sampling = difference("on", "off, equal tokens")
    return [
        f"avg@16 {sampling:.3f} {sampling:[.3f]}",
        f"{entropy:.2f} {entropy:[.2f]} to {full:.2f} {full:[.2f]} of the time of Liger's; "
        f"{faster(LARGE):.1f} times faster than full logits, in {leaner(LARGE):.0f} times less",
        f"{slow:.2f} {slow:[.3f]} and {fast:.2f} {fast:[.2f]} times the speed",
        f"one H200 on {measured(LARGE, FULL).date}",
    ]


PAGE = Page(
    "README.md",
    quotes=[*study_quotes(), *decode_quotes(), *speed_quotes()],
    settings=[
        *(
            "Python 3.11",
            "on 2 CPU cores in under 8 minutes",
            "0.19M parameters",
            "SmolLM2-135M-Instruct",
        ),
        *(
            "Apache-2.0",
            "one GPU with 80 GB",
            "decoding at T = 0.6",
            "240 steps of RL",
            "[95% interval]",
        ),
    ],
)
