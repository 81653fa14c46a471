"""What a report says about a study's contrasts, from the content of results.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from shaped_eval.reporting.document import Block, Details, Heading, Image, Items, Table, Text

from shaped_trl.study.power import seeds_text
from shaped_trl.study.reporting.contrast_results import MEAN, PRIMARY, SECONDARY
from shaped_trl.study.reporting.forest import NAME, NOT_JUDGED, scale, unit
from shaped_trl.study.reporting.verdicts import WORSE
from shaped_trl.study.reporting.wording import (
    METRICS,
    NONE,
    censored_note,
    effect_number,
    in_regime,
)

Rows = Sequence[Mapping[str, Any]]


def first_screen(results: Mapping[str, Any], png: bytes) -> list[Block]:
    """The figure of the contrasts, then one sentence for each claim."""
    row = _rows(results, PRIMARY)[0]
    caption = (
        f"{_where(row)}: differences paired by seed with 95% intervals. The band is the margin of "
        f"equivalence, ± {scale(row) * row['margin']:g} {unit(row)}."
    )
    sentences = claim_sentences(results)
    alt = f"Forest plot. {' '.join(sentences)}"
    return [Image(f"report/{NAME}.png", caption, png, alt), Items(sentences)]


def claim_sentences(results: Mapping[str, Any]) -> list[str]:
    """One sentence for each claim, with the verdict on each of its contrasts in each regime."""
    return [
        f"{text}: {'; '.join(_contrast_texts(results, claim))}."
        for claim, text in results["contrast_claims"].items()
    ]


def _contrast_texts(results: Mapping[str, Any], claim: str) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    for row in _rows(results, PRIMARY):
        if row["claim"] == claim:
            pair = f"{row['arm']} against {row['against']}"
            groups.setdefault(pair, []).append(_verdict_text(row))
    for pair, verdicts in groups.items():
        yield f"{pair} is {', '.join(verdicts)}"


def _verdict_text(row: Mapping[str, Any]) -> str:
    """Such as "better in P (+2.1 [+1.0, +3.2] points)"."""
    there = f" in {row['regime']}" if row["regime"] else ""
    if "planned" in row:
        return f"{NOT_JUDGED}{there} ({row['seeds']} of {row['planned']} seeds so far)"
    if row["verdict"] is None:
        why = "fewer than two seeds" if row["seeds"] < 2 else "a value is not a finite number"
        return f"{NOT_JUDGED}{there} ({why})"
    notes = [effect_number(row)]
    if row["exploratory"]:
        notes.append("exploratory")
    elif row["verdict"] == WORSE:
        notes.append(f"the claim is refuted{' there' if there else ''}")
    return f"{row['verdict']}{there} ({'; '.join(notes)})"


def contrast_section(results: Mapping[str, Any]) -> list[Block]:
    """The rule of the verdicts, their tables, the secondary metrics, and the pre-registration."""
    primary = _rows(results, PRIMARY)
    document: list[Block] = [Heading("Verdicts"), Text(_rule(results, primary[0]))]
    document += [
        _verdict_table(regime, [row for row in primary if row["regime"] == regime])
        for regime in results["regimes"]
    ]
    if chosen := list(_chosen(primary)):
        document += [Text("The arms that were chosen, with the number of seeds:"), Items(chosen)]
    if means := _rows(results, MEAN):
        caption = "Mean over regimes, with 95% t intervals over seeds: descriptive, not a verdict"
        document.append(_difference_table(caption, means))
    for regime in results["regimes"]:
        rows = [row for row in _rows(results, SECONDARY) if row["regime"] == regime]
        if rows:
            caption = "Secondary metrics, with 95% t intervals and without verdicts"
            document.append(_folded(_difference_table(in_regime(regime, caption), rows)))
    document.append(_folded(_power_table(results, primary)))
    return document + _registration(results.get("registration", []), "study_edited" in results)


def _rows(results: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    return [row for row in results["contrasts"] if row["kind"] == kind]


def _where(row: Mapping[str, Any]) -> str:
    """The metric with its stage and benchmark."""
    places = ", ".join(place for place in (row["stage"], row["benchmark"]) if place)
    return f"{METRICS.get(row['metric'], row['metric'])} ({places})"


def _rule(results: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    family = len({(each["claim"], each["arm"], each["against"]) for each in results["contrasts"]})
    margin = f"{scale(row) * row['margin']:g} {unit(row)}"
    return (
        f"The study's file names {family} contrasts and one primary metric, {_where(row)}. A "
        "contrast is better or worse if a two-sided t test, paired by seed, has p < 0.05 after "
        "Holm's correction within the family of all contrasts of a regime. Otherwise it is "
        f"equivalent if its 90% interval lies within ± {margin}, which two one-sided tests at 5% "
        "amount to. Otherwise it is open, which says nothing for or against the claim. A claim is "
        "refuted where one of its contrasts is worse. Nothing else in this report is a "
        "verdict."
    )


def _verdict_table(regime: str, rows: Rows) -> Table:
    columns = (
        *("claim", "arm", "against", "difference", "90% interval", "p", "p, corrected"),
        *("verdict", "seeds"),
    )
    cells = [
        [
            row["claim"],
            row["arm"],
            row["against"],
            NONE if row["value"] is None else effect_number(row),
            NONE if row["value"] is None else _interval90(row),
            _p(row["p"]),
            _p(row["p_holm"]),
            f"{row['verdict'] or NOT_JUDGED}{' (exploratory)' if row['exploratory'] else ''}",
            str(row["seeds"]),
        ]
        for row in rows
    ]
    return Table(in_regime(regime, f"Contrasts in {_where(rows[0])}"), columns, cells)


def _interval90(row: Mapping[str, Any]) -> str:
    low, high = (scale(row) * row[name] for name in ("low90", "high90"))
    return f"[{low:+.1f}, {high:+.1f}]" if row["unit"] == "share" else f"[{low:+.3g}, {high:+.3g}]"


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _chosen(rows: Rows) -> Iterator[str]:
    for row in rows:
        for side, name in enumerate((row["arm"], row["against"])):
            counts = Counter(arms[side] for arms in row.get("chosen", {}).values())
            if len(counts) > 0 and name not in counts:
                found = ", ".join(f"{arm} {count}" for arm, count in counts.most_common())
                yield in_regime(row["regime"], f"{name}: {found}")


def _difference_table(caption: str, rows: Rows) -> Table:
    columns = ("metric", "arm", "against", "difference", "seeds")
    cells = [
        [
            _where(row) + censored_note(row),
            *(row["arm"], row["against"], effect_number(row), str(row["seeds"])),
        ]
        for row in rows
    ]
    return Table(caption, columns, cells)


def _power_table(results: Mapping[str, Any], primary: Rows) -> Table:
    """The power from the pilot's standard deviations, and from those that were observed."""
    planned = [
        [f"{_regime(row)}planned", f"{row['sd']:.3g}", str(row["seeds"]), *_power_cells(row)]
        for row in results["power"]
    ]
    observed = [
        [
            f"{_regime(row)}{row['arm']} against {row['against']}",
            f"{row['sd']:.3g}",
            str(row["seeds"]),
            *_power_cells(row["power"]),
        ]
        for row in primary
        if row["power"]
    ]
    margin = f"{scale(primary[0]) * primary[0]['margin']:g} {unit(primary[0])}"
    columns = (
        *("", "sd", "seeds", f"finds {margin}", "shows equivalence"),
        *("seeds for 80%, difference", "seeds for 80%, equivalence"),
    )
    caption = "Power: to find a true difference of the margin at the first step of Holm's "
    caption += "correction (a lower bound), and to show equivalence if the true difference is 0"
    return Table(caption, columns, planned + observed)


def _regime(row: Mapping[str, Any]) -> str:
    return f"{row['regime']}: " if row["regime"] else ""


def _power_cells(power: Mapping[str, Any]) -> list[str]:
    shares = [
        NONE if power[name] is None else f"{power[name]:.0%}"
        for name in ("difference", "equivalence")
    ]
    return shares + [
        seeds_text(power[name]) for name in ("seeds_for_difference", "seeds_for_equivalence")
    ]


def _folded(table: Table) -> Details:
    return Details(table.caption, [table])


def _registration(rows: Rows, edited: bool) -> list[Block]:
    """Which file the study was registered as, and what was changed after the first record.

    Of several starts before that record, the last one counts.
    """
    heading = Heading("Pre-registration", 3)
    if not rows:
        return [heading, Text("The study was started before studies were registered.")]
    (first,) = [*takewhile(lambda row: not row["records"], rows)][-1:] or rows[:1]
    when = (
        f"after {first['records']} runs had been recorded"
        if first["records"]
        else ("before the first record")
    )
    if first["commit"]:
        where = f"committed in {first['commit']}"
    else:
        where = "not committed unchanged in a repository"
    sentence = (
        f"The study was registered on {first['date']}, {when}. Its file had the SHA-256 "
        f"{first['study_sha256'] or 'unknown'} and was {where}. The commit of shaped-trl was "
        f"{first['shaped_trl_commit'] or 'unknown'}."
    )
    if edited:
        sentence += (
            " study.yaml in the study's folder was edited since the last start: this report judges "
            "by other settings than the runs were started with."
        )
    later = [row for row in rows if row["changes"] and row["records"]]
    if not later:
        return [heading, Text(f"{sentence} Nothing was changed at a start after the first record.")]
    changes = [
        f"{row['date']}, after {row['records']} records: {change}"
        for row in later
        for change in row["changes"]
    ]
    changed = Text(f"{sentence} What was changed at a start after the first record:")
    return [heading, changed, Items(changes)]
