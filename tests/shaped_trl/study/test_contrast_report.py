"""The report of a study with contrasts: rows, choice of arms, sentences, figure and tables."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from browser import check_layout
from contrast_values import PLANTED, contrasted_report
from html_pages import check_self_contained
from scipy import stats
from shaped_eval.errors import UserError
from shaped_eval.records import append_jsonl
from shaped_eval.reporting.document import to_markdown

from shaped_trl.study.loading import load_study
from shaped_trl.study.records import add_record
from shaped_trl.study.registration import REGISTRATION, read_registration
from shaped_trl.study.report import report_study
from shaped_trl.study.reporting.contrast_pages import claim_sentences, contrast_section
from shaped_trl.study.reporting.contrast_results import MEAN, PRIMARY, SECONDARY, contrast_rows
from shaped_trl.study.reporting.effects import holm
from shaped_trl.study.reporting.forest import forest_csv, forest_rows, plot_forest
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.results import read_regimes
from shaped_trl.study.state import PLANNED, write_state

pytestmark = pytest.mark.slow

SEEDS, N = range(8), 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contrasted_report(tmp_path_factory, exploratory_regimes=["D"])


def find(results: dict[str, Any], kind: str, regime: str, arm: str, **more: str) -> dict[str, Any]:
    labels = {"kind": kind, "regime": regime, "arm": arm, **more}
    (row,) = (row for row in results["contrasts"] if labels.items() <= row.items())
    return row


def shares(runs: RegimeRuns, arm: str, stage: str = "eval_rlvr") -> np.ndarray:
    """Share of passes [seeds, problems]."""
    found = runs.evaluations[arm, stage]
    return np.array([found[seed]["running_sums"].passes_P / N for seed in SEEDS])


def test_primary_rows_are_paired_tests(read: list[RegimeRuns], results: dict[str, Any]) -> None:
    for runs in read:
        regime = runs.study.regime
        rows = [
            row for row in results["contrasts"] if (row["kind"], row["regime"]) == (PRIMARY, regime)
        ]
        assert len(rows) == 4
        corrected = holm([row["p"] for row in rows])
        for row, p_holm in zip(rows[:3], corrected, strict=False):
            shifts = (shares(runs, row["arm"]) - shares(runs, row["against"])).mean(axis=1)
            test = stats.ttest_1samp(shifts, 0)
            wide, narrow = (test.confidence_interval(level) for level in (0.95, 0.9))
            expected = [shifts.mean(), wide.low, wide.high, narrow.low, narrow.high]
            names = ("value", "low", "high", "low90", "high90")
            assert [row[name] for name in names] == pytest.approx(expected, abs=1e-11)
            assert row["p"] == pytest.approx(test.pvalue)
            assert row["p_holm"] == p_holm
            assert row["sd"] == pytest.approx(shifts.std(ddof=1))
            assert (row["seeds"], row["margin"], row["unit"]) == (8, 0.05, "share")
            assert list(row["by_seed"].values()) == pytest.approx(list(shifts))
            assert row["exploratory"] == (regime == "D")
    verdicts = {
        (row["regime"], row["arm"], row["against"]): row["verdict"]
        for row in forest_rows(results)
        if row["arm"] in ("precision_product", "tail_penalty")
    }
    assert verdicts == {
        ("P", "precision_product", "cross_entropy"): "better",
        ("P", "precision_product", "cooled"): "equivalent",
        ("P", "tail_penalty", "cross_entropy"): "equivalent",
        ("D", "precision_product", "cross_entropy"): "worse",
        ("D", "precision_product", "cooled"): "worse",
        ("D", "tail_penalty", "cross_entropy"): "equivalent",
    }


def test_arms_are_chosen_on_the_first_problems_and_compared_on_the_others(
    read: list[RegimeRuns], results: dict[str, Any]
) -> None:
    sides = (("precision_product", "diversity_product"), ("cross_entropy", "cooled"))
    for runs in read:
        (row,) = (
            row
            for row in results["contrasts"]
            if row["kind"] == PRIMARY and row["claim"] == "tuned"
            if row["regime"] == runs.study.regime
        )
        assert row["arm"] == "best of precision_product, diversity_product"
        for seed in SEEDS:
            chosen = []
            for arms in sides:
                # of equals, the one that is named first
                means = [shares(runs, arm)[seed, :4].mean() for arm in arms]
                chosen.append(arms[int(np.argmax(means))])
            assert row["chosen"][str(seed)] == chosen
            own, other = (shares(runs, arm)[seed, 4:].mean() for arm in chosen)
            assert row["by_seed"][str(seed)] == pytest.approx(own - other)
        secondary = find(results, SECONDARY, runs.study.regime, row["arm"], metric="cons@8")
        votes = [
            [
                runs.evaluations[arm, "eval_rlvr"][seed]["running_sums"].votes_P[4:].mean()
                for arm in row["chosen"][str(seed)]
            ]
            for seed in SEEDS
        ]
        assert secondary["value"] == pytest.approx(-np.diff(votes).mean())


def test_secondary_metrics_have_intervals_without_verdicts(results: dict[str, Any]) -> None:
    rows = [row for row in results["contrasts"] if row["kind"] == SECONDARY]
    # cooled does not train, so that its contrast has no entropy; of the chosen arms some do
    assert {row["metric"] for row in rows} == {"cons@8", "reward", "entropy"}
    assert not any({"verdict", "p", "p_holm"} & row.keys() for row in rows)
    entropy = [row for row in rows if row["metric"] == "entropy" and row["against"] == "cooled"]
    assert entropy == []
    (effect,) = (
        row
        for row in results["effects"]
        if (row["regime"], row["metric"], row["arm"], row["against"])
        == ("P", "reward", "tail_penalty", "cross_entropy")
    )
    own = find(results, SECONDARY, "P", "tail_penalty", metric="reward")
    for name in ("value", "low", "high", "sd", "seeds", "unit"):
        assert own[name] == effect[name]


def test_a_mean_over_regimes_is_of_the_seeds_that_all_have(results: dict[str, Any]) -> None:
    row = find(results, MEAN, "", "precision_product", against="cooled")
    each = [
        find(results, PRIMARY, regime, "precision_product", against="cooled")["by_seed"]
        for regime in ("P", "D")
    ]
    interval = stats.ttest_1samp(
        [np.mean([by_seed[str(seed)] for by_seed in each]) for seed in SEEDS], 0
    ).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=1e-11)
    assert row["seeds"] == 8
    assert "verdict" not in row


def test_one_sentence_for_each_claim(results: dict[str, Any]) -> None:
    sentences = claim_sentences(results)
    assert len(sentences) == len(PLANTED["claims"])
    first = sentences[0]
    assert first.startswith(
        "A precision prior gives better RL: precision_product against cross_entropy is better in P "
        "(+10.2 [+7.2, +13.1] points), worse in D (-10.0 [-13.8, -6.2] points; exploratory); "
    )
    assert first.endswith(").")
    assert "refuted" not in "".join(sentences), "an exploratory regime refutes nothing"


def test_refuted_is_a_word_for_worse_alone(results: dict[str, Any]) -> None:
    confirmatory = json.loads(json.dumps(results))
    for row in confirmatory["contrasts"]:
        row["exploratory"] = False
    sentences = claim_sentences(confirmatory)
    rows = [row for row in confirmatory["contrasts"] if row["kind"] == PRIMARY]
    worse = sum(row["verdict"] == "worse" for row in rows)
    assert worse >= 2
    assert sum(text.count("refuted") for text in sentences) == worse
    assert sum(text.count("is refuted there") for text in sentences) == worse
    for row in rows:
        row["verdict"] = "open"
    assert "refuted" not in "".join(claim_sentences(confirmatory))
    for row in rows:
        row["verdict"], row["value"], row["seeds"] = None, None, 1
    assert "not judged in P (fewer than two seeds)" in claim_sentences(confirmatory)[0]


def test_the_figure_shows_the_numbers_beside_it(folder: Path, results: dict[str, Any]) -> None:
    rows = forest_rows(results)
    text = (folder / "report/contrasts.csv").read_text()
    assert text == forest_csv(rows)
    read = list(csv.DictReader(io.StringIO(text)))
    assert len(read) == 8
    assert (folder / "report/contrasts.png").read_bytes().startswith(b"\x89PNG")
    figure = plot_forest(rows)
    assert [axis.get_title() for axis in figure.axes] == ["P", "D (exploratory)"]
    for axis, regime in zip(figure.axes, ("P", "D"), strict=True):
        here = [row for row in read if row["regime"] == regime]
        words = [label.get_text() for label in axis.texts]
        assert words == [row["verdict"] for row in here]
        # of each contrast an interval and a point; apart from them the line at 0 and two that
        # separate the claims
        intervals = [line for line in axis.lines if line.get_marker() == "None"]
        drawn = [line for line in intervals if len(set(line.get_xdata())) == 2]
        own = [line for line in drawn if max(line.get_xdata()) != 1]
        expected = [[100 * float(row[end]) for end in ("low", "high")] for row in here]
        assert np.array([line.get_xdata() for line in own]) == pytest.approx(np.array(expected))
        assert {line.get_linestyle() for line in own} == {"-" if regime == "P" else "--"}
        points = [line for line in axis.lines if line.get_marker() != "None"]
        assert [line.get_marker() for line in points] == [
            {"better": "^", "worse": "v", "equivalent": "s", "open": "o"}[word] for word in words
        ]
        (band,) = axis.patches
        assert band.get_x() == pytest.approx(-5)
        assert band.get_width() == pytest.approx(10)


def test_a_row_without_two_seeds_is_drawn_as_not_judged(results: dict[str, Any]) -> None:
    rows = forest_rows(results)[:1]
    empty = {"value": None, "low": None, "high": None, "verdict": None, "seeds": 1}
    figure = plot_forest([rows[0] | empty])
    assert [label.get_text() for label in figure.axes[0].texts] == ["not judged"]
    assert forest_csv([rows[0] | empty]).splitlines()[1].endswith(",")


def test_the_page_begins_with_the_figure_and_the_claims(
    folder: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    check_self_contained(page)
    check_layout(page, tmp_path, len(list((folder / "report").glob("*.png"))))
    blocks = text.split("\n\n")
    assert blocks[0] == "# Study: planted"
    assert blocks[1].endswith("(report/contrasts.png)")
    assert blocks[3].count("\n- ") == 2
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings[:3] == ["Verdicts", "What was measured", "What this study cannot show"]
    assert results["claims"] == []
    assert "The paper's claims" not in text
    assert "corrected among the arms for each stage and metric" not in text
    assert "P: planned | 0.02 | 8 |" in text
    assert "descriptive, not a verdict" in text


@pytest.fixture
def changed(folder: Path, tmp_path: Path) -> Any:
    """Compute the rows of a copy with other contrasts."""

    def rows(**changes: Any) -> dict[str, Any]:
        out = tmp_path / "copy"
        if not out.exists():
            shutil.copytree(folder, out)
        values = yaml.safe_load((out / "study.yaml").read_text())
        values["contrasts"] = PLANTED | changes
        (out / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        regimes = read_regimes(load_study(out / "study.yaml", out))
        return {"contrasts": contrast_rows(regimes)}

    return rows


@pytest.mark.parametrize(
    ("primary", "named"),
    [
        ({"metric": "avg@4"}, "avg@4 is not measured on running_sums, which has 8 samples"),
        ({"metric": "cons@9"}, "choose avg@8, cons@8 or pass@K with K up to 8"),
        ({"metric": "pass@9"}, "pass@9 is not measured"),
        (
            {"benchmark": "sums"},
            "eval_rlvr does not evaluate the benchmark 'sums'; choose from run",
        ),
    ],
)
def test_a_metric_that_was_not_measured_is_refused(
    changed: Any, primary: dict[str, str], named: str
) -> None:
    with pytest.raises(UserError) as caught:
        changed(primary=PLANTED["primary"] | primary)
    assert named in str(caught.value)


def test_a_choice_on_all_problems_is_refused(changed: Any) -> None:
    claims = json.loads(json.dumps(PLANTED["claims"]))
    claims["tuned"]["compare"][0]["choose_on"] = 12
    with pytest.raises(UserError, match="12 leaves none of the 12 problems of running_sums"):
        changed(claims=claims)


def test_pass_at_k_and_the_reward_can_be_judged(changed: Any) -> None:
    found = changed(primary=PLANTED["primary"] | {"metric": "pass@2"})
    row = find(found, PRIMARY, "P", "tail_penalty")
    assert (row["metric"], row["seeds"]) == ("pass@2", 8)
    claims = {name: claim for name, claim in PLANTED["claims"].items() if name != "tuned"}
    found = changed(primary={"stage": "rlvr", "metric": "reward"}, claims=claims)
    effect = find(found, SECONDARY, "P", "tail_penalty", metric="reward")
    assert find(found, PRIMARY, "P", "tail_penalty")["value"] == effect["value"]


def test_a_secondary_metric_has_the_seeds_that_measured_it(folder: Path) -> None:
    """What was measured before RL does not wait for RL."""
    regimes = read_regimes(load_study(folder / "study.yaml", folder))
    for seed in (0, 1, 2):
        del regimes[0].evaluations["tail_penalty", "eval_rlvr"][seed]
    results = {"contrasts": contrast_rows(regimes)}
    assert find(results, PRIMARY, "P", "tail_penalty")["seeds"] == 5
    assert find(results, SECONDARY, "P", "tail_penalty", metric="cons@8")["seeds"] == 5
    assert find(results, SECONDARY, "P", "tail_penalty", metric="reward")["seeds"] == 8


def test_unfinished_seeds_are_left_out(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(folder, out)
    values = yaml.safe_load((out / "study.yaml").read_text())
    values["arms"]["tail_penalty"]["seeds"] = [3]
    values["arms"]["cooled"]["seeds"] = [0, 1, 2, 3, 4]
    (out / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    report_study(out)
    results = json.loads((out / "results.json").read_text())
    row = find(results, PRIMARY, "P", "tail_penalty")
    assert (row["seeds"], row["verdict"], row["value"]) == (1, None, None)
    other = find(results, PRIMARY, "P", "precision_product", against="cooled")
    assert (other["seeds"], other["verdict"]) == (5, "equivalent")
    assert (
        "tail_penalty against cross_entropy is not judged in P" in (out / "report.md").read_text()
    )


def test_nothing_is_judged_before_its_last_seed(folder: Path, tmp_path: Path) -> None:
    """A verdict on the first seeds would let one stop when it suits."""
    out = tmp_path / "copy"
    shutil.copytree(folder, out)
    values = yaml.safe_load((out / "study.yaml").read_text())
    values["seeds"] = [*SEEDS, 8]
    (out / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))

    def reported() -> dict[str, Any]:
        report_study(out)
        return json.loads((out / "results.json").read_text())

    def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
        return [row for row in found["contrasts"] if row["kind"] == PRIMARY]

    before = rows(json.loads((folder / "results.json").read_text()))
    for row, earlier in zip(rows(reported()), before, strict=True):
        assert row == earlier | {"p_holm": None, "verdict": None, "planned": 9}
    text = (out / "report.md").read_text()
    assert "cross_entropy is not judged in P (8 of 9 seeds so far)" in text
    assert "better" not in text.split("## ")[0].replace("gives better RL", "")

    # a failure with earlier settings says nothing about the run that is still to come
    settings = {"P/cross_entropy/seed8/pretrain": "now", "D/cooled/seed8/rlvr": "now"}
    write_state(out, PLANNED, settings)
    for key in settings:
        add_record(out, key, {"fingerprint": "before", "why": "killed"})
    assert not any(row["verdict"] for row in rows(reported()))
    assert not json.loads((out / "results.json").read_text())["failed"]

    # what failed is not waited for, nor are the runs that need it
    for regime, arm, stage in (("P", "cross_entropy", "pretrain"), ("D", "cooled", "rlvr")):
        failure = {"fingerprint": "now", "why": "killed"}
        add_record(out, f"{regime}/{arm}/seed8/{stage}", failure)
    found = rows(reported())
    judged = [row["verdict"] is not None for row in found]
    own = [row["regime"] == "P" or "cooled" in row["against"] for row in found]
    assert judged == own, "each contrast waits for its own arms"
    assert all((row["verdict"] is None) == ("planned" in row) for row in found)
    # contrasts that are under way count as not significant, so no verdict is withdrawn later
    in_D = sorted((row for row in found if row["regime"] == "D"), key=lambda row: row["p"])
    one, two = (row for row in in_D if row["verdict"])
    low, high = min(1, len(in_D) * one["p"]), min(1, (len(in_D) - 1) * two["p"])
    assert [one["p_holm"], two["p_holm"]] == pytest.approx([low, max(low, high)])


def test_the_report_shows_the_registration(results: dict[str, Any], tmp_path: Path) -> None:
    def text() -> str:
        rows = [vars(row) for row in read_registration(tmp_path)]
        return to_markdown("", contrast_section(results | {"registration": rows}))

    first = {
        "date": "2026-01-02T03:04:05+00:00",
        "study_sha256": "a" * 64,
        "commit": "b" * 40,
        "shaped_trl_commit": None,
    }
    append_jsonl(tmp_path / REGISTRATION, [first | {"study_sha256": "c" * 64}, first])
    assert f"SHA-256 {'a' * 64} and was committed in {'b' * 40}" in text()
    assert "before the first record" in text()
    assert "c" * 64 not in text(), "another file had replaced it by the first record"
    assert "Nothing was changed at a start after the first record." in text()
    early = first | {"changes": ["seeds: [0] -> [0, 1]"], "records": 0}
    late = first | {"changes": ["contrasts.margin: 0.01 -> <b>"], "records": 7}
    append_jsonl(tmp_path / REGISTRATION, [early, late])
    assert "after 7 records: contrasts.margin: 0.01 -" in text()
    assert "seeds: [0" not in text(), "it was changed before the first record"
    assert "<b>" not in text()
    late_first = first | {"commit": None, "records": 3}
    (tmp_path / REGISTRATION).write_text(json.dumps(late_first) + "\n")
    assert "after 3 runs had been recorded" in text()
    assert "not committed unchanged in a repository" in text()
    (tmp_path / REGISTRATION).unlink()
    assert "started before studies were registered" in text()
