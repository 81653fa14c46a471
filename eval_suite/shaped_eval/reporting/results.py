"""From outcomes to numbers: entries of results.json, values per problem, and averages of groups.

Notation: P problems, n samples per problem. Values are in 0–1.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks import suites
from shaped_eval.errors import UserError
from shaped_eval.reporting.outcomes import Outcomes, read_outcomes, read_record
from shaped_eval.reporting.reliability import reliability_results
from shaped_eval.statistics import (
    avg_at_m,
    maj_at_k,
    pass_at_k,
    problem_interval,
    sampling_se,
    vote_sampling_se,
)
from shaped_eval.statistics.votes import Values

# The paper's groups, then benchmarks beyond its 19.
GROUPS: dict[str, tuple[str, ...]] = {
    **suites.GROUPS,
    "more knowledge": ("mmlu_redux", "gpqa_diamond"),
    "more math": ("amc23", "aime24", "aime25", *suites.MATH2026, "math", "running_sums"),
    "more code": ("humaneval", "mbpp"),
}
OTHER = "other"
# Benchmarks derived from another one's problems: their errors are not independent.
_DERIVED_FROM = {
    "humanevalplus": "humaneval",
    "mbppplus": "mbpp",
    "mmlu_pro": "mmlu",
    "mmlu_redux": "mmlu",
}


@dataclass(frozen=True)
class GradedRun:
    """A graded run.

    Attributes:
        label: short, and unique among the runs that are reported together.
        results: the content of results.json, benchmark → entry.
        values: benchmark → metric → value of each problem [P].
    """

    label: str
    folder: Path
    record: dict[str, Any]
    outcomes: dict[str, Outcomes]
    values: dict[str, dict[str, Values]]
    results: dict[str, dict[str, Any]]

    @property
    def greedy(self) -> bool:
        return is_greedy(self.record)


def read_runs(
    folders: Sequence[str | Path],
    pass_at: Sequence[int] | None = None,
    interrupted: bool = False,
) -> list[GradedRun]:
    """The runs of `folders`, in order. `interrupted` is that of `read_outcomes`.

    Raises:
        UserError: a folder is given twice, holds no complete run, or has fewer samples than a k
            needs.
    """
    labels = run_labels(folders)
    return [
        _read_run(folder, label, pass_at, interrupted)
        for folder, label in zip(folders, labels, strict=True)
    ]


def run_labels(folders: Sequence[str | Path]) -> list[str]:
    """A label for each run: the shortest path endings that are distinct, usually the folders'
    names.

    Raises:
        UserError: a folder is given twice.
    """
    counts = Counter(Path(folder).resolve() for folder in folders)
    twice = [folder for folder in folders if counts[Path(folder).resolve()] > 1]
    if twice:
        raise UserError(f"{str(twice[0])!r} is given twice: give each run once")
    places = [Path(os.path.abspath(folder)) for folder in folders]
    longest = max(len(place.parts) for place in places)
    for length in range(1, longest + 1):
        labels = ["/".join(place.parts[-length:]) for place in places]
        if len(set(labels)) == len(labels):
            return labels
    return [str(place) for place in places]


def parse_pass_at(text: str | None, n: int | None = None) -> list[int] | None:
    """``"1,8,64"`` as [1, 8, 64]; None stays None, which means powers of two up to n.

    Raises:
        UserError: a k is not a whole number from 1 or, where `n` is given, is above `n` samples.
    """
    if text is None:
        return None
    ks = []
    for part in str(text).split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise UserError(
                f"pass_at={text!r}: {part!r} is not a valid k; give whole numbers from 1, such as "
                "1,8,64"
            )
        ks.append(int(part))
    if n is not None:
        _check_pass_at(ks, n)
    return sorted(set(ks))


def default_pass_at(n: int) -> list[int]:
    """1, 2, 4, … up to n, and n itself."""
    return sorted({1 << power for power in range(n.bit_length())} | {n})


def metric_values(outcomes: Outcomes, pass_at: Sequence[int]) -> dict[str, Values]:
    """Metric → value of each problem [P].

    The metrics are ``pass@k``, ``avg@n`` and, where answers can be voted on, ``maj@k`` for 1 < k <
    n and ``cons@n``. A metric that is added here appears in every table.
    """
    n = outcomes.n
    values = {f"pass@{k}": pass_at_k(outcomes.passes_P, n, k) for k in pass_at}
    values[f"avg@{n}"] = avg_at_m(outcomes.passes_P, n)
    if outcomes.votes:
        values |= {f"maj@{k}": maj_at_k(outcomes.ballots_P, k) for k in pass_at if 1 < k < n}
        values[f"cons@{n}"] = outcomes.votes_P
    return values


def benchmark_results(
    outcomes: Outcomes, values: Mapping[str, Values], greedy: bool = False
) -> dict[str, Any]:
    """The entry of one benchmark in results.json, from its `metric_values`.

    `sampling_se` is null for greedy decoding, where nothing is drawn. ``accuracy`` is present where
    a pass can mean several things: ``acc``, ``acc_norm`` or ``exact match``. `truncated` is null
    for answers that were not sampled here.
    """
    total = outcomes.num_samples
    greedy = greedy or not outcomes.drawn
    accuracy = {} if outcomes.accuracy is None else {"accuracy": outcomes.accuracy}
    errors = {key: None if greedy else _sampling_error(outcomes, key) for key in values}
    return {
        "problems": len(outcomes.problem_ids),
        "n": outcomes.n,
        **accuracy,
        "truncated": None if outcomes.truncated is None else outcomes.truncated / total,
        "unparsed": outcomes.statuses["unparsed"] / total,
        "metrics": {
            key: asdict(problem_interval(values_P, errors[key])) for key, values_P in values.items()
        },
    }


def _sampling_error(outcomes: Outcomes, metric: str) -> float:
    name, k = metric.split("@")
    if name in ("maj", "cons"):
        return vote_sampling_se(outcomes.ballots_P, int(k))
    return sampling_se(outcomes.passes_P, outcomes.n, 1 if name == "avg" else int(k))


def find_metric(entry: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """The metric in a benchmark's entry, or None; ``avg@n`` means avg at the entry's own n."""
    return entry["metrics"].get(f"{metric[:-1]}{entry['n']}" if metric.endswith("@n") else metric)


def is_greedy(record: Mapping[str, Any]) -> bool:
    return record["settings"].get("temperature") == 0


def average(intervals: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over benchmarks, each counted once, of values or differences with their intervals.

    The interval is computed from the benchmarks' own intervals (MOVER: Zou and Donner 2008,
    Statistics in Medicine 27): independent deviations add in squares, separately below and above
    the value. Benchmarks that share their problems are assumed to deviate together. `sampling_se`
    is combined likewise; it is null where a benchmark has none.

    Args:
        intervals: benchmark → ``{"value", "low", "high", "sampling_se"?}``; at least one.
    """
    count = len(intervals)
    value = sum(one["value"] for one in intervals.values()) / count
    down = _combined({name: one["value"] - one["low"] for name, one in intervals.items()}) / count
    up = _combined({name: one["high"] - one["value"] for name, one in intervals.items()}) / count
    errors = {name: one.get("sampling_se") for name, one in intervals.items()}
    known = {name: error for name, error in errors.items() if error is not None}
    error = (
        math.sqrt(sum(each**2 for each in known.values())) / count if len(known) == count else None
    )
    return {"value": value, "low": value - down, "high": value + up, "sampling_se": error}


def _combined(deviations: Mapping[str, float]) -> float:
    families: dict[str, float] = {}
    for name, deviation in deviations.items():
        family = _DERIVED_FROM.get(name, name)
        families[family] = families.get(family, 0.0) + deviation
    return math.sqrt(sum(deviation**2 for deviation in families.values()))


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Group → its members among `names`, in the order of `GROUPS`; all others are in ``other``."""
    names = list(dict.fromkeys(names))
    groups = {
        group: [name for name in members if name in names] for group, members in GROUPS.items()
    }
    known = {name for members in groups.values() for name in members}
    groups[OTHER] = [name for name in names if name not in known]
    return {group: members for group, members in groups.items() if members}


def in_order(names: Iterable[str]) -> list[str]:
    """Benchmarks in the order of tables and pictures: group by group."""
    return [name for members in grouped(names).values() for name in members]


def results_text(results: Mapping[str, Any]) -> str:
    """The text of results.json."""
    return json.dumps(results, indent=2, ensure_ascii=False) + "\n"


def _read_run(
    folder: str | Path, label: str, pass_at: Sequence[int] | None, interrupted: bool
) -> GradedRun:
    record = read_record(folder)
    if pass_at is not None:
        _check_pass_at(pass_at, record["settings"]["n"])
    outcomes = read_outcomes(folder, interrupted)
    if not outcomes:
        raise UserError(f"{str(folder)!r} has no problems: sample into another --out")
    values = {}
    # some benchmarks define their own, smaller number of samples
    for name, one in outcomes.items():
        ks = (
            default_pass_at(one.n)
            if pass_at is None
            else sorted({k for k in pass_at if k <= one.n})
        )
        values[name] = metric_values(one, ks)
    greedy, limit = is_greedy(record), record["settings"].get("max_new_tokens")
    results = {
        name: {
            **benchmark_results(one, values[name], greedy),
            "reliability": reliability_results(one, greedy, limit),
        }
        for name, one in outcomes.items()
    }
    return GradedRun(label, Path(folder), record, outcomes, values, results)


def _check_pass_at(ks: Sequence[int], n: int) -> None:
    for k in ks:
        if not 1 <= k <= n:
            raise UserError(
                f"pass_at={k}: the run has n={n} samples per problem; choose k from 1 to {n}, or "
                "sample more"
            )
