"""What `docs/results/decode.md` quotes, from the file of the study."""

from __future__ import annotations

from quoted.pages import ROOT, Page
from quoted.values import Number, marked
from shaped_trl.study.loading import load_study
from shaped_trl.study.power import LEVEL, difference_power, planned_power

study = load_study(ROOT / "recipes/studies/decode.yaml", ROOT / "recipes/studies/results/decode")
assert study.contrasts is not None
sums = study.regimes["P"]["running_sums"]
chosen = next(each.choose_on for _, each in study.contrasts.each() if each.choose_on)
margin = Number(100 * study.contrasts.margin)
LARGEST_SD = 0.0201  # of a contrast on arithmetic, from the README of the pilot


def percent(power: float) -> str:
    return f"> {marked('99.9')}%" if power > 0.999 else f"{Number(100 * power):.1f}%"


def power_rows() -> list[str]:
    """The table of the regimes."""
    words = {"P": "P, with noise in three steps of ten", "D": "D", "arithmetic": "arithmetic"}
    return [
        f"| {words[row['regime']]} | {Number(row['seeds'])} | {Number(100 * row['sd']):.2f} points "
        f"| {percent(row['difference'])} | {percent(row['equivalence'])} |"
        for row in planned_power(study)
    ]


def design() -> list[str]:
    """The sizes of a seed, and the choice of a temperature."""
    steps = study.stages["rlvr"].args["max_steps"]
    texts, prompts, problems = (
        Number(sums[name]) for name in ("train_rows", "rl_rows", "problems")
    )
    return [
        f"corpus of {texts:,.0f} texts, its own {prompts:,.0f} RL prompts and its own {problems} "
        f"problems",
        f"RL takes {Number(steps)} steps",
        f"chosen on {Number(chosen)} problems, and compared on the other "
        f"{Number(sums['problems'] - chosen)}",
        f"± {margin:.1f} points, and *open*",
    ]


def limits() -> list[str]:
    """What the powers leave out, and the error over the regimes."""
    assert study.contrasts is not None
    rows = {row["regime"]: row for row in planned_power(study)}
    row = rows["arithmetic"]
    power = difference_power(row["margin"], LARGEST_SD, row["seeds"], row["contrasts"])
    error = 1 - (1 - LEVEL) ** len(study.regimes)
    in_P, in_D, on_sums = (Number(rows[regime]["seeds"]) for regime in ("P", "D", "arithmetic"))
    return [
        f"0.48 and {Number(100 * LARGEST_SD):.2f} points, and with the largest one the power to "
        f"find {margin:.1f} points is {Number(100 * power)}%",
        f"with a probability of up to {Number(100 * error)}%",
        f"of the {Number(in_P + in_D + on_sums)} seeds were complete (P has {in_P} seeds, "
        f"D {in_D} and arithmetic {on_sums})",
    ]


PAGE = Page(
    "docs/results/decode.md",
    quotes=[*power_rows(), *design(), *limits()],
    settings=[
        *("T = 0.6", "T = 1, 0.75 and 0.6", "60 steps", "p < 0.05", "90% interval"),
        *("cons@64", "at 50% and at 80%", "1.5 points", "β −0.62, in D −0.97"),
        *("between 0.48", "when 13 were complete", "98.9% to 100.0% in P", "above 99% in two"),
    ],
)
