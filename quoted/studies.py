"""What the list of the studies that were run quotes, in `docs/results/index.md`."""

from __future__ import annotations

from collections import Counter

from quoted.pages import Page
from quoted.records import Number, Study
from quoted.values import marked

WORDS = ("none", "one", "two", "three", "four", "five")


def count(study: Study, verdict: str) -> str:
    """How many claims of a study have this verdict, in words."""
    verdicts = Counter(claim["verdict"] for claim in study.results["claims"])
    return marked(WORDS[verdicts[verdict]])


def quotes() -> list[str]:
    midtrain, scratch, arithmetic, more, smollm2 = map(
        Study, ("cpu-midtrain", "cpu", "arithmetic", "cpu-more", "smollm2")
    )
    arms = sum(arm["exploratory"] for arm in more.results["arms"].values())
    decode = Study("decode").results["contrasts"]
    contrasts = Counter(row["verdict"] for row in decode if row["kind"] == "primary")
    seeds = {row["regime"]: Number(row["seeds"]) for row in decode if row["kind"] == "primary"}
    return [
        f"running sums in two regimes, {seeds['P']} seeds each, and arithmetic, "
        f"{seeds['arithmetic']} seeds",
        f"none of {Number(contrasts.total())} contrasts better or worse, "
        f"{Number(contrasts['equivalent'])} equivalent, {Number(contrasts['open'])} open",
        f"two regimes, {midtrain.seeds} seeds; the shape acts in mid-training | product "
        f"| {count(midtrain, 'shown')} claim shown, {count(midtrain, 'not resolved')} not resolved",
        f"| {count(scratch, 'shown')} of {count(scratch, 'not resolved')} claims resolved",
        f"the same as cpu-midtrain, {Number(arms)} more arms, {more.seeds} seeds",
        f"GSM8K and few-shot sums, {smollm2.seeds} seeds, a demonstration",
        f"sums of reasoning-gym, {arithmetic.seeds} seeds | product "
        f"| {count(arithmetic, 'shown')} shown, {count(arithmetic, 'not resolved')} not resolved, "
        f"{count(arithmetic, 'refuted')} refuted",
    ]


PAGE = Page(
    "docs/results/index.md",
    section="## What was run",
    quotes=quotes(),
    settings=["SmolLM2-135M-Instruct", "decoding at T = 0.6"],
    unrecorded=["real text, 3 seeds"],  # the records of `shapes` were not kept
)
