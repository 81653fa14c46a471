"""The charts and the page of a study with planted effects show the numbers of its rows."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import check_layout
from html_pages import check_self_contained
from planted_study import ARMS, SEEDS, effect
from scipy import stats

from shaped_trl.study.reporting.charts import MEAN, Chart, charts, csv_of
from shaped_trl.study.reporting.drawing import plot_chart
from shaped_trl.study.reporting.reading import RegimeRuns


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.slow
def test_numbers_beside_a_picture_are_what_it_shows(
    folder: Path, read: list[RegimeRuns], results: dict[str, Any]
) -> None:
    drawn = charts(read, results)
    names = [
        "perplexity",
        "entropy",
        "policy_entropy",
        "response_length",
        "reward",
        "avg",
        "cons",
        "pass_at_k",
    ]
    # six arms, the exploratory one with dashes among them
    assert [chart.name for chart in drawn] == names
    for chart in drawn:
        text = csv_of(chart)
        assert (folder / f"report/{chart.name}.csv").read_text() == text
        check_axes(chart, rows_of(text))
    reward = rows_of(csv_of(drawn[4]))
    own = [
        row
        for row in reward
        if (row["regime"], row["arm"], row["x"], row["panel"]) == ("D", "cooled", "7", "rlvr")
    ]
    values = [float(row["y"]) for row in own if row["seed"] != MEAN]
    (mean,) = (row for row in own if row["seed"] == MEAN)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert len(values) == len(SEEDS)
    found = [float(mean[key]) for key in ("y", "low", "high")]
    assert found == pytest.approx([np.mean(values), interval.low, interval.high])


def check_axes(chart: Chart, rows: list[dict[str, str]]) -> None:
    """Every line and band of the figure is a mean's rows of the table, and the other way round."""
    figure = plot_chart(chart, list(ARMS), {"exponent"})
    panels, columns = (list(dict.fromkeys(row[key] for row in rows)) for key in ("panel", "regime"))
    assert len(figure.axes) == len(panels) * len(columns)
    for index, axis in enumerate(figure.axes):
        place = (panels[index // len(columns)], columns[index % len(columns)])
        here = [
            row for row in rows if (row["panel"], row["regime"]) == place and row["seed"] == MEAN
        ]
        assert [line.get_label() for line in axis.lines] == list(
            dict.fromkeys(row["arm"] for row in here)
        )
        for line, band in zip(axis.lines, axis.collections, strict=True):
            own = [row for row in here if row["arm"] == line.get_label()]
            assert list(line.get_ydata()) == [float(row["y"]) for row in own]
            x = list(line.get_xdata())
            assert [round(each) for each in x] == [
                chart.order.index(row["x"]) if chart.order else int(row["x"]) for row in own
            ]
            ends = {
                (place, float(row[end]))
                for place, row in zip(x, own, strict=True)
                for end in ("low", "high")
            }
            corners = {tuple(each) for path in band.get_paths() for each in path.vertices.tolist()}
            assert ends <= corners
            assert (line.get_linestyle() == "--") == (line.get_label() == "exponent")


def test_many_arms_leave_exploratory_ones_their_own_figures(
    regimes: list[RegimeRuns], results: dict[str, Any]
) -> None:
    study = regimes[0].study
    more = json.loads(json.dumps(results))
    for name in (names := [f"e{number}" for number in range(6)]):
        for runs in regimes:
            runs.study.arms[name] = study.arms["exponent"]
            for kind in (runs.logs, runs.evaluations):
                kind.update(
                    {
                        (name, stage): kind[arm, stage]
                        for arm, stage in list(kind)
                        if arm == "exponent"
                    }
                )
            more["regimes"][runs.study.regime]["arms"][name] = {"evaluations": {}}
    drawn = {chart.name: {line.arm for line in chart.lines} for chart in charts(regimes, more)}
    assert drawn["reward"] == set(ARMS) - {"exponent"}
    assert drawn["reward_exploratory_1"] == {"cross_entropy", "exponent", *names[:4]}
    assert drawn["reward_exploratory_2"] == {"cross_entropy", *names[4:]}
    (chart,) = (chart for chart in charts(regimes, more) if chart.name == "reward_exploratory_1")
    assert (
        len({line.get_color() for line in plot_chart(chart, list(study.arms), set()).axes[0].lines})
        == 6
    )
    for arm in ("precision_product", "diversity_product", "tail_penalty", "cooled"):
        for runs in regimes:
            del runs.study.arms[arm]
    assert "reward" not in {chart.name for chart in charts(regimes, more)}, (
        "nothing but the baseline"
    )


def test_the_page_begins_with_the_verdicts(folder: Path, results: dict[str, Any]) -> None:
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    check_self_contained(page)
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        "The paper's claims",
        "What was measured",
        "What was not shown",
        "What exploratory arms hint at",
        "What this study cannot show",
        "Pre-training",
        "Reinforcement learning",
        "Evaluation",
        "Averages by arm",
        "Settings",
    ]
    assert "it depends on the regime: shown in P, refuted in D" in text
    assert "No arm is cross-entropy sampled at a matched entropy" not in text
    assert "kind of data" not in text
    assert "Differences smaller than these would probably have been missed" in text
    assert (
        "the entropy of precision_product (P: 0.835, 0.800 to 0.870; D: 0.835, 0.800 to 0.870)"
        in text
    )
    # the paper's 50.43 − 50.99 and 50.75 − 47.52 for β = −.25, and this study's in each regime
    rows = [
        effect(results, each, "precision_product", "cross_entropy", "eval_rlvr", "pass@8")
        for each in ("P", "D")
    ]
    ours = [
        "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * r[key] for key in ("value", "low", "high")))
        for r in rows
    ]
    assert f"| precision_product | -0.6 | +3.2 | {ours[0]} | {ours[1]} |" in text
    assert "one run each and without intervals" in text


def test_the_page_fits_the_screens_of_a_desk_and_of_a_phone(folder: Path, tmp_path: Path) -> None:
    pictures = list((folder / "report").glob("*.png"))
    assert len(pictures) >= 8
    check_layout((folder / "report.html").read_text(), tmp_path, len(pictures))
