"""The report's content: what was shown, tables and pictures, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from eval_suite.document import Block, Heading, Image, Items, Table, Text
from eval_suite.plots import plot_pass_at_k, to_png
from eval_suite.report import percent
from shaped_trl.study.definition import Study
from shaped_trl.study.figures import Panel, plot_panels
from shaped_trl.study.findings import find, is_shown, signed
from shaped_trl.study.logs import curve
from shaped_trl.study.training_results import stage_rows, stages_of

_NONE = "–"
# what a train stage is judged by → its name in tables
_TRAINED = {
    "nll": "NLL",
    "perplexity": "perplexity",
    "entropy": "entropy (nats)",
    "head_mass": "head mass",
    "tail_mass": "tail mass",
    "rare_nll": "NLL, rare targets",
}
_TRAINED_PICTURES = {
    "entropy": "Token entropy in pre-training",
    "perplexity": "Perplexity in pre-training",
    "head_mass": "Probability of the head, the target not counted",
    "tail_mass": "Probability of the tail, the target not counted",
}
_READING = (
    "Values are percentages, with 95% intervals over problems: how far another draw of such problems could "
    "move them. Avg@n is the share of samples that pass, and the same as Pass@1; Cons@n is the majority vote, "
    "shared among ties; Pass@k is the unbiased estimate from n samples."
)


def blocks(study: Study, results: dict[str, Any]) -> list[Block]:
    """The document of a study from the content of results.json and, for the curves, its logs."""
    findings = find(results)
    seeds = ", ".join(map(str, study.seeds))
    document: list[Block] = [
        Text(
            f"{len(study.arms)} arms ({', '.join(study.arms)}), seeds {seeds}, compared with "
            f"{study.baseline}. Arms differ in the shape of the token distribution alone; data, order and "
            "initialisation are the same per seed. Brackets hold 95% intervals. A comparison counts as shown "
            "when its interval excludes 0 and p < 0.05."
        )
    ]
    if results["failed"]:
        document.append(Text(f"Failed runs: {', '.join(results['failed'])}. Their logs say why."))
    document += [Heading("What was measured"), Items(findings.shown)] if findings.shown else []
    document += [Heading("What was not shown"), Items(findings.not_shown)] if findings.not_shown else []
    document += [Heading("What this study cannot show"), Items(findings.limits)]
    document += _training(study, results)
    document += _rl(study, results)
    document += _evaluation(study, results)
    document += _settings(study, results)
    return document


def _training(study: Study, results: dict[str, Any]) -> list[Block]:
    document: list[Block] = [Heading("Pre-training")]
    for stage in stages_of(study, "train"):
        summaries = {arm: values["training"].get(stage) for arm, values in results["arms"].items()}
        rows = [
            [
                arm,
                _shape(study.arms[arm].shape),
                *(_with_seeds(summary, key) for key in _TRAINED),
                summary["source"],
                f"{summary['steps']:,}",
                f"{summary['tokens']:,}" if summary["tokens"] else _NONE,
            ]
            for arm, summary in summaries.items()
            if summary
        ]
        seeds = max((summary["seeds"] for summary in summaries.values() if summary), default=0)
        over_seeds = f", mean over {seeds} seeds with its 95% interval" if seeds > 1 else ""
        columns = ("arm", "shape", *_TRAINED.values(), "measured on", "steps", "tokens")
        document.append(Table(f"End of {stage}{over_seeds}", columns, rows))
        document += _training_differences(study, results, stage)
    stages = stages_of(study, "train")
    for key, caption in _TRAINED_PICTURES.items():
        document += _picture(key, caption, plot_panels([_panel(study, stage, key) for stage in stages]))
    return document


def _training_differences(study: Study, results: dict[str, Any], stage: str) -> list[Block]:
    found = {
        (row["arm"], row["quantity"]): "{:+.1f} [{:+.1f}, {:+.1f}]".format(
            *(100 * row[key] for key in ("value", "low", "high"))
        )
        for row in results["training_differences"]
        if row["stage"] == stage
    }
    if not found:
        return []
    keys = [key for key in _TRAINED if any(key == quantity for _, quantity in found)]
    rows = [
        [arm, *(found.get((arm, key), _NONE) for key in keys)]
        for arm in study.arms
        if any((arm, key) in found for key in keys)
    ]
    caption = f"End of {stage} against {study.baseline}, %, paired over seeds"
    return [Table(caption, ("arm", *(_TRAINED[key] for key in keys)), rows)]


def _rl(study: Study, results: dict[str, Any]) -> list[Block]:
    stages = stages_of(study, "rlvr")
    if not stages:
        return []
    document: list[Block] = [Heading("Reinforcement learning")]
    for stage in stages:
        rows = []
        for arm, values in results["arms"].items():
            if summary := values["rl"].get(stage):
                ends = ("raw_reward", "entropy", "completion_length", "clip_ratio")
                end = [_number(summary[key]["end"]) for key in ends]
                rows.append([arm, _number(summary["raw_reward"]["run"]), *end, f"{summary['steps']:,}"])
        columns = (
            "arm",
            "reward, whole run",
            "reward, end",
            "entropy, end",
            "length, end",
            "clipped, end",
            "steps",
        )
        document.append(Table(f"{stage}: the run's mean and the mean of its last tenth", columns, rows))
    document.append(
        Text(
            "Reward is the share of right answers among all sampled completions, before groups without a "
            "signal are dropped; its mean over the run is the area under the learning curve."
        )
    )
    figure = plot_panels([_panel(study, s, "entropy") for s in stages])
    document += _picture("policy_entropy", "Policy entropy in RL", figure)
    keys = ("raw_reward", "completion_length")
    figure = plot_panels([_panel(study, stage, key) for stage in stages for key in keys])
    return document + _picture("rl", "Reward and response length in RL", figure)


def _evaluation(study: Study, results: dict[str, Any]) -> list[Block]:
    if not stages_of(study, "eval"):
        return []
    document: list[Block] = [Heading("Evaluation"), Text(_READING)]
    panels: dict[str, dict[str, Any]] = {}
    for stage in stages_of(study, "eval"):
        by_arm = {arm: values["evaluations"].get(stage, {}) for arm, values in results["arms"].items()}
        for benchmark in dict.fromkeys(name for entries in by_arm.values() for name in entries):
            entries = {arm: each[benchmark] for arm, each in by_arm.items() if benchmark in each}
            document.append(_metric_table(stage, benchmark, entries, results["table_metrics"][benchmark]))
            panels[f"{stage}: {benchmark}"] = {arm: _pass_curve(entry) for arm, entry in entries.items()}
    figure = plot_pass_at_k(panels) if panels else None
    document += _picture("pass_at_k", "Pass@k with 95% intervals over problems", figure)
    if results["differences"]:
        captions = f"Against {study.baseline}, paired over problems"
        document.append(_comparison_table(captions, results["differences"], "against"))
    if results["gains"]:
        document.append(_comparison_table("From one evaluation to the next, paired", results["gains"], "from"))
    return document


def _settings(study: Study, results: dict[str, Any]) -> list[Block]:
    document: list[Block] = [Heading("Settings")]
    for stage, settings in results["settings"].items():
        flat = {**settings, **settings["versions"]}
        del flat["versions"], flat["seed"]
        given = [f"{key} {value}" for key, value in flat.items() if value is not None]
        given += ["commit unknown"] if flat["commit"] is None else []
        document.append(Text(f"{stage}: {', '.join(given)}."))
    rows = []
    for arm, values in results["arms"].items():
        for stage, seconds in values["seconds"].items():
            wall, cpu = (sum(each[key] for each in seconds) for key in ("wall_seconds", "cpu_seconds"))
            resumed = sum(each["attempt"] > 1 for each in seconds)
            command = f"{study.stages[stage].command} {study.stages[stage].config}"
            rows.append([arm, stage, command, f"{wall:.1f}", f"{cpu:.1f}", str(resumed) if resumed else _NONE])
    caption = "Seconds, added over seeds; of a resumed run the last attempt alone"
    columns = ("arm", "stage", "command", "wall s", "CPU s", "resumed")
    return [*document, Table(caption, columns, rows)]


def _metric_table(stage: str, benchmark: str, entries: Mapping[str, dict[str, Any]], metrics: Sequence[str]) -> Table:
    first = next(iter(entries.values()))
    shown = [metric for metric in metrics if metric in first["metrics"]]
    rows = [
        [
            arm,
            *(_interval(entry["metrics"][metric]) for metric in shown),
            percent(entry["truncated"]),
            percent(entry["unparsed"]),
        ]
        for arm, entry in entries.items()
    ]
    caption = f"{stage}: {benchmark}, {first['problems']} problems, {first['n']} samples each"
    return Table(caption, ("arm", *shown, "truncated", "unparsed"), rows)


def _comparison_table(caption: str, rows: Sequence[dict[str, Any]], other: str) -> Table:
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
            line.insert(6, signed(row["over_seeds"]) if row["over_seeds"] else _NONE)
    return Table(caption, columns, cells)


def _panel(study: Study, stage: str, key: str) -> Panel:
    """One logged quantity of a stage; held-out values where every arm has them."""
    logs = {arm: stage_rows(study, arm, stage) for arm in study.arms}
    held_out = all(curve(rows, f"eval_{key}")[0] for lines in logs.values() for rows in lines)
    column = f"eval_{key}" if held_out and study.stages[stage].command == "train" else key
    curves = {arm: [curve(rows, column) for rows in lines] for arm, lines in logs.items()}
    label = {
        "raw_reward": "reward",
        "completion_length": "response length (tokens)",
        "entropy": "entropy (nats)",
        "head_mass": "head mass",
        "tail_mass": "tail mass",
    }
    suffix = " (held-out)" if column.startswith("eval_") else ""
    return Panel(stage, label.get(key, key) + suffix, curves)


def _pass_curve(entry: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {int(m.split("@")[1]): v for m, v in entry["metrics"].items() if m.startswith("pass@")}


def _picture(name: str, caption: str, figure: Figure | None) -> list[Block]:
    return [Image(f"report/{name}.png", caption, to_png(figure))] if figure else []


def _shape(shape: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in shape.items()) or "cross-entropy"


def _with_seeds(summary: Mapping[str, Any], key: str) -> str:
    interval = summary.get("over_seeds", {}).get(key)
    if interval is None:
        return _number(summary.get(key))
    return f"{_number(interval['value'])} [{_number(interval['low'])}, {_number(interval['high'])}]"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _interval(metric: Mapping[str, float]) -> str:
    return f"{percent(metric['value'])} [{percent(metric['low'])}, {percent(metric['high'])}]"
