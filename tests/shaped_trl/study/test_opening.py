"""The first screen of a report: the differences behind the verdicts, and a sentence a claim."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from known_study import write_study
from planted_study import SEEDS
from shaped_eval.reporting.document import Image, Items, Notes

from shaped_trl.study.report import report_study
from shaped_trl.study.reporting.claim_figure import ClaimFigure, figure_csv, plot_claims
from shaped_trl.study.reporting.opening import claim_figure, opening
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.results import collect

pytestmark = pytest.mark.slow

FIGURE = Image("report/claims.png", "caption", b"")


@pytest.fixture(scope="module")
def drawn(read: list[RegimeRuns], results: dict[str, Any]) -> ClaimFigure:
    found = claim_figure(read, results)
    assert found is not None
    return found


def test_the_report_begins_with_the_figure_and_a_sentence_a_claim(
    folder: Path, results: dict[str, Any]
) -> None:
    first, *others = (folder / "report.md").read_text().split("\n\n")[1:]
    assert "(report/claims.png)" in first
    assert (folder / "report/claims.png").read_bytes().startswith(b"\x89PNG")
    sentences = others[0].splitlines()
    assert len(sentences) == len(results["claims"]) > 3
    for sentence, claim in zip(sentences, results["claims"], strict=True):
        assert sentence.startswith(
            f"- {claim['text'].replace('<', '&lt;')}: {claim['verdict']}; P: "
        )
    (better,) = (s for s in sentences if "precision_product against cross_entropy" in s)
    (row,) = (
        row
        for row in results["effects"]
        if (row["regime"], row["arm"], row["against"], row["metric"])
        == ("D", "precision_product", "cross_entropy", "reward")
    )
    numbers = (100 * row[key] for key in ("value", "low", "high"))
    assert "; D: reward over the run {:+.1f} [{:+.1f}, {:+.1f}] points".format(*numbers) in better


def test_the_figure_has_the_differences_behind_the_verdicts(
    folder: Path, drawn: ClaimFigure, results: dict[str, Any]
) -> None:
    text = figure_csv(drawn)
    assert (folder / "report/claims.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    claims = {claim["text"]: claim for claim in results["claims"]}
    assert {row["panel"] for row in rows} == set(claims)
    for row in rows:
        assert row["verdict"] == claims[row["panel"]]["regimes"][row["regime"]]["verdict"]
        scale = 1 if row["unit"] == "nats" else 100
        behind = [
            (
                sorted(abs(scale * each[key]) for key in ("value", "low", "high")),
                each["p_corrected"] is not None and each["p_corrected"] < 0.05,
            )
            for each in results["effects"]
            if each["regime"] == row["regime"]
        ]
        numbers = sorted(abs(float(row[key])) for key in ("value", "low", "high"))
        assert (numbers, row["filled"] == "yes") in behind
    # The claim of a verdict "shown" has only differences that are shown, of the claimed sign.
    shown = [
        row
        for row in rows
        if row["panel"].startswith("A precision prior") and row["verdict"] == "shown"
    ]
    assert len(shown) == 2
    assert all(row["filled"] == "yes" and float(row["low"]) > 0 for row in shown)


def test_the_figure_shows_its_numbers(drawn: ClaimFigure) -> None:
    figure = plot_claims(drawn)
    assert len(figure.axes) == 2 * len(drawn.panels)
    for number, panel in enumerate(drawn.panels):
        for axis, regime in zip(figure.axes[2 * number :], ("P", "D"), strict=False):
            bars = [bar for bar in panel.bars if bar.regime == regime]
            points = [line for line in axis.lines if line.get_marker() == "o"]
            assert [line.get_xdata()[0] for line in points] == [bar.value for bar in bars]
            labels = list(dict.fromkeys(bar.label for bar in panel.bars))
            assert [labels[int(line.get_ydata()[0])] for line in points] == [b.label for b in bars]
            spans = [collection.get_segments()[0][:, 0].tolist() for collection in axis.collections]
            assert spans == [[bar.low, bar.high] for bar in bars]
            hollow = [line.get_markerfacecolor() == "white" for line in points]
            assert hollow == [not bar.filled for bar in bars]
    (alike,) = (panel for panel in drawn.panels if panel.unit == "%")
    assert alike.band == pytest.approx(5)  # the study's nll_within


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    write_study(tmp_path / "out")
    report_study(tmp_path / "out")
    first = (tmp_path / "out/report.md").read_text().split("\n\n")[1]
    assert first.startswith("> - One training seed decides nothing about training")
    assert not (tmp_path / "out/report/claims.png").exists()


def test_without_a_pair_of_seeds_nothing_is_decided(
    regimes: list[RegimeRuns], results: dict[str, Any]
) -> None:
    for runs in regimes:
        for kind in (runs.logs, runs.evaluations):
            for by_seed in kind.values():
                for seed in SEEDS[1:]:
                    by_seed.pop(seed, None)
    (note,) = opening(regimes, collect(regimes), None)
    assert isinstance(note, Notes)
    assert note.items[0].startswith("No two arms have two finished seeds")
    figure, sentences = opening(regimes, results, FIGURE)
    assert figure is FIGURE
    assert isinstance(sentences, Items)


def test_contrasts_stand_in_place_of_the_claims(
    read: list[RegimeRuns], results: dict[str, Any]
) -> None:
    assert opening(read, results | {"contrasts": [{}]}, FIGURE) == []
