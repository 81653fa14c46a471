"""Sentences on what a study cannot show, beyond its intervals, from results.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shaped_trl.study.definition import PREPARATIONS
from shaped_trl.study.reporting.wording import METRICS, in_regime, plain_number

NAMED = 8  # how many unfinished runs are named
SATURATED = 0.95
LOST = 0.05  # share of completions cut off at the token limit, or without an answer


def limits_of(results: dict[str, Any]) -> list[str]:
    """The sentences, from what concerns all numbers to what concerns a single one."""
    limits = []
    if results["incomplete"]:
        limits.append(
            "Not finished, and therefore left out of every number here: "
            f"{_some(results['incomplete'])}."
        )
    limits += [_unlike(each) for each in results.get("unlike_machines", [])]
    if diverged := results.get("not_finite"):
        limits.append(
            f"The logs of these runs have values that are not finite numbers: {_some(diverged)}. "
            "Comparisons over seeds that need such a value are left out."
        )
    limits += _seed_limits(results)
    if "contrasts" not in results:  # which have their own correction
        limits += _comparison_limits(results)
    for regime, values in results["regimes"].items():
        found = [
            *_training_limits(results, regime),
            *_rl_limits(values),
            *_evaluation_limits(values),
        ]
        limits += [in_regime(regime, sentence) for sentence in found]
    return [*limits, *_task_limits(results), *_shape_limits(results)]


def _unlike(seed: dict[str, Any]) -> str:
    """The sentence on a seed that was made on several machines."""
    made = "; ".join(f"{', '.join(each['arms'])} on {each['machine']}" for each in seed["machines"])
    return in_regime(
        seed["regime"],
        f"Seed {seed['seed']} was made on several machines: {made}. Values from different machines "
        "are not paired.",
    )


def _some(runs: Sequence[str]) -> str:
    """The names of the first runs, and the number of the others."""
    named, others = runs[:NAMED], len(runs) - NAMED
    more = f" and {others} more run{'s' if others > 1 else ''}" if others > 0 else ""
    return ", ".join(named) + more


def against_baseline(
    results: dict[str, Any], regime: str
) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Arm, train stage, the arm's summary and the baseline's, if both have NLL and entropy."""
    arms = results["regimes"][regime]["arms"]
    for arm, values in arms.items():
        for stage, own in values["training"].items():
            base = arms[results["baseline"]]["training"].get(stage)
            complete = base and all(
                each.get(key) for each in (own, base) for key in ("nll", "entropy")
            )
            if arm != results["baseline"] and complete:
                yield arm, stage, own, base


def _seed_limits(results: dict[str, Any]) -> list[str]:
    seeds = max((row["seeds"] for row in results["effects"]), default=1)
    if seeds == 1:
        planned = len(results["seeds"])
        done = (
            "One training seed"
            if planned == 1
            else f"No two arms have two of the {planned} training seeds yet"
        )
        return [
            f"{done}: the intervals are over problems, with the trained models fixed. They say "
            "nothing about how much another training seed would move the numbers."
        ]
    fewest = min(row["seeds"] for row in results["effects"])
    paired = f"{seeds}" if fewest == seeds else f"{fewest} to {seeds}"
    limits = [
        f"{seeds} training seeds: the intervals over seeds are t intervals of {paired} paired "
        "values."
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in results["effects"]:
        if row["unit"] == "share" and row["sd"] and not row["exploratory"]:
            found.setdefault(
                METRICS.get(row["metric"], f"{row['metric']} of {row['stage']}"), []
            ).append(row)
    ranges = []
    for name, rows in found.items():
        smallest, largest = (
            plain_number(rows[0], end(row["minimum_effect"] for row in rows)) for end in (min, max)
        )
        ranges.append(
            f"{name} {smallest if smallest == largest else f'{smallest.split()[0]} to {largest}'}"
        )
    if ranges and "contrasts" not in results:  # which have a table of their power
        limits.append(
            "Differences smaller than these would probably have been missed (the difference that "
            "as "
            "many seeds find in 80% of cases at the two-sided 5% level before correction, "
            "(t.975 + t.80)·sd/√seeds, an approximation of the noncentral t; over arms): "
            f"{'; '.join(ranges)}. After the correction, and for a verdict that needs two "
            "differences at once, the difference has to be up to about twice as large."
        )
    return limits


def _comparison_limits(results: dict[str, Any]) -> list[str]:
    limits = []
    corrected = sum(row["p_corrected"] is not None for row in results["effects"])
    regimes = results["regimes"].values()
    gains = sum(len(values["gains"]) for values in regimes)
    if corrected:
        limits.append(
            f"{corrected} comparisons over seeds are corrected among the arms for each stage and "
            f"metric (Holm), but not over stages, metrics and claims; {gains} comparisons of an "
            "arm "
            "with itself are not corrected."
        )
    else:
        num_compared = gains + sum(len(values["differences"]) for values in regimes)
        if num_compared:
            limits.append(
                f"{num_compared} comparisons at 95% without a correction: about "
                f"{0.05 * num_compared:.1f} of them would exclude 0 by chance if nothing differed."
            )
    exploratory = [arm for arm, own in results["arms"].items() if own["exploratory"]]
    if exploratory:
        limits.append(
            f"{', '.join(exploratory)}: exploratory, and therefore left out of the correction and "
            "of "
            "the verdicts. Their p-values are not corrected, so what they show is a hint to be "
            "tested."
        )
    return limits


def _training_limits(results: dict[str, Any], regime: str) -> list[str]:
    limits = []
    rows = results["regimes"][regime]["training_differences"]
    paired = {(row["arm"], row["stage"]): row for row in rows if row["quantity"] == "nll"}
    for arm, stage, own, base in against_baseline(results, regime):
        row = paired.get((arm, stage))  # missing if the arm and the baseline share no two seeds
        shift = row["value"] if row else own["nll"] / base["nll"] - 1
        if results["arms"][arm]["own_data"]:
            continue  # its NLL was measured on other texts
        if abs(shift) > results["nll_within"]:
            limits.append(
                f"{arm} was not trained alike: its NLL after {stage} differs by {shift:+.1%} from "
                f"that of {results['baseline']}, more than {results['nll_within']:.0%}. Later "
                "differences in RL may be due to this and not to the shape."
            )
    return limits


def _rl_limits(regime: dict[str, Any]) -> list[str]:
    return [
        f"{arm}, {stage}: not one sampled completion was right, so RL had nothing to learn from."
        for arm, values in regime["arms"].items()
        for stage, summary in values["rl"].items()
        if summary["raw_reward"]["run"] == 0
    ]


def _evaluation_limits(regime: dict[str, Any]) -> list[str]:
    """Sentences on what makes an evaluation hard to interpret, with the arms concerned."""
    found: dict[str, list[str]] = {}
    for arm, values in regime["arms"].items():
        for stage, evaluated in values["evaluations"].items():
            for benchmark, entry in evaluated.items():
                k = max(
                    int(metric.split("@")[1])
                    for metric in entry["metrics"]
                    if metric.startswith("pass@")
                )
                saturated = (
                    f"pass@{k} is above {SATURATED:.0%}, near its ceiling, where it cannot "
                    "distinguish arms"
                )
                unparsed = "many completions give no answer at all"
                truncated = (
                    "many completions were cut off at the token limit and graded as they are"
                )
                for sentence, share, most in (
                    (saturated, entry["metrics"][f"pass@{k}"]["value"], SATURATED),
                    (unparsed, entry["unparsed"], LOST),
                    (truncated, entry["truncated"], LOST),
                ):
                    if share > most:
                        found.setdefault(f"{stage}, {benchmark}: {sentence}", []).append(
                            f"{arm} {share:.1%}"
                        )
    return [f"{sentence}: {', '.join(arms)}." for sentence, arms in found.items()]


def _task_limits(results: dict[str, Any]) -> list[str]:
    tasks = list(results["table_metrics"])
    if not tasks or not set(tasks) <= set(PREPARATIONS):
        return []
    return [
        f"{' and '.join(tasks)}: a controlled task. It shows mechanisms, not what a model does on "
        "real text."
    ]


def _shape_limits(results: dict[str, Any]) -> list[str]:
    limits = []
    arms, regimes = results["arms"].values(), results["regimes"].values()
    trained = [values for regime in regimes for values in regime["arms"].values()]
    controlled = any(
        own["entropy_of"] and own["checkpoint_of"] == results["baseline"] for own in arms
    )
    if not controlled and any(values["rl"] or values["evaluations"] for values in trained):
        limits.append(
            "No arm is cross-entropy sampled at a matched entropy, so the effect of a shape cannot "
            "be "
            "distinguished from that of a sampling temperature."
        )
    shapes = [own["shape"] for own in arms if own["shape"].get("beta")]
    if shapes and any(values["rl"] for values in trained):
        limits.append(
            "That precision helps RL is a hypothesis. Which sign of β helps depends on the data: a "
            "negative β removes noise from the steps, but takes mass from a correct but rare "
            "strategy."
            + (" This study covers one kind of data." if len(results["regimes"]) == 1 else "")
        )
    if shapes:
        forms = sorted({shape["positive"] for shape in shapes})
        product = " The product is this project's variant." if "product" in forms else ""
        limits.append(
            f"β acts in the form {' and '.join(map(repr, forms))}. The paper's Equation 11 is, "
            "most "
            f"likely, the exponent; its PDF would settle it.{product}"
        )
    return limits
