"""What `docs/results/running-sums.md` quotes."""

from __future__ import annotations

import numpy as np

from quoted.pages import Page
from quoted.records import BASELINE, Interval, Number, Study, over_seeds
from quoted.temperature import shares

PRECISION, DIVERSITY, TAIL = "precision_product", "diversity_product", "tail_penalty"
MATCHED = "matched_temperature"

study, exponent = Study("cpu-midtrain"), Study("cpu-midtrain-exponent")
scratch, more = Study("cpu"), Study("cpu-more")


def entropy_and_nll(regime: str) -> list[Interval]:
    """Entropy and NLL of precision, then those of diversity, in % of cross-entropy's."""
    return [
        study.held_out(quantity, arm, regime=regime)
        for arm in (PRECISION, DIVERSITY)
        for quantity in ("entropy", "nll")
    ]


def what_rl_adds(arm: str, regime: str) -> Interval:
    """To the Avg@64 of an arm, more than to that of cross-entropy, in points."""
    added, usual = (
        study.evaluations("eval_rlvr", each, regime)
        - study.evaluations("eval_midtrain", each, regime)
        for each in (arm, BASELINE)
    )
    return over_seeds(added - usual)


def tenths(arm: str, regime: str) -> tuple[np.ndarray, np.ndarray]:
    """The policy's entropy in the first tenth of RL and in the last, for each seed."""
    curves = study.curves("policy_entropy", arm, regime)
    tenth = curves.shape[1] // 10
    return curves[:, :tenth].mean(1), curves[:, -tenth:].mean(1)


def fall(arm: str) -> np.ndarray:
    first, last = tenths(arm, "P")
    return first - last


def mean_reward(arm: str, regime: str) -> np.ndarray:
    """Over RL, for each seed of `cpu-more`, in points."""
    return 100 * more.curves("reward", arm, regime).mean(1)


def plain_text(regime: str) -> Interval:
    """What precision costs of the NLL of plain text, in %."""
    arms = ("plain_text_precision", "plain_text")  # as the records name them
    with_shape, without = (
        np.array(
            [
                more.log(f"{regime}/{arm}/seed{seed}/midtrain")["eval_nll_source_text"][-1]
                for seed in more.results["seeds"]
            ]
        )
        for arm in arms
    )
    return over_seeds(100 * (with_shape / without - 1))


def reward(arm: str, against: str, regime: str) -> Interval:
    """The mean reward over RL, in points."""
    return study.effect("reward", arm, against, regime=regime)


def avg(arm: str, against: str, regime: str, stage: str = "eval_rlvr") -> Interval:
    """Avg@64, in points."""
    return study.effect("avg@64", arm, against, stage, regime)


def cells(arm: str, against: str) -> str:
    """A row's cells for P and D, each with the reward and with Avg@64 after RL."""
    pairs = [[of(arm, against, regime) for of in (reward, avg)] for regime in "PD"]
    return " | ".join(", ".join(f"{x:+.1f} {x:[.1f]}" for x in pair) for pair in pairs)


def collapse(regime: str) -> list[Interval]:
    """Diversity's change of entropy and of length over RL, minus cross-entropy's, in %."""
    metrics = ("entropy_change", "length_change")
    return [study.effect(metric, DIVERSITY, regime=regime) for metric in metrics]


def verdict_quotes() -> list[str]:
    """The rows of the table."""
    P, D = entropy_and_nll("P"), entropy_and_nll("D")
    within = Number(100 * study.results["nll_within"])
    gain, after = reward(PRECISION, BASELINE, "P"), avg(PRECISION, BASELINE, "P")
    gain_D, after_D = reward(PRECISION, BASELINE, "D"), avg(PRECISION, BASELINE, "D")
    entropy, length = collapse("P")
    entropy_D, length_D = collapse("D")
    return [
        f"β −0.25: {P[0]:+.0f}% {P[0]:[.0f]}, NLL {P[1]:+.1f}% {P[1]:[.1f]}; "
        f"β 0.5: {P[2]:+.0f}% {P[2]:[.0f]}, NLL {P[3]:+.1f}% {P[3]:[.1f]} "
        f"| {D[0]:+.1f}% {D[0]:[.1f]}, NLL {D[1]:+.1f}% {D[1]:[.1f]}; "
        f"{D[2]:+.0f}% {D[2]:[.0f]}, NLL {D[3]:+.1f}% {D[3]:[.1f]} "
        f"| **{study.verdict('entropy_order')}**; perplexity counts as equal within {within}%",
        f"| reward over RL {gain:+.1f} points {gain:[.1f]}, avg@64 after it {after:+.1f} "
        f"{after:[.1f]} | {gain_D:+.1f} {gain_D:[.1f]}, {after_D:+.1f} {after_D:[.1f]} "
        f"| {study.verdict('precision_rl')}",
        f"same entropy | {cells(PRECISION, MATCHED)} "
        f"| {study.verdict('shape_or_temperature')}: in P more reward "
        f"(p = {study.p('reward', PRECISION, MATCHED, regime='P'):.3f})",
        f"suppression helps RL | {cells(TAIL, BASELINE)} | {study.verdict('tail_suppression')}: "
        f"in D p = {study.p('reward', TAIL, regime='D'):.3f} for reward",
        f"entropy {entropy:+.1f} {entropy:[.1f]}, length {length:+.1f} {length:[.1f]} "
        f"| {entropy_D:+.1f} {entropy_D:[.1f]}, {length_D:+.1f} {length_D:[.1f]} "
        f"| {study.verdict('entropy_collapse')}",
    ]


def text_quotes() -> list[str]:
    """What the sentences about `cpu-midtrain` say."""
    share = shares["cpu-midtrain", "P"]
    gain, control = reward(PRECISION, BASELINE, "P"), reward(MATCHED, BASELINE, "P")
    lost = -reward(DIVERSITY, BASELINE, "P")
    lead, lead_T = (avg(PRECISION, each, "P", "eval_midtrain") for each in (BASELINE, MATCHED))
    lag, lag_T = (-avg(PRECISION, each, "D", "eval_midtrain") for each in (BASELINE, MATCHED))
    less, added = -what_rl_adds(PRECISION, "P"), what_rl_adds(PRECISION, "D")
    falls_more = over_seeds(fall(DIVERSITY) - fall(BASELINE))
    below = over_seeds(tenths(PRECISION, "D")[0] - tenths(MATCHED, "D")[0])
    T = {regime: study.temperature(MATCHED, regime) for regime in "PD"}
    return [
        f"over {study.seeds} paired seeds",
        f"({study.date}, commit {study.commit}, 2 CPU cores). It took {study.runs} runs and "
        f"{study.core_hours:.1f} hours of one core",
        f"the choice of the texts and of the {study.problems} problems",
        f"at a temperature of {T['P']:.2f} in P and of {T['D']:.2f} in D",
        f"Cross-entropy at T = {T['P']:.2f} has the held-out entropy",
        f"It gains {control:.1f} points of reward {control:[.1f]} of the {gain:.1f} that precision "
        f"gains, which is a share of {share.bootstrap:.0f}% (bootstrap over seeds "
        f"{share.bootstrap:[.0f]}, Fieller's interval {share.fieller:[.0f]}",
        f"Its avg@64 is {lead:.1f} points higher before RL {lead:[.1f]}, and RL adds {less:.1f} "
        f"points less to it {less:[.1f]}",
        f"precision is {lead_T:.1f} points above it {lead_T:[.1f]}",
        f"Diversity costs {lost:.1f} points of reward {lost:[.1f]}",
        f"falls by {falls_more:.2f} nats more {falls_more:[.2f]} than",
        f"its avg@64 is {lag:.1f} points lower {lag:[.1f]} than that of cross-entropy, and "
        f"{lag_T:.1f} points lower {lag_T:[.1f]} than",
        f"RL adds {added:.1f} points more to it {added:[.1f]}",
        f"The temperature of the control is {T['D']:.2f}. In the rollouts of RL its entropy is at "
        f"first {below:.3f} nats {below:[.3f]} below",
    ]


def exponent_quotes() -> list[str]:
    """The table of `cpu-midtrain-exponent` and the sentences about it."""
    precision, diversity = "precision_exponent", "diversity_exponent"
    entropy = {
        (arm, regime): exponent.held_out("entropy", arm, regime=regime)
        for arm in (precision, diversity)
        for regime in "PD"
    }
    low, low_D, high, high_D = entropy.values()
    gain, gain_D = (exponent.effect("reward", precision, regime=regime) for regime in "PD")
    after, after_D = (
        exponent.effect("avg@64", precision, BASELINE, "eval_rlvr", regime) for regime in "PD"
    )
    most = max(
        abs(exponent.held_out("nll", arm, regime=regime).value)
        for arm in (precision, diversity)
        for regime in "PD"
    )
    over = exponent.effect("reward", precision, MATCHED, regime="P")
    return [
        f"{exponent.seeds} seeds and {exponent.runs} runs ({exponent.date}, "
        f"commit {exponent.commit})",
        f"| entropy, β −0.25 | {low:+.1f}% {low:[.1f]} | {low_D:+.1f}% {low_D:[.1f]} |",
        f"| entropy, β 0.5 | {high:+.1f}% {high:[.1f]} | {high_D:+.1f}% {high_D:[.1f]} |",
        f"over RL, points | {gain:+.1f} {gain:[.1f]}, "
        f"p = {exponent.p('reward', precision, regime='P'):.3f} | {gain_D:+.1f} {gain_D:[.1f]} |",
        f"after RL, points | {after:+.1f} {after:[.1f]} | {after_D:+.1f} {after_D:[.1f]} |",
        f"The NLL moves by at most {Number(most):.1f}%",
        f"the reward of precision is {over:.1f} points {over:[.1f]} above",
    ]


def scratch_quotes() -> list[str]:
    """The sentences about `cpu`."""
    low, high = (scratch.held_out("entropy", arm, regime="P") for arm in (PRECISION, DIVERSITY))
    found, found_D = (scratch.detectable("reward", PRECISION, BASELINE, regime) for regime in "PD")
    (then,) = {f"{study.detectable('reward', PRECISION, BASELINE, regime):.0f}" for regime in "PD"}
    return [
        f"with the same arms and seeds ({scratch.runs} runs)",
        f"by {low:.0f}% {low:[.0f]} and {high:+.0f}% {high:[.0f]}",
        f"a difference of {found} points of reward in P and of {found_D} points in D",
        f"had this power for {then} points in each",
    ]


def more_quotes() -> list[str]:
    """The list about `cpu-more`."""
    arms = [arm for arm, of in more.results["arms"].items() if of["exploratory"]]

    def gain(arm: str, regime: str) -> Interval:
        return more.effect("reward", arm, regime=regime)

    mixed, long, cost = gain("chains_60", "D"), gain("long_chains", "D"), -gain("chains_60", "P")
    cool, cool_D = gain("temperature_0.75", "P"), -gain("temperature_0.75", "D")
    cool_over = over_seeds(mean_reward("temperature_0.75", "P") - mean_reward(PRECISION, "P"))
    low = -more.held_out("entropy", "exponent_precision", regime="P")
    product, product_D = (-more.held_out("entropy", PRECISION, regime=regime) for regime in "PD")
    lambdas = ("head_reward", "both_lambdas", "tail_penalty_k4", "tail_penalty_k16")
    found = {
        (arm, regime): more.detectable("reward", arm, BASELINE, regime)
        for arm in lambdas
        for regime in "PD"
    }
    largest = found.pop(("tail_penalty_k4", "D"))
    plain, plain_D = plain_text("P"), plain_text("D")
    dft_nll, dft = more.held_out("nll", "dft", regime="P"), gain("dft", "P")
    return [
        f"has {Number(len(arms))} arms beside cross-entropy, {more.seeds} seeds and "
        f"{more.runs} runs",
        f"work out the sum gains {mixed:.0f} points of reward {mixed:[.0f]}",
        f"that all work it out gain {long:.0f} points {long:[.0f]}",
        f"the mixture of 60% costs {cost:.1f} points {cost:[.1f]}",
        f"gains {cool:.1f} points of reward {cool:[.1f]}, which is {cool_over:.1f} points "
        f"{cool_over:[.1f]} more than",
        f"In D it loses {cool_D:.1f} points {cool_D:[.1f]}",
        f"lowers the entropy by {low:.0f}% in P",
        f"The product lowers it by {product:.0f}% and {product_D:.0f}%",
        f"for differences of {Number(min(found.values()))} to {Number(max(found.values()))} points "
        f"against cross-entropy; for k = 4 in D, of {largest} points",
        f"costs {plain:.1f}% {plain:[.1f]} of their NLL in P and {plain_D:.1f}% {plain_D:[.1f]} "
        "in D",
        f"its NLL is {dft_nll:.0f}% higher {dft_nll:[.0f]} and its reward {dft:.1f} points higher "
        f"{dft:[.1f]}",
    ]


PAGE = Page(
    "docs/results/running-sums.md",
    quotes=[
        *verdict_quotes(),
        *text_quotes(),
        *exponent_quotes(),
        *scratch_quotes(),
        *more_quotes(),
    ],
    settings=[
        *(
            "80% power",
            "a model of 0.19M parameters",
            "2 CPU cores",
            "of which 60%",
            "mixture of 60%",
        ),
        *("RL then takes 60 steps", "Decoding at T = 0.6", "modulo 10"),
        *("T = 0.75", "from 0 to −0.25", "k of 4 or 16", "k = 4", "include 0"),
    ],
)
