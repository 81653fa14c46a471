"""The tables of a report from results.json: training, RL, evaluations and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shaped_eval.reporting.document import Table
from shaped_eval.reporting.tables import percent

from shaped_trl.study.definition import ROLLOUTS, Arm, Study
from shaped_trl.study.reporting.findings import is_shown
from shaped_trl.study.reporting.wording import NONE, in_regime, interval, number, shape_text, signed

Summaries = Mapping[str, dict[str, Any]]  # arm → its entry in a regime of results.json
# quantity of a train stage → its name in tables
TRAINED = {
    "nll": "NLL",
    "perplexity": "perplexity",
    "entropy": "entropy (nats)",
    "head_mass": "head mass",
    "tail_mass": "tail mass",
    "rare_nll": "NLL, rare targets",
    # in studies that mix it in: `shaped_trl.data.running_sums`
    "nll_source_text": "NLL, plain text",
}


def training_tables(
    study: Study, regime: str, values: Mapping[str, Any], stage: str
) -> list[Table]:
    """The end of a train stage, and its differences from the baseline."""
    summaries = {
        arm: each["training"][stage]
        for arm, each in values["arms"].items()
        if stage in each["training"]
    }
    shown = [
        key
        for key in TRAINED
        if any(summary.get(key) is not None for summary in summaries.values())
    ]
    rows = [
        [
            arm,
            _what_acts(study.arms[arm]),
            *(_with_seeds(summary, key) for key in shown),
            summary["source"],
            f"{summary['steps']:,}",
            f"{summary['tokens']:,}" if summary["tokens"] else NONE,
        ]
        for arm, summary in summaries.items()
    ]
    seeds = max((summary["seeds"] for summary in summaries.values()), default=0)
    over_seeds = f", mean over {seeds} seeds with its 95% interval" if seeds > 1 else ""
    columns = ("arm", "shape", *(TRAINED[key] for key in shown), "measured on", "steps", "tokens")
    table = Table(in_regime(regime, f"End of {stage}{over_seeds}"), columns, rows)
    return [table, *_training_differences(study, regime, values["training_differences"], stage)]


def _training_differences(
    study: Study, regime: str, rows: Sequence[dict[str, Any]], stage: str
) -> list[Table]:
    found = {(row["arm"], row["quantity"]): signed(row) for row in rows if row["stage"] == stage}
    if not found:
        return []
    keys = [key for key in TRAINED if any(key == quantity for _, quantity in found)]
    cells = [
        [arm, *(found.get((arm, key), NONE) for key in keys)]
        for arm in study.arms
        if any((arm, key) in found for key in keys)
    ]
    caption = f"End of {stage} against {study.baseline}, %, paired over seeds"
    return [Table(in_regime(regime, caption), ("arm", *(TRAINED[key] for key in keys)), cells)]


def rl_table(regime: str, arms: Summaries, stage: str) -> Table:
    """The mean reward over the run, and the values at its end."""
    rows = []
    for arm, values in arms.items():
        if summary := values["rl"].get(stage):
            ends = ("raw_reward", "entropy", "completion_length", "clip_ratio")
            end = [number(summary[key]["end"]) for key in ends]
            rows.append([arm, number(summary["raw_reward"]["run"]), *end, f"{summary['steps']:,}"])
    columns = (
        "arm",
        "reward, whole run",
        "reward, end",
        "entropy, end",
        "length, end",
        "clipped, end",
        "steps",
    )
    return Table(
        in_regime(regime, f"{stage}: the run's mean and the mean of its last tenth"), columns, rows
    )


def evaluation_tables(
    regime: str, arms: Summaries, stage: str, table_metrics: Mapping[str, list[str]]
) -> list[Table]:
    """A table for each benchmark of an evaluation stage."""
    tables = []
    by_arm = {arm: values["evaluations"].get(stage, {}) for arm, values in arms.items()}
    for benchmark in dict.fromkeys(name for entries in by_arm.values() for name in entries):
        entries = {arm: each[benchmark] for arm, each in by_arm.items() if benchmark in each}
        first = next(iter(entries.values()))
        shown = [metric for metric in table_metrics[benchmark] if metric in first["metrics"]]
        rows = [
            [
                arm,
                *(interval(entry["metrics"][metric]) for metric in shown),
                percent(entry["truncated"]),
                percent(entry["unparsed"]),
            ]
            for arm, entry in entries.items()
        ]
        caption = f"{stage}: {benchmark}, {first['problems']} problems, {first['n']} samples each"
        tables.append(
            Table(in_regime(regime, caption), ("arm", *shown, "truncated", "unparsed"), rows)
        )
    return tables


def comparison_table(caption: str, rows: Sequence[dict[str, Any]], other: str) -> Table:
    """Differences paired over problems, from `differences` ("against") or `gains` ("from")."""
    several_seeds = any(row["over_seeds"] for row in rows)
    columns = ["arm", other, "stage", "benchmark", "metric", "difference (points)", "p", "shown"]
    cells = [
        [
            *(row[key] for key in ("arm", other, "stage", "benchmark", "metric")),
            signed(row),
            f"{row['p_value']:.2g}",
            "yes" if is_shown(row) else "no",
        ]
        for row in rows
    ]
    if several_seeds:
        columns.insert(6, "over seeds")
        for line, row in zip(cells, rows, strict=True):
            line.insert(6, signed(row["over_seeds"]) if row["over_seeds"] else NONE)
    return Table(caption, columns, cells)


def seconds_table(study: Study, regime: str, arms: Summaries) -> Table:
    """The seconds of the runs, including those that find temperatures."""
    rows = []
    for arm, values in arms.items():
        for stage, seconds in values["seconds"].items():
            wall, cpu = (
                sum(each[key] for each in seconds) for key in ("wall_seconds", "cpu_seconds")
            )
            resumed = sum(each["attempt"] > 1 for each in seconds)
            spec = study.stages.get(stage)
            command = f"{spec.command} {spec.config}" if spec else NONE
            rows.append(
                [
                    arm,
                    stage,
                    command,
                    f"{wall:.1f}",
                    f"{cpu:.1f}",
                    str(resumed) if resumed else NONE,
                ]
            )
    caption = "Seconds, summed over seeds; of a resumed run, only the last attempt"
    return Table(
        in_regime(regime, caption), ("arm", "stage", "command", "wall s", "CPU s", "resumed"), rows
    )


def arms_table(study: Study, results: Mapping[str, Any]) -> Table:
    """What distinguishes the arms, their seeds, and the temperatures found for them."""
    several = len(results["regimes"]) > 1
    shared = [stage for stage, each in study.stages.items() if each.shared]
    its_own = f"its own, from {study.baseline}'s {shared[-1]}" if shared else "its own"
    columns = ["arm", "shape", "model", "temperature", "seeds", "part"]
    rows = []
    for arm, own in results["arms"].items():
        found = [
            in_regime(regime if several else "", _range(list(values["temperatures"][arm].values())))
            for regime, values in results["regimes"].items()
            if arm in values["temperatures"]
        ]
        temperature = _temperature(own) + (f" ({'; '.join(found)})" if found else "")
        rows.append(
            [
                arm,
                NONE if own["checkpoint_of"] else _what_acts(study.arms[arm]),
                f"of {own['checkpoint_of']}" if own["checkpoint_of"] else its_own,
                temperature,
                ", ".join(map(str, own["seeds"])),
                "baseline"
                if arm == study.baseline
                else "exploratory"
                if own["exploratory"]
                else "confirmatory",
            ]
        )
    return Table("Arms; for a temperature that was found, mean and range over seeds", columns, rows)


def _temperature(own: Mapping[str, Any]) -> str:
    """What an arm's temperature is, and what is done with it."""
    text = f"{own['temperature']:g} × the recipe's" if own["temperature"] is not None else NONE
    if own["entropy_of"]:
        kind = "rollout entropy" if own.get("matched_on") == ROLLOUTS else "entropy"
        text = f"the {kind} of {own['entropy_of']}"
    if own.get("head_divided"):
        by = text if own["entropy_of"] else f"{own['temperature']:g}"
        text = f"its head is divided by {'that which gives it ' if own['entropy_of'] else ''}{by}"
    return text


def _what_acts(arm: Arm) -> str:
    """The arm's shape, and its own options."""
    options = [
        f"{stage} {key} {value}"
        for stage, given in arm.args.items()
        for key, value in given.items()
    ]
    there = [f"in {regime} {shape_text(shape)}" for regime, shape in arm.shape_in.items()]
    return ", ".join([shape_text(arm.shape), *there, *options])


def _range(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    return f"{mean:.3f}" + (f", {min(values):.3f} to {max(values):.3f}" if len(values) > 1 else "")


def _with_seeds(summary: Mapping[str, Any], key: str) -> str:
    band = summary.get("over_seeds", {}).get(key)
    if band is None:
        return number(summary.get(key))
    return f"{number(band['value'])} [{number(band['low'])}, {number(band['high'])}]"
