"""What a study has shown and what it has not, in words, from the numbers of results.json alone.

A difference counts as shown when its 95% interval over problems excludes 0 and its p-value is below 0.05
(with few problems the interval alone is too short), and the interval over seeds excludes 0 too where there is
more than one. Everything else is listed as not shown. The limits name what no interval here covers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

# Beyond this relative difference in NLL two arms were not trained alike, and their RL tells little about the
# shape.
NLL_TOLERANCE = 0.05
SATURATED = 0.95
LOST = 0.05  # share of completions cut at the token limit, or without an answer


class Findings(NamedTuple):
    shown: list[str]
    not_shown: list[str]
    limits: list[str]


def find(results: dict[str, Any]) -> Findings:
    """Sentences from `results` (the content of results.json)."""
    shown: list[str] = []
    not_shown: list[str] = []
    for rows, sentence in ((results["differences"], _difference), (results["gains"], _gain)):
        for row in _headlines(rows):
            (shown if is_shown(row) else not_shown).append(sentence(row))
    return Findings(_trained(results) + shown, not_shown, _limits(results))


def is_shown(row: dict[str, Any]) -> bool:
    """Whether a difference is one by its p-value, its interval over problems and, if any, that over seeds."""
    intervals = [row, row["over_seeds"]] if row["over_seeds"] else [row]
    one_side = all(each["low"] > 0 for each in intervals) or all(each["high"] < 0 for each in intervals)
    return one_side and row["p_value"] < 0.05


def signed(row: dict[str, Any]) -> str:
    """A difference with its interval, in percentage points."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * row[key] for key in ("value", "low", "high")))


def _headlines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows put into words, Avg and the Pass@k of the largest k; the tables have them all."""
    largest: dict[str, int] = {}
    for row in rows:
        name, k = row["metric"].split("@")
        if name == "pass":
            largest[row["benchmark"]] = max(int(k), largest.get(row["benchmark"], 0))
    return [
        row
        for row in rows
        if row["metric"].startswith("avg@") or row["metric"] == f"pass@{largest.get(row['benchmark'])}"
    ]


def _difference(row: dict[str, Any]) -> str:
    where = f"{row['arm']} against {row['against']}, {row['stage']}, {row['benchmark']}: {row['metric']}"
    if not is_shown(row):
        return f"{where} {signed(row)}{_over_seeds(row)}: no difference shown"
    return f"{where} is {'higher' if row['value'] > 0 else 'lower'}, {signed(row)}{_over_seeds(row)}"


def _gain(row: dict[str, Any]) -> str:
    where = f"{row['arm']}, {row['from']} → {row['stage']}, {row['benchmark']}: {row['metric']}"
    if not is_shown(row):
        return f"{where} {signed(row)}{_over_seeds(row)}: no change shown"
    return f"{where} {'rose' if row['value'] > 0 else 'fell'}, {signed(row)}{_over_seeds(row)}"


def _over_seeds(row: dict[str, Any]) -> str:
    return f" (over seeds {signed(row['over_seeds'])})" if row["over_seeds"] else ""


def _trained(results: dict[str, Any]) -> list[str]:
    """Where each arm ended in pre-training relative to the baseline, with intervals where there are several seeds."""
    rows = {(row["arm"], row["stage"], row["quantity"]): row for row in results["training_differences"]}
    sentences = []
    for arm, stage, own, base in _against_baseline(results):
        changes = []
        for key, name in (("entropy", "entropy"), ("nll", "NLL"), ("tail_mass", "tail mass")):
            row = rows.get((arm, stage, key))
            if row is not None:
                changes.append(f"{name} {row['value']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]")
            elif key != "tail_mass":
                changes.append(f"{name} {own[key] / base[key] - 1:+.1%}")
        sentences.append(
            f"{arm} against {results['baseline']}, end of {stage} ({own['source']} tokens): {', '.join(changes)}"
        )
    return sentences


def _against_baseline(
    results: dict[str, Any],
) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Arm, train stage, the arm's summary and the baseline's, where both have NLL and entropy."""
    arms = results["arms"]
    for arm, values in arms.items():
        for stage, own in values["training"].items():
            base = arms[results["baseline"]]["training"].get(stage)
            complete = base and all(each.get(key) for each in (own, base) for key in ("nll", "entropy"))
            if arm != results["baseline"] and complete:
                yield arm, stage, own, base


def _limits(results: dict[str, Any]) -> list[str]:
    limits = []
    if results["incomplete"]:
        limits.append(f"Not finished, and left out of every number here: {', '.join(results['incomplete'])}.")
    seeds = len(results["seeds"])
    limits.append(
        "One training seed: the intervals are over problems, with the trained models fixed. They say nothing "
        "about how much another training seed would move the numbers."
        if seeds == 1
        else f"{seeds} training seeds: the intervals over seeds are t intervals of {seeds} paired values."
    )
    num_compared = len(results["differences"]) + len(results["gains"])
    if num_compared:
        limits.append(
            f"{num_compared} comparisons at 95% without a correction: about {0.05 * num_compared:.1f} of "
            "them would exclude 0 by chance if nothing differed."
        )
    return [
        *limits,
        *_training_limits(results),
        *_rl_limits(results),
        *_evaluation_limits(results),
        *_task_limits(results),
        *_shape_limits(results),
    ]


def _training_limits(results: dict[str, Any]) -> list[str]:
    limits = []
    for arm, stage, own, base in _against_baseline(results):
        shift = own["nll"] / base["nll"] - 1
        if abs(shift) > NLL_TOLERANCE:
            limits.append(
                f"{arm} was not trained alike: its NLL after {stage} differs by {shift:+.1%} from that of "
                f"{results['baseline']}, more than {NLL_TOLERANCE:.0%}. What follows in RL may come from "
                "that and not from the shape."
            )
    return limits


def _rl_limits(results: dict[str, Any]) -> list[str]:
    return [
        f"{arm}, {stage}: not one sampled completion was right, so RL had nothing to learn from."
        for arm, values in results["arms"].items()
        for stage, summary in values["rl"].items()
        if summary["raw_reward"]["run"] == 0
    ]


def _evaluation_limits(results: dict[str, Any]) -> list[str]:
    limits = []
    for arm, values in results["arms"].items():
        for stage, evaluated in values["evaluations"].items():
            for benchmark, entry in evaluated.items():
                where = f"{arm}, {stage}, {benchmark}"
                k = max(int(metric.split("@")[1]) for metric in entry["metrics"] if metric.startswith("pass@"))
                if entry["metrics"][f"pass@{k}"]["value"] > SATURATED:
                    limits.append(
                        f"{where}: pass@{k} is above {SATURATED:.0%}, near its ceiling, where it cannot "
                        "tell arms apart."
                    )
                if entry["unparsed"] > LOST:
                    limits.append(f"{where}: {entry['unparsed']:.1%} of the completions give no answer at all.")
                if entry["truncated"] > LOST:
                    limits.append(
                        f"{where}: {entry['truncated']:.1%} of the completions were cut at the token limit "
                        "and count as they stand."
                    )
    return limits


def _task_limits(results: dict[str, Any]) -> list[str]:
    stages = [entries for values in results["arms"].values() for entries in values["evaluations"].values()]
    if {benchmark for entries in stages for benchmark in entries} != {"running_sums"}:
        return []
    return [
        "running_sums is a controlled task for a very small model. It shows mechanisms, not what a large "
        "language model would do."
    ]


def _shape_limits(results: dict[str, Any]) -> list[str]:
    limits = []
    if any(values["rl"] or values["evaluations"] for values in results["arms"].values()):
        limits.append(
            "No arm is cross-entropy sampled at a matched entropy, so the effect of a shape cannot be told from "
            "that of a sampling temperature."
        )
    shapes = [values["shape"] for values in results["arms"].values() if values["shape"].get("beta")]
    if shapes and any(values["rl"] for values in results["arms"].values()):
        limits.append(
            "That precision helps RL is a hypothesis. Which sign of β helps depends on the regime: a "
            "negative β removes noise from the steps, and takes mass from a correct but rare strategy. "
            "This study covers one regime."
        )
    if shapes:
        forms = sorted({shape.get("positive", "product") for shape in shapes})
        limits.append(
            f"β enters by the form {' and '.join(map(repr, forms))}. The published Equation 11 can be read "
            "in two ways (product, exponent), and which of them its authors used is open."
        )
    return limits
