"""What `docs/results/arithmetic.md` quotes."""

from __future__ import annotations

from quoted.pages import Page
from quoted.records import Number, Study, ahead, bound
from quoted.temperature import shares
from quoted.values import Interval

PRECISION, DIVERSITY, TAIL = "precision_product", "diversity_product", "tail_penalty"
MATCHED = "matched_temperature"

study, sums = Study("arithmetic"), Study("cpu-midtrain")


def over_matched(metric: str, stage: str) -> Interval:
    """Precision minus cross-entropy at the matched temperature, in points."""
    return study.effect(metric, PRECISION, MATCHED, stage)


def verdict_quotes() -> list[str]:
    """The rows of the table."""
    low, high = (study.held_out("entropy", arm) for arm in (PRECISION, DIVERSITY))
    nll_low, nll_high = (study.held_out("nll", arm) for arm in (PRECISION, DIVERSITY))
    gain, tail_gain = (study.effect("reward", arm) for arm in (PRECISION, TAIL))
    after, tail_after = (
        study.effect("avg@64", arm, stage="eval_rlvr") for arm in (PRECISION, TAIL)
    )
    over, over_after = over_matched("reward", "rlvr"), over_matched("avg@64", "eval_rlvr")
    length, entropy = (
        study.effect(metric, DIVERSITY) for metric in ("length_change", "entropy_change")
    )
    length_D = sums.effect("length_change", DIVERSITY, regime="D")
    return [
        f"at equal perplexity | β −0.25: {low:+.1f}% {low:[.1f]}, NLL {nll_low:+.1f}% "
        f"{nll_low:[.1f]}; β 0.5: {high:+.1f}% {high:[.1f]}, NLL {nll_high:+.1f}% "
        f"{nll_high:[.1f]} | **{study.verdict('entropy_order')}** |",
        f"better RL | reward {gain:+.1f} points {gain:[.1f]} "
        f"(p = {study.p('reward', PRECISION):.2f}), avg@64 after RL {after:+.1f} {after:[.1f]} "
        f"| {study.verdict('precision_rl')} |",
        f"of the same entropy | reward {over:+.1f} {over:[.1f]}, avg@64 {over_after:+.1f} "
        f"{over_after:[.1f]} | {study.verdict('shape_or_temperature')} |",
        f"suppression helps RL | reward {tail_gain:+.1f} {tail_gain:[.1f]}, avg@64 "
        f"{tail_after:+.1f} {tail_after:[.1f]} | {study.verdict('tail_suppression')} |",
        f"minus cross-entropy's: length {length:+.1f} {length:[.1f]}, entropy {entropy:+.1f} "
        f"{entropy:[.1f]} | **{study.verdict('entropy_collapse')}**, by length alone |",
        f"the same difference has the other sign, {length_D:.1f}% {length_D:[.1f]}",
        f"its responses lengthen by {length:.1f} points more than those of cross-entropy "
        f"(p = {study.p('length_change', DIVERSITY):.3f})",
    ]


def temperature_quotes() -> list[str]:
    """What the matched temperature does in RL, and before it."""
    gain, control = study.effect("reward", PRECISION), study.effect("reward", MATCHED)
    share = shares["arithmetic", ""]
    avg, passed = (over_matched(metric, "eval_midtrain") for metric in ("avg@64", "pass@64"))
    lead = study.evaluations("eval_midtrain", PRECISION)
    lead = lead - study.evaluations("eval_midtrain", MATCHED)
    p = bound(study.p("avg@64", PRECISION, MATCHED, "eval_midtrain"))
    in_P, in_D = (
        sums.effect("avg@64", PRECISION, MATCHED, "eval_midtrain", regime) for regime in "PD"
    )
    after, passed_after = (
        over_matched("avg@64", "eval_rlvr"),
        -over_matched("pass@64", "eval_rlvr"),
    )
    return [
        f"(T = {study.temperature(MATCHED):.2f} on average) gains {control:.1f} points of reward "
        f"{control:[.1f]} of the {gain:.1f} that precision gains, which is a share of "
        f"{share.bootstrap:.0f}%",
        f"over the seeds gives {share.bootstrap:[.0f]}, and Fieller's interval is "
        f"{share.fieller:[.0f]}",
        f"its avg@64 is {avg:.1f} points higher {avg:[.1f]}, in {ahead(lead)} of "
        f"{Number(len(lead))} seeds (p < {p:.3f} after correction)",
        f"in pass@64 is {passed:+.1f} points {passed:[.1f]}",
        f"difference in avg@64 is {in_P:.1f} points {in_P:[.1f]} in P, and {in_D:.1f} {in_D:[.1f]} "
        "in D",
        f"After RL the difference in avg@64 is {after:.1f} points {after:[.1f]}, and pass@64 is "
        f"{passed_after:.1f} points lower than with the matched temperature {passed_after:[.1f]}",
    ]


PAGE = Page(
    "docs/results/arithmetic.md",
    quotes=[
        f"{study.seeds} seeds and {study.runs} runs ({study.date}, commit {study.commit})",
        *verdict_quotes(),
        *temperature_quotes(),
    ],
)
