"""The report of rows with known numbers, which are computed again here from their counts."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from html_pages import check_self_contained
from known_study import COUNTS, ENTROPY, NLL, write_study
from scipy import stats
from shaped_eval.errors import UserError
from shaped_eval.records import append_jsonl
from study_rows import BENCHMARK, N, write_evaluation

from shaped_trl.study.loading import load_study
from shaped_trl.study.report import report_study
from shaped_trl.study.reporting.findings import find, is_shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "known"
    write_study(out)
    assert report_study(out) == out / "report.html"
    return out


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def only(results: dict[str, Any]) -> dict[str, Any]:
    """The results of the one regime that the study has."""
    assert list(results["regimes"]) == [""]
    return results["regimes"][""]


def pass_at(c: int, k: int) -> float:
    return 1 - math.comb(N - c, k) / math.comb(N, k)


def test_training_and_rl_summaries(only: dict[str, Any]) -> None:
    training = only["arms"]["precision_exponent"]["training"]["pretrain"]
    assert training == {
        "source": "held-out",
        "nll": NLL["precision_exponent"],
        "perplexity": pytest.approx(math.exp(NLL["precision_exponent"]), rel=1e-12),
        "entropy": ENTROPY["precision_exponent"],
        "seeds": 1,
        "steps": 100,
        "tokens": 10_000,
    }
    rl = only["arms"]["cross_entropy"]["rl"]["rlvr"]
    assert rl["raw_reward"] == {"run": pytest.approx(10.5 / 40), "end": pytest.approx(19.5 / 40)}
    assert rl["clip_ratio"] == {"run": None, "end": None}
    assert rl["steps"] == 20


def test_metrics_are_those_of_the_counts(only: dict[str, Any]) -> None:
    for (arm, stage), counts in COUNTS.items():
        entry = only["arms"][arm]["evaluations"][stage][BENCHMARK]
        assert (entry["problems"], entry["n"]) == (12, N)
        cut = sum(c < N for c in counts) / (12 * N)
        assert entry["truncated"] == pytest.approx(cut)
        assert entry["unparsed"] == pytest.approx(cut)
        metrics = entry["metrics"]
        assert set(metrics) == {"avg@8", "cons@8", "pass@1", "pass@2", "pass@4", "pass@8"}
        assert metrics["avg@8"]["value"] == pytest.approx(np.mean(counts) / N)
        assert metrics["pass@1"] == metrics["avg@8"]
        assert metrics["pass@4"]["value"] == pytest.approx(np.mean([pass_at(c, 4) for c in counts]))
        # c votes for gold against N − c − 1 for the one wrong answer; a tie counts half.
        votes = [
            0.0 if c == 0 else 1.0 if c > N - c - 1 else 0.5 * (c == N - c - 1) for c in counts
        ]
        assert metrics["cons@8"]["value"] == pytest.approx(np.mean(votes))
        assert all(m["low"] <= m["value"] <= m["high"] for m in metrics.values())


def test_differences_are_paired_and_judged(only: dict[str, Any]) -> None:
    rows = {(row["stage"], row["metric"]): row for row in only["differences"]}
    assert {metric for _, metric in rows} == {"avg@8", "cons@8", "pass@8"}
    before = rows["eval_pretrain", "avg@8"]
    pairs = zip(
        COUNTS["precision_exponent", "eval_pretrain"],
        COUNTS["cross_entropy", "eval_pretrain"],
        strict=True,
    )
    assert before["value"] == pytest.approx(np.mean([a - b for a, b in pairs]) / N)
    # 12 differences of one sign: 2 of 2^12 sign flips are as extreme.
    assert before["p_value"] == pytest.approx(2 / 2**12)
    assert is_shown(before)
    assert not is_shown(rows["eval_rlvr", "avg@8"])
    gain = next(
        row for row in only["gains"] if (row["arm"], row["metric"]) == ("cross_entropy", "avg@8")
    )
    rise = np.sum(COUNTS["cross_entropy", "eval_rlvr"]) - np.sum(
        COUNTS["cross_entropy", "eval_pretrain"]
    )
    assert gain["value"] == pytest.approx(rise / (12 * N))
    assert (gain["from"], gain["stage"]) == ("eval_pretrain", "eval_rlvr")


def test_words_follow_the_numbers(results: dict[str, Any]) -> None:
    findings = find(results)
    shown, not_shown, _, limits = ("\n".join(part) for part in findings)
    assert (
        "precision_exponent against cross_entropy, eval_pretrain, running_sums: avg@8 is higher"
        in shown
    )
    assert "precision_exponent against cross_entropy, eval_rlvr, running_sums: avg@8" in not_shown
    assert "entropy -25.0%, NLL +1.7%" in shown
    assert "One training seed" in limits
    assert "controlled task" in limits
    assert "not trained alike" not in limits
    assert "not one sampled completion" not in limits

    swapped = json.loads(json.dumps(results))
    regime = swapped["regimes"][""]
    for row in regime["differences"]:
        row["value"], row["low"], row["high"] = -row["value"], -row["high"], -row["low"]
    regime["arms"]["precision_exponent"]["training"]["pretrain"]["nll"] = 0.70
    regime["arms"]["precision_exponent"]["rl"]["rlvr"]["raw_reward"]["run"] = 0.0
    regime["arms"]["precision_exponent"]["evaluations"]["eval_rlvr"][BENCHMARK]["unparsed"] = 0.04
    swapped["arms"]["precision_exponent"]["shape"] = {"lambda_tail": -0.1}
    findings = find(swapped)
    assert "eval_pretrain, running_sums: avg@8 is lower" in "\n".join(findings.shown)
    assert "precision_exponent was not trained alike" in "\n".join(findings.limits)
    assert "precision_exponent, rlvr: not one sampled completion was right" in "\n".join(
        findings.limits
    )
    lost = "running_sums: many completions give no answer at all: cross_entropy"
    assert f"eval_pretrain, {lost} 12.5%, precision_exponent 12.5%." in findings.limits
    assert f"eval_rlvr, {lost} 11.5%." in findings.limits
    assert "β" not in "\n".join(findings.limits)


def test_pages_hold_the_tables_and_pictures(folder: Path, results: dict[str, Any]) -> None:
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    pictures = sorted(path.name for path in (folder / "report").iterdir())
    names = [
        "avg",
        "cons",
        "entropy",
        "pass_at_k",
        "perplexity",
        "policy_entropy",
        "response_length",
        "reward",
    ]
    assert pictures == sorted(f"{name}.{kind}" for name in names for kind in ("csv", "png"))
    assert page.count("data:image/png;base64,") == len(names)
    for name in names:
        assert (folder / f"report/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"report/{name}.png" in text
    assert not re.search("https?:", page)
    assert "regime" not in text
    check_self_contained(page)
    metric = results["regimes"][""]["arms"]["precision_exponent"]["evaluations"]["eval_rlvr"][
        BENCHMARK
    ]["metrics"]["avg@8"]
    cell = "{:.1f} [{:.1f}, {:.1f}]".format(
        *(100 * metric[key] for key in ("value", "low", "high"))
    )
    for each in (page, text):
        assert cell in each
        assert "beta -0.25" in each
        assert "abc123" in each
        assert "temperature 0.7" in each
        assert "11.2" in each


def test_same_rows_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for path in ("results.json", "report.md", "report.html"):
        (copy / path).unlink()
    report_study(copy)
    for path, content in before.items():
        assert (copy / path.relative_to(folder)).read_bytes() == content, path


def test_seeds_get_an_interval_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "seeds"
    write_study(out, seeds=(0, 1, 2))
    counts = [[5, 4, 7, 5, 5, 2, 6, 7, 5, 1, 5, 7], [6, 5, 8, 6, 6, 3, 7, 8, 6, 1, 6, 8]]
    for seed, passes in zip((1, 2), counts, strict=True):
        stage = out / f"runs/precision_exponent/seed{seed}/eval_rlvr"
        shutil.rmtree(stage)
        stage.mkdir()
        (stage / "done.json").write_text(
            json.dumps({"wall_seconds": 1, "cpu_seconds": 1, "attempt": 2})
        )
        write_evaluation(stage, passes, seed)
    report_study(out)
    results = json.loads((out / "results.json").read_text())
    rows = {(row["stage"], row["metric"]): row for row in results["regimes"][""]["differences"]}
    base = np.array(COUNTS["cross_entropy", "eval_rlvr"])
    shifts = [
        (np.array(c) - base).mean() / N
        for c in (COUNTS["precision_exponent", "eval_rlvr"], *counts)
    ]
    half = stats.t.ppf(0.975, 2) * np.std(shifts, ddof=1) / math.sqrt(3)
    over = rows["eval_rlvr", "avg@8"]["over_seeds"]
    expected = (np.mean(shifts), np.mean(shifts) - half, np.mean(shifts) + half)
    assert (over["value"], over["low"], over["high"]) == pytest.approx(expected)
    assert rows["eval_rlvr", "avg@8"]["value"] == pytest.approx(np.mean(shifts))
    text = (out / "report.md").read_text()
    assert "3 training seeds" in text
    assert "over seeds" in text


def test_where_training_ended_is_paired_over_seeds(tmp_path: Path) -> None:
    out = tmp_path / "seeds"
    write_study(out, seeds=(0, 1, 2))
    ends = {
        ("cross_entropy", "entropy"): [2.0, 2.2, 2.4],
        ("precision_exponent", "entropy"): [1.5, 1.7, 1.75],
        ("cross_entropy", "tail_mass"): [0.10, 0.11, 0.12],
        ("precision_exponent", "tail_mass"): [0.09, 0.12, 0.10],
    }
    for (arm, key), values in ends.items():
        for seed, value in enumerate(values):
            row = {"step": 100, "eval_nll": NLL[arm], f"eval_{key}": value}
            append_jsonl(out / f"runs/{arm}/seed{seed}/pretrain/train_log.jsonl", [row])
    report_study(out)
    results = json.loads((out / "results.json").read_text())
    rows = {row["quantity"]: row for row in results["regimes"][""]["training_differences"]}
    assert {row["arm"] for row in rows.values()} == {"precision_exponent"}
    for key in ("entropy", "tail_mass"):
        base, own = np.array(ends["cross_entropy", key]), np.array(ends["precision_exponent", key])
        found = rows[key]
        expected = stats.ttest_1samp(own / base - 1, 0).confidence_interval(0.95)
        assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
        interval = results["regimes"][""]["arms"]["precision_exponent"]["training"]["pretrain"][
            "over_seeds"
        ][key]
        expected = stats.ttest_1samp(own, 0).confidence_interval(0.95)
        assert (interval["low"], interval["high"]) == pytest.approx((expected.low, expected.high))
    assert rows["nll"]["value"] == pytest.approx(
        NLL["precision_exponent"] / NLL["cross_entropy"] - 1
    )
    text = (out / "report.md").read_text()
    cell = "{:+.1f} [{:+.1f}, {:+.1f}]".format(
        *(100 * rows["entropy"][key] for key in ("value", "low", "high"))
    )
    assert f"| precision_exponent | +1.7 [+1.7, +1.7] | {cell} |" in text
    assert "End of pretrain, mean over 3 seeds with its 95% interval" in text
    assert f"entropy {rows['entropy']['value']:+.1%} [" in "\n".join(find(results).shown)


def test_a_shared_stage_is_said_to_be_shared(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_study(folder, seeds=(0, 1))
    values = yaml.safe_load((folder / "study.yaml").read_text())
    stages = values["stages"]
    common = {"command": "train", "config": "demo/pretrain"}
    before = {
        "pretrain": common | {"shared": True},
        "midtrain": common | {"shaped": True, "model": "pretrain"},
    }
    values["stages"] = before | {
        "rlvr": stages["rlvr"] | {"model": "midtrain"},
        "eval_rlvr": stages["eval_rlvr"],
    }
    values["arms"]["precision_exponent"]["args"] = {"midtrain": {"max_steps": 7}}
    (folder / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for runs in (folder / "runs").glob("*/seed*"):
        shutil.copytree(runs / "pretrain", runs / "midtrain")
        if runs.parent.name != "cross_entropy":
            shutil.rmtree(runs / "pretrain")
    report_study(folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["incomplete"] == []
    assert set(results["regimes"][""]["arms"]["precision_exponent"]["training"]) == {"midtrain"}
    text = (folder / "report.md").read_text()
    assert (
        "pretrain ran once per seed, as cross_entropy: all arms continue from its model, and "
        "shapes act only in midtrain" in text
    )
    assert (
        "| precision_exponent | beta -0.25, positive exponent, midtrain max_steps 7 | "
        "its own, from cross_entropy's pretrain |" in text
    )
    assert "## Training before RL" in text
    assert "re-training" not in text.replace("eval_pretrain", "")


def test_unfinished_runs_are_named_and_left_out(tmp_path: Path) -> None:
    out = tmp_path / "partial"
    write_study(out)
    for stage, outcome in (("rlvr", "failed.json"), ("eval_rlvr", None)):
        run = out / "runs/precision_exponent/seed0" / stage
        (run / "done.json").unlink()
        if outcome:
            (run / outcome).write_text('{"exit_code": -9}')
    report_study(out)
    results = json.loads((out / "results.json").read_text())
    assert results["failed"] == {"precision_exponent/seed0/rlvr": "ended by signal 9 (Killed)"}
    assert results["incomplete"] == [
        "precision_exponent/seed0/rlvr",
        "precision_exponent/seed0/eval_rlvr",
    ]
    only = results["regimes"][""]
    assert only["arms"]["precision_exponent"]["rl"] == {}
    assert "eval_rlvr" not in only["arms"]["precision_exponent"]["evaluations"]
    assert {row["stage"] for row in only["differences"]} == {"eval_pretrain"}
    text = (out / "report.md").read_text()
    assert "precision_exponent/seed0/rlvr failed: ended by signal 9 (Killed)" in text
    assert (
        "left out of every number here: precision_exponent/seed0/rlvr, "
        "precision_exponent/seed0/eval_rlvr" in text
    )


def test_a_study_without_any_result_still_reports(tmp_path: Path) -> None:
    out = tmp_path / "empty"
    write_study(out)
    shutil.rmtree(out / "runs")
    report_study(out)
    assert "Not finished" in (out / "report.md").read_text()


def test_bad_requests_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study\.yaml"):
        report_study(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with pytest.raises(UserError, match="k=9"):
        report_study(copy, pass_at=[1, 9])
    report_study(copy, pass_at=[2])
    rows = json.loads((copy / "results.json").read_text())["regimes"][""]["differences"]
    assert {row["metric"] for row in rows} == {"avg@8", "cons@8", "pass@2"}


def test_the_shipped_demo_is_a_valid_study(tmp_path: Path) -> None:
    study = load_study("studies/tiny", tmp_path)
    assert study.baseline == "cross_entropy"
    assert [stage.command for stage in study.stages.values()] == ["train", "eval", "rlvr", "eval"]
    assert study.arms["precision"].shape == {"beta": -0.25, "positive": "exponent"}
