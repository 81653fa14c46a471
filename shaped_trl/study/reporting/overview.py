"""The tables on the paper's questions: verdicts, paired differences, averages, its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shaped_eval.reporting.document import Block, Cell, Details, Heading, Items, Row, Table, Text
from shaped_eval.reporting.tables import percent

from shaped_trl.study.definition import Study
from shaped_trl.study.reporting import paper
from shaped_trl.study.reporting.by_step.tables import share_cell, tokens_cell
from shaped_trl.study.reporting.effects import shape_of
from shaped_trl.study.reporting.reading import stages_of
from shaped_trl.study.reporting.rollout_tokens import TOKENS_TO
from shaped_trl.study.reporting.wording import (
    METRICS,
    NONE,
    censored_note,
    effect_number,
    in_regime,
    number,
    p_text,
    plain_number,
    signed,
)

_TRAINED = {"perplexity": "perplexity", "entropy": "entropy (nats)"}
_RL = {  # metric of `rl_outcomes` → its name
    "reward": "reward over the run, %",
    "reward_end": "reward at the end, %",
    "entropy_change": "change of the policy's entropy, %",
    "length_change": "change of the response length, %",
}


def claims(results: Mapping[str, Any]) -> list[Block]:
    """The verdict on each claim, and the numbers behind it."""
    if not results["claims"]:
        return []
    regimes = list(results["regimes"])
    several = len(regimes) > 1
    columns = ("claim", "verdict", *(regimes if several else ()))
    rows = [
        [
            claim["text"],
            claim["verdict"],
            *(claim["regimes"][regime]["verdict"] for regime in (regimes if several else ())),
        ]
        for claim in results["claims"]
    ]
    document: list[Block] = [Heading("The paper's claims"), Table("Verdicts", columns, rows)]
    for claim in results["claims"]:
        if several:
            document += [
                Heading(claim["text"], 3),
                Text(f"{_capital(claim['verdict'])}: {claim['sentence']}."),
                Items(
                    [
                        f"{regime}: {each['verdict']}, {each['sentence']}"
                        for regime, each in claim["regimes"].items()
                    ]
                ),
            ]
        else:
            document += [
                Heading(claim["text"], 3),
                Text(f"{_capital(claim['verdict'])}: {claim['sentence']}."),
            ]
    document.append(
        Text(
            "A claim is shown if each of its quantities has p < 0.05 over seeds, after Holm's "
            "correction among all confirmatory arms. It is refuted if one quantity shows the "
            "opposite "
            "with p < 0.05 divided by the number of quantities, and none supports the claim. Arms "
            "count as equal in perplexity, and as trained alike before RL, if their NLL differs by "
            "at "
            f"most {results['nll_within']:.0%}."
        )
    )
    return document


def effect_tables(results: Mapping[str, Any]) -> list[Block]:
    """All differences paired by seed, in a folded table for each regime."""
    document: list[Block] = []
    columns = (
        "arm",
        "against",
        "stage",
        "benchmark",
        "metric",
        "difference",
        "p",
        "found with 80%",
        "seeds",
    )
    for regime in results["regimes"]:
        rows = [
            [
                row["arm"],
                row["against"],
                row["stage"],
                row["benchmark"] or NONE,
                _metric(row),
                effect_number(row),
                p_text(row),
                plain_number(row, row["minimum_effect"]),
                str(row["seeds"]),
            ]
            for row in results["effects"]
            if row["regime"] == regime
        ]
        if rows:
            caption = in_regime(regime, "Differences paired by seed, with 95% t intervals")
            document.append(Details(f"{caption}: all {len(rows)}", [Table(caption, columns, rows)]))
    return document


def _metric(row: Mapping[str, Any]) -> str:
    return METRICS.get(row["metric"], row["metric"]) + censored_note(row)


def averages(study: Study, results: Mapping[str, Any]) -> list[Block]:
    """The averages, with arms as columns and regimes as groups of rows, and the paper's."""
    rows: list[list[str | Cell] | Row] = []
    for regime, values in results["regimes"].items():
        found = list(_average_rows(study, values["arms"], results["table_metrics"]))
        rows += [Row([regime], "group")] if regime and found else []
        rows += found
    if not rows:
        return []
    several = any(
        own["seeds"] != [seed] for own in results["arms"].values() for seed in own["seeds"]
    )
    caption = "Averages by arm" + (
        ", means over seeds with their 95% t intervals" if several else ""
    )
    document: list[Block] = [
        Heading("Averages by arm"),
        Table(caption, ("", *results["arms"]), rows),
    ]
    return document + _paper(study, results)


def _average_rows(
    study: Study, arms: Mapping[str, Any], table_metrics: Mapping[str, list[str]]
) -> Iterator[list[str | Cell]]:
    for stage in stages_of(study, "train"):
        for key, name in _TRAINED.items():
            yield from _line(
                f"{stage}: {name}",
                [_trained(each["training"].get(stage), key) for each in arms.values()],
            )
    for stage in stages_of(study, "rlvr"):
        for key, name in _RL.items():
            yield from _line(
                f"{stage}: {name}",
                [_seeds_cell(each["rl"].get(stage), key) for each in arms.values()],
            )
        for metric in TOKENS_TO:
            yield from _line(
                f"{stage}: {METRICS[metric]}",
                [tokens_cell(each["rl"].get(stage, {}), metric) for each in arms.values()],
            )
    for stage in stages_of(study, "eval"):
        for benchmark, metrics in table_metrics.items():
            entries = [each["evaluations"].get(stage, {}).get(benchmark) for each in arms.values()]
            for metric in metrics:
                if metric != "pass@1":
                    cells = [_evaluated(entry, metric) for entry in entries]
                    yield from _line(f"{stage}, {benchmark}: {metric}, %", cells)
        found = [each.get("averages", {}).get(stage, {}) for each in arms.values()]
        for name in dict.fromkeys(name for each in found for name in each):
            for metric in dict.fromkeys(m for each in found for m in each.get(name, {})):
                cells = [share_cell(each.get(name, {}).get(metric)) for each in found]
                yield from _line(f"{stage}, {name}: {metric}, %", cells)


def _line(name: str, cells: list[Cell | None]) -> Iterator[list[str | Cell]]:
    if any(cell is not None for cell in cells):
        yield [name, *(cell or NONE for cell in cells)]


def _trained(summary: Mapping[str, Any] | None, key: str) -> Cell | None:
    if not summary or summary.get(key) is None:
        return None
    band = summary.get("over_seeds", {}).get(key)
    return Cell(
        number(summary[key]),
        note=f"[{number(band['low'])}, {number(band['high'])}]" if band else "",
    )


def _seeds_cell(summary: Mapping[str, Any] | None, key: str) -> Cell | None:
    """A metric of RL over seeds; for a single seed, its reward."""
    band = (summary or {}).get("over_seeds", {}).get(key)
    if band is not None:
        return Cell(
            percent(band["value"]), note=f"[{percent(band['low'])}, {percent(band['high'])}]"
        )
    of_one = {"reward": "run", "reward_end": "end"}
    value = summary["raw_reward"][of_one[key]] if summary and key in of_one else None
    return None if value is None else Cell(percent(value))


def _evaluated(entry: Mapping[str, Any] | None, metric: str) -> Cell | None:
    if not entry or metric not in entry["metrics"]:
        return None
    band = entry.get("over_seeds", {}).get(metric)
    note = f"[{percent(band['low'])}, {percent(band['high'])}]" if band else ""
    return Cell(percent(entry["metrics"][metric]["value"]), note=note)


def _paper(study: Study, results: Mapping[str, Any]) -> list[Block]:
    """The paper's Pass@64 and this study's Pass@k after RL, as differences from cross-entropy."""
    reported = {
        arm: found
        for arm, own in study.arms.items()
        if not (own.checkpoint_of or own.prepare)
        and (found := paper.differences(shape_of(study, arm))) is not None
    }
    ours = {
        column: rows
        for column, rows in _ours(study, results).items()
        if any(arm in rows for arm in reported)
    }
    if not ours or study.arms[study.baseline].shape:
        return []
    rows = [
        [
            arm,
            *(f"{values[scale]:+.1f}" for scale in paper.SCALES),
            *(each.get(arm, NONE) for each in ours.values()),
        ]
        for arm, values in reported.items()
    ]
    columns = ("arm", *(f"paper, {scale}: Pass@64" for scale in paper.SCALES), *ours)
    return [
        Table(
            f"Pass@k after RL against {study.baseline}, points: the paper's and this study's",
            columns,
            rows,
        ),
        Text(
            "The paper's numbers are averages over its benchmarks at step 1000 of RL, one run each "
            "and without intervals. Model, task and scale differ from this study's, so that only "
            "the "
            "direction can be compared."
        ),
    ]


def _ours(study: Study, results: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Column → arm → difference in Pass@64, or at the largest k, in the last evaluation after RL.

    Intervals are over seeds if there are several, and otherwise over problems.
    """
    after = [
        s
        for s in stages_of(study, "eval")
        if study.stages[str(study.stages[s].model)].command == "rlvr"
    ]
    found: dict[str, dict[str, str]] = {}
    for regime, values in results["regimes"].items():
        effects = [row for row in results["effects"] if row["regime"] == regime]
        for benchmark, metrics in results["table_metrics"].items() if after else ():
            ks = [int(metric.split("@")[1]) for metric in metrics if metric.startswith("pass@")]
            shown = (study.baseline, after[-1], benchmark, f"pass@{64 if 64 in ks else max(ks)}")
            column = in_regime(regime, f"{benchmark}: {shown[-1].title()}")
            for row in [*values["differences"], *effects]:
                if tuple(row[key] for key in ("against", "stage", "benchmark", "metric")) == shown:
                    found.setdefault(column, {})[row["arm"]] = signed(row)
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
