"""A study's report after kills, failures and changes, with fake stages in real processes."""

from __future__ import annotations

import json
import random
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from shaped_eval.records import read_jsonl
from study_processes import FAKES, hold, marked_processes, num_rows, run, start, write_study
from waiting import wait_until

from shaped_trl.study.definition import Study
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import plan
from shaped_trl.study.report import report_study
from shaped_trl.study.state import DONE, STARTED

SECONDS = "Seconds, summed over seeds; of a resumed run, only the last attempt"


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FAKES)
    monkeypatch.setattr("shaped_trl.study.runner.ENTRY_OF_MATCH", "fake_stages:match")


def change(path: Path, **values: Any) -> Path:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values, sort_keys=False))
    return path


def reached(study: Study, rows: int) -> bool:
    return num_rows(study.out) >= rows and bool(going(study))


def going(study: Study) -> set[str]:
    """The runs that have started but not ended."""
    started = {each.key: each.folder for each in plan(study) if (each.folder / STARTED).exists()}
    return {key for key, folder in started.items() if not (folder / DONE).exists()}


def without_seconds(report: dict[str, bytes]) -> dict[str, Any]:
    """The files of a report without the seconds of its runs, their resumes, and its first start."""
    results, found = json.loads(report["results.json"]), dict[str, Any](report)
    del results["registration"]
    for arm in results["regimes"][""]["arms"].values():
        arm["seconds"] = {
            stage: [set(run) for run in runs] for stage, runs in arm["seconds"].items()
        }
    for name, row in (
        ("report.md", r"\| [\d.]+ \| [\d.]+ \| [\d–]+ \|\n"),
        ("report.html", r"<td>[\d.]+</td><td>[\d.]+</td><td>[\d–]+</td></tr>"),
    ):
        before, table = report[name].decode().rsplit(SECONDS, 1)
        found[name] = before, re.subn(row, "", table)
    return found | {"results.json": results}


def report_of(out: Path) -> dict[str, bytes]:
    paths = [
        out / "study.yaml",
        out / "results.json",
        *out.glob("report.*"),
        *(out / "report").iterdir(),
    ]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_a_study_killed_three_times_reports_the_same_numbers(tmp_path: Path) -> None:
    often = {"max_steps": 40, "spawn": True}
    path = change(
        write_study(tmp_path, pretrain=often, rlvr=often, eval=often | {"max_steps": 96}),
        arms={"a": {}, "b": {"shape": {"beta": -0.25}}},
    )
    undisturbed, killed = (load_study(path, tmp_path / name) for name in ("undisturbed", "killed"))
    assert run(undisturbed) == 0
    total = num_rows(undisturbed.out)
    assert total == 2 * (40 + 40 + 96)

    cut_short = 0
    for moment in sorted(random.Random(0).sample(range(total // 20, total * 9 // 10), 3)):
        hold(killed.out, moment)
        with start(killed) as process:
            wait_until(partial(reached, killed, moment))
            process.kill()
            process.communicate()
        wait_until(lambda: not marked_processes(killed.out))
        cut_short += len(going(killed))
    (killed.out / "runs/hold").unlink()
    assert run(killed) == 0

    expected, found = report_of(undisturbed.out), report_of(killed.out)
    assert {
        "study.yaml",
        "results.json",
        "report.md",
        "report.html",
        "report/avg.csv",
        "report/avg.png",
    } <= set(found)
    assert without_seconds(found) == without_seconds(expected)
    attempts = [json.loads((each.folder / DONE).read_text())["attempt"] for each in plan(killed)]
    assert sum(attempts) - len(attempts) == cut_short >= 3


@pytest.mark.slow
def test_the_report_of_the_others_says_which_run_failed_and_why(tmp_path: Path) -> None:
    path = write_study(tmp_path, rlvr={"fail_arm": "b"}, eval={"max_steps": 16})
    study = load_study(path, tmp_path / "out")
    assert run(study) == 1
    results = json.loads((study.out / "results.json").read_text())
    why = "exit code 1; RuntimeError: this arm fails"
    assert results["failed"] == {"b/seed0/rlvr": why}
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("records.jsonl", "study.yaml", "fingerprints.json", "registration.jsonl"):
        shutil.copy(study.out / name, copy)
    report_study(copy)
    assert json.loads((copy / "results.json").read_text()) == results
    assert results["incomplete"] == ["b/seed0/rlvr", "b/seed0/eval"]
    arms = results["regimes"][""]["arms"]
    assert [arm for arm, values in arms.items() if values["evaluations"]] == ["a", "c_exponent"]
    assert set(arms["b_exponent"]["training"]) == {"pretrain"}
    for name in ("report.md", "report.html"):
        text = (study.out / name).read_text()
        assert f"b/seed0/rlvr failed: {why}" in text
        assert "left out of every number here: b/seed0/rlvr, b/seed0/eval." in text
        assert "c_exponent against a, eval, running_sums: avg@8" in text
        assert "b_exponent against a, eval" not in text

    (tmp_path / "rlvr.yaml").write_text("max_steps: 3\n")
    assert run(load_study(path, tmp_path / "out")) == 0
    text = (study.out / "report.md").read_text()
    assert "failed" not in text
    assert "b_exponent against a, eval" in text


def test_a_change_reruns_what_it_concerns_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "shaped_trl.study.report.report_study", lambda folder: folder / "report.html"
    )
    arms: dict[str, dict[str, Any]] = {
        "a": {},
        "b": {"shape": {"beta": -0.25}},
        "c": {"shape": {"beta": 0.5}},
        "cooled": {"checkpoint_of": "a", "entropy_of": "b"},
        "warmed": {"checkpoint_of": "b", "temperature": 1.2},
    }
    regimes = {name: {"running_sums": {"noise": noise}} for name, noise in (("P", 0.1), ("D", 0.2))}
    sizes = {"running_sums": {"train_rows": 4, "heldout_rows": 2, "rl_rows": 2}}
    path = write_study(tmp_path, all={"max_steps": 1})
    stages = yaml.safe_load(path.read_text())["stages"]
    del stages["eval"]
    out = tmp_path / "out"

    def rerun() -> set[tuple[str, ...]]:
        """(regime, arm, stage) of the runs that started."""
        events = out / "runs/events.jsonl"
        before = len(list(read_jsonl(events))) if events.exists() else 0
        assert (
            run(
                load_study(
                    change(path, arms=arms, regimes=regimes, prepare=sizes, stages=stages), out
                )
            )
            == 0
        )
        rows = [row for row in list(read_jsonl(events))[before:] if row["event"] == "start"]
        started = [Path(row["run"]).relative_to(out / "runs").parts for row in rows]
        assert len(set(started)) == len(started)
        return {(regime, arm, stage) for regime, arm, _, stage in started}

    def all_of(*names: str, within: tuple[str, ...] = ("P", "D")) -> set[tuple[str, ...]]:
        first = {"cooled": {"temperature-pretrain"}, "warmed": set()}
        own = {name: first.get(name, {"pretrain"}) | {"rlvr"} for name in names}
        return {(regime, arm, stage) for regime in within for arm in names for stage in own[arm]}

    def texts(regime: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (out / "data" / regime).glob("*.jsonl")}

    assert rerun() == all_of(*arms)
    assert rerun() == set()
    arms["c"]["shape"]["beta"] = 1.0
    assert rerun() == all_of("c")
    arms["b"]["shape"]["beta"] = -0.5
    assert rerun() == all_of("b", "cooled", "warmed")
    arms["a"]["shape"] = {"lambda_tail": -0.1}
    assert rerun() == all_of("a", "cooled")
    arms["cooled"]["entropy_of"] = "c"
    assert rerun() == all_of("cooled")
    arms["warmed"]["temperature"] = 1.1
    assert rerun() == all_of("warmed")
    data = {regime: texts(regime) for regime in regimes}
    regimes["D"]["running_sums"]["noise"] = 0.9
    assert rerun() == all_of(*arms, within=("D",))
    assert texts("P") == data["P"]
    assert texts("D") != data["D"]
