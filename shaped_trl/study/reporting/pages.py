"""The content of the report: verdicts, findings, limits, then the paper's pictures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shaped_eval.reporting.document import Block, Details, Heading, Image, Items, Notes, Text

from shaped_trl.study.definition import SEEDS, Study
from shaped_trl.study.reporting import overview, tables
from shaped_trl.study.reporting.by_step.charts import BY_TOKENS
from shaped_trl.study.reporting.by_step.tables import step_tables, tokens_tables
from shaped_trl.study.reporting.charts import EXPLORATORY, MEAN, Chart
from shaped_trl.study.reporting.contrast_pages import contrast_section
from shaped_trl.study.reporting.findings import find
from shaped_trl.study.reporting.reading import stages_of
from shaped_trl.study.reporting.wording import in_regime

_READING = (
    "Values are percentages with 95% intervals over problems, which show how far another draw of "
    "such problems could move them. Avg@n is the share of samples that pass, which equals Pass@1. "
    "Cons@n is the majority vote; a tie is shared. Pass@k is the unbiased estimate from n samples."
)
_FOLDED_FROM = 12  # lists with more entries are folded
_LOGGED, _METRICS = ("policy_entropy", "response_length", "reward"), ("avg", "cons", "pass")
_TRAINED_PICTURES = (
    *("perplexity", "entropy", "head_mass", "tail_mass"),
    *(f"training_{metric}" for metric in _METRICS),
)
_RL_PICTURES = (
    *(f"{name}{axis}" for name in _LOGGED for axis in ("", BY_TOKENS)),
    *("tokens_to", *(f"rl_{metric}{axis}" for metric in _METRICS for axis in ("", BY_TOKENS))),
)
_EVALUATION_PICTURES = ("avg", "cons", "pass_at_k")


@dataclass(frozen=True)
class Picture:
    """A chart and its drawing."""

    chart: Chart
    png: bytes

    @property
    def path(self) -> str:
        return f"report/{self.chart.name}.png"


def blocks(study: Study, results: dict[str, Any], pictures: Sequence[Picture]) -> list[Block]:
    """The document of a study, from the content of results.json and the pictures."""
    document: list[Block] = [Text(_introduction(study, results))]
    if results["failed"]:
        failed = [
            f"{key} failed: {why}" if why else f"{key} failed"
            for key, why in results["failed"].items()
        ]
        document.append(Notes(failed))
    document += contrast_section(results) if "contrasts" in results else overview.claims(results)
    findings = find(results)
    document += _listed("What was measured", findings.shown, fold=False)
    document += _listed("What was not shown", findings.not_shown)
    document += _listed("What exploratory arms hint at", findings.hints)
    document += [Heading("What this study cannot show"), Items(findings.limits)]
    document += _training(study, results, pictures)
    document += _rl(study, results, pictures)
    document += _evaluation(study, results, pictures)
    document += overview.averages(study, results)
    return document + _settings(study, results, pictures)


def _introduction(study: Study, results: Mapping[str, Any]) -> str:
    regimes = [regime for regime in results["regimes"] if regime]
    seeds = "seeds " + ", ".join(map(str, study.seeds))
    if any(SEEDS in study.regimes[regime] for regime in regimes):
        own = {regime: study.regimes[regime].get(SEEDS, study.seeds) for regime in regimes}
        seeds = "; ".join(f"seeds {', '.join(map(str, own[regime]))} in {regime}" for regime in own)
    elif regimes:
        seeds += f" in each of the regimes {', '.join(regimes)}"
    # An arm with another arm's model differs in its temperature instead of a shape.
    or_temperature = (
        " or, on another arm's models, in the sampling temperature"
        if any(arm.checkpoint_of for arm in study.arms.values())
        else ""
    )
    own_data = [name for name, arm in study.arms.items() if arm.prepare]
    but = f" ({', '.join(own_data)}: on their own data)" if own_data else ""
    if "contrasts" in results:
        rule = "Verdicts are on the contrasts alone that the study's file names."
    elif any(row["p_corrected"] is not None for row in results["effects"]):
        rule = "A comparison counts as shown when p < 0.05 over seeds, corrected among arms."
    elif results["effects"]:
        rule = "All arms are exploratory: p < 0.05 over seeds is not corrected, and only a hint."
    else:
        rule = "A comparison counts as shown when its interval excludes 0 and p < 0.05."
    return (
        f"{len(study.arms)} arms ({', '.join(study.arms)}), {seeds}, compared with "
        f"{study.baseline}. Arms differ only in the shape of the token distribution"
        f"{or_temperature}; data, order and initialisation are the same per seed{but}."
        f"{_shared(study)} Brackets contain 95% intervals. {rule}"
    )


def _shared(study: Study) -> str:
    """A sentence on the stages that all arms share, after a space; empty if there are none."""
    shared, shaped = (
        [s for s, each in study.stages.items() if getattr(each, kind)]
        for kind in ("shared", "shaped")
    )
    if not shared:
        return ""
    once = f"once per seed{' and regime' if study.regimes else ''}"
    acts = f", and shapes act only in {' and '.join(shaped)}" if shaped else ""
    return (
        f" {' and '.join(shared)} ran {once}, as {study.baseline}: all arms continue from its "
        f"model{acts}."
    )


def _listed(heading: str, sentences: Sequence[str], *, fold: bool = True) -> list[Block]:
    if not sentences:
        return []
    items = Items(sentences)
    folded = fold and len(sentences) > _FOLDED_FROM
    return [
        Heading(heading),
        Details(f"All {len(sentences)} comparisons", [items]) if folded else items,
    ]


def _training(study: Study, results: Mapping[str, Any], pictures: Sequence[Picture]) -> list[Block]:
    heading = "Pre-training" if stages_of(study, "train") == ["pretrain"] else "Training before RL"
    document: list[Block] = [Heading(heading), *_images(pictures, _TRAINED_PICTURES)]
    for stage in stages_of(study, "train"):
        for regime, values in results["regimes"].items():
            document += tables.training_tables(study, regime, values, stage)
            document += step_tables(regime, values["arms"], "training", stage)
    return document


def _rl(study: Study, results: Mapping[str, Any], pictures: Sequence[Picture]) -> list[Block]:
    stages = stages_of(study, "rlvr")
    if not stages:
        return []
    document: list[Block] = [Heading("Reinforcement learning"), *_images(pictures, _RL_PICTURES)]
    for stage in stages:
        for regime, values in results["regimes"].items():
            document.append(tables.rl_table(regime, values["arms"], stage))
    document.append(
        Text(
            "Reward is the share of right answers among all sampled completions, before groups "
            "without a signal are dropped. Its mean over the run is the area under the learning "
            "curve."
        )
    )
    for stage in stages:
        for regime, values in results["regimes"].items():
            document += tokens_tables(regime, values["arms"], stage)
            document += step_tables(regime, values["arms"], "rl", stage)
    return document


def _evaluation(
    study: Study, results: Mapping[str, Any], pictures: Sequence[Picture]
) -> list[Block]:
    if not stages_of(study, "eval"):
        return []
    document: list[Block] = [
        Heading("Evaluation"),
        Text(_READING),
        *_images(pictures, _EVALUATION_PICTURES),
    ]
    for stage in stages_of(study, "eval"):
        for regime, values in results["regimes"].items():
            document += tables.evaluation_tables(
                regime, values["arms"], stage, results["table_metrics"]
            )
    document += overview.effect_tables(results)
    for regime, values in results["regimes"].items():
        for name, caption, other in (
            ("differences", f"Against {study.baseline}, paired over problems", "against"),
            ("gains", "From one evaluation to the next, paired", "from"),
        ):
            if values[name]:
                table = tables.comparison_table(in_regime(regime, caption), values[name], other)
                folded = len(values[name]) > _FOLDED_FROM
                document.append(Details(table.caption, [table]) if folded else table)
    return document


def _settings(study: Study, results: Mapping[str, Any], pictures: Sequence[Picture]) -> list[Block]:
    document: list[Block] = [Heading("Settings"), tables.arms_table(study, results)]
    for stage, settings in results["settings"].items():
        given = [
            f"{key} {value}"
            for key, value in settings.items()
            if value is not None and key != "seed"
        ]
        document.append(Text(f"{stage} of {study.baseline}: {', '.join(given)}."))
    for made in results["made_with"]:
        versions = ", ".join(
            f"{name} {version}" for name, version in (made["versions"] or {}).items()
        )
        document.append(
            Text(
                f"{made['runs']} runs at commit {made['commit'] or 'unknown'}, with "
                f"{versions or '?'}."
            )
        )
    for regime, values in results["regimes"].items():
        seconds = tables.seconds_table(study, regime, values["arms"])
        document.append(
            Details(seconds.caption, [seconds]) if len(seconds.rows) > _FOLDED_FROM else seconds
        )
    if pictures:
        document.append(Text("The numbers of each picture report/NAME.png are in report/NAME.csv."))
    return document


def _images(pictures: Sequence[Picture], names: Sequence[str]) -> list[Block]:
    """The pictures with these names, and those of their exploratory arms."""
    return [
        Image(picture.path, _caption(picture.chart), picture.png)
        for name in names
        for picture in pictures
        if picture.chart.name.partition(EXPLORATORY)[0] == name
    ]


def _caption(chart: Chart) -> str:
    several = any(line.seed == MEAN for line in chart.lines)
    over_problems = not several and any(
        low is not None for line in chart.lines for _, _, low, _ in line.points
    )
    band = (
        ": mean over seeds with its 95% interval"
        if several
        else " with 95% intervals over problems"
    )
    return f"{chart.caption}{band if several or over_problems else ''}"
