"""Seeds are made on one machine, and only values of one machine are paired."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from contrast_values import PLANTED
from shaped_eval.records import read_jsonl
from study_processes import ENTRY, FAKES, run, write_study

from shaped_trl.study import runner
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import plan
from shaped_trl.study.records import RECORDS, read_records
from shaped_trl.study.reporting.contrast_results import contrast_rows
from shaped_trl.study.reporting.effects import effects
from shaped_trl.study.reporting.limits import limits_of
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.results import collect
from shaped_trl.study.running import devices, machine
from shaped_trl.study.running.machine import UNKNOWN, Machine, descriptions, this_machine
from shaped_trl.study.running.seeds import begun_elsewhere, start_again
from shaped_trl.study.state import claim

ALPHA: Machine = {
    "processor": {"name": "Alpha 9", "family_model_stepping": "6/143/8", "flags": "00000000"},
    "gpu": None,
    "threads": 1,
    "builds": {"torch": "2.13.0", "numpy": "2.4.6"},
}
BETA: Machine = ALPHA | {
    "processor": ALPHA["processor"] | {"name": "Beta 7"},
    "builds": {"torch": "2.13.0", "numpy": "2.4.7"},
}


# Continuing a study


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fakes the machine of later runs."""
    monkeypatch.syspath_prepend(FAKES)

    def fake(found: Machine) -> None:
        for module in ("runner", "running.commands"):
            monkeypatch.setattr(f"shaped_trl.study.{module}.this_machine", lambda _: found)

    return fake


def write(folder: Path, **changes: Any) -> Path:
    path = write_study(folder, all={"max_steps": 1}, eval={"max_steps": 8})
    arms = {"a": {}, "b": {"shape": {"beta": -0.25}}}
    values = yaml.safe_load(path.read_text()) | {"arms": arms, "seeds": [0, 1]} | changes
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def starts(out: Path) -> list[str]:
    """The runs that have started, in their order."""
    rows = [row for row in read_jsonl(out / "runs/events.jsonl") if row["event"] == "start"]
    return [str(Path(row["run"]).relative_to(out / "runs")) for row in rows]


def machines_of(out: Path, seed: str) -> list[Machine]:
    found = read_records(out).finished
    return [each["outcome"]["machine"] for key, each in found.items() if f"/{seed}/" in key]


def test_a_seed_that_another_processor_has_begun_is_made_again(
    tmp_path: Path, on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    on(ALPHA)
    assert run(load_study(write(tmp_path), out)) == 0
    assert "starts again" not in capsys.readouterr().out
    first = starts(out)
    assert [key.split("/")[1] for key in first] == ["seed0"] * 6 + ["seed1"] * 6
    before = {key: each for key, each in read_records(out).finished.items() if "seed0" in key}

    on(BETA)
    assert run(load_study(tmp_path / "study.yaml", out)) == 0
    assert starts(out) == first, "what is complete is kept"
    assert "starts again" not in capsys.readouterr().out

    c = {"shape": {"beta": 0.5}, "seeds": [1]}
    arms = {"a": {}, "b": {"shape": {"beta": -0.25}}, "c": c}
    study = load_study(write(tmp_path, arms=arms), out)
    expected = (
        "seed1 starts again: it is incomplete and was begun on Alpha 9, numpy 2.4.6; here it is "
        "Beta 7, numpy 2.4.7. What was done moves to stale/."
    )
    records = (out / RECORDS).read_bytes()
    assert runner.run_study(study, dry_run=True, entry=ENTRY) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if "again" in line] == [f"# {expected}"]
    assert shown[-1].startswith("# 15 runs, 9 to do")
    assert [line.split(",")[0] for line in shown if ", done" in line] == [
        f"# {each.key}" for each in plan(study) if each.seed == 0
    ]
    assert (out / RECORDS).read_bytes() == records
    assert starts(out) == first

    assert run(study) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "again" in line] == [expected]
    again = starts(out)[len(first) :]
    assert sorted(again) == sorted(each.key for each in plan(study) if each.seed == 1)
    assert machines_of(out, "seed1") == [BETA] * 9
    found = read_records(out).finished
    assert {key: each for key, each in found.items() if "seed0" in key} == before
    stale = sorted((out / "stale").iterdir())
    assert [path.name[:7] for path in stale] == ["a-seed1"] * 6 + ["b-seed1"] * 6
    kept = [json.loads(path.read_text()) for path in stale if path.suffix == ".json"]
    assert [each["outcome"]["machine"] for each in kept] == [ALPHA] * 6
    results = json.loads((out / "results.json").read_text())
    assert results["incomplete"] == []
    assert "unlike_machines" not in results, "each seed is of one machine"
    assert {row["seeds"] for row in results["effects"]} == {2}


def test_the_same_machine_goes_on_where_it_stopped(
    tmp_path: Path, on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    on(ALPHA)
    path = write(tmp_path, seeds=[0])
    (tmp_path / "eval.yaml").write_text("max_steps: 8\nfail_arm: b\n")
    assert run(load_study(path, out)) == 1
    (tmp_path / "eval.yaml").write_text("max_steps: 8\n")
    num_before = len(starts(out))
    on(copy.deepcopy(ALPHA))
    assert run(load_study(path, out)) == 0
    assert set(starts(out)[num_before:]) == {"a/seed0/eval", "b/seed0/eval"}
    assert "again" not in capsys.readouterr().out


@pytest.mark.parametrize("change", ["processor", "threads", "unknown"])
def test_an_attempt_goes_on_only_where_it_was_begun(tmp_path: Path, change: str) -> None:
    runs = plan(load_study(write(tmp_path), tmp_path / "out"))
    first = runs[0]
    assert claim(first, ALPHA) == 1
    (first.folder / "checkpoint").touch()
    assert begun_elsewhere(runs, copy.deepcopy(ALPHA)) == {}
    assert claim(first, ALPHA) == 2
    here = {"processor": BETA, "threads": ALPHA | {"threads": 2}, "unknown": ALPHA}[change]
    if change == "unknown":  # begun before machines were recorded
        started = json.loads((first.folder / "started.json").read_text())
        del started["machine"]
        (first.folder / "started.json").write_text(json.dumps(started))
    found = begun_elsewhere(runs, here)
    assert found == {"seed0": [None if change == "unknown" else ALPHA]}
    start_again(runs, found)
    assert not first.folder.exists()
    (moved,) = (tmp_path / "out/stale").iterdir()
    assert (moved / "checkpoint").exists()
    assert begun_elsewhere(runs, here) == {}
    assert claim(first, here) == 1


def test_a_record_names_the_machine_of_its_run(tmp_path: Path, on: Any) -> None:
    on(this_machine(2))
    assert run(load_study(write(tmp_path, seeds=[0], max_parallel=2), tmp_path / "out")) == 0
    assert machines_of(tmp_path / "out", "seed0") == [this_machine(2)] * 6


# Machines


X86 = """processor : 0
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) 8481C
stepping\t: 8
flags\t\t: fpu avx512f vme

processor : 1
model name\t: another
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd sve
CPU implementer\t: 0x41
"""


def test_a_machine_is_its_processor_threads_and_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "CPU_INFO", info)
    monkeypatch.setattr(devices, "_num_cores", lambda: 8)

    def of(text: str, max_parallel: int = 2) -> Machine:
        info.write_text(text)
        return this_machine(max_parallel)

    first = of(X86)
    assert first["processor"]["name"] == "Intel(R) Xeon(R) 8481C"
    assert first["processor"]["family_model_stepping"] == "6/143/8"
    assert first["threads"] == 4
    names = {"torch", "numpy", "transformers", "trl", "tokenizers", "triton"}
    assert first["builds"].keys() >= names
    assert of(X86.replace("fpu avx512f vme", "vme avx512f fpu")) == first
    for other in (
        of(X86.replace("avx512f", "avx2")),
        of(X86.replace(": 8\n", ": 9\n")),
        of(X86, max_parallel=4),
        of(ARM),
    ):
        assert other != first
    assert of(ARM)["processor"]["flags"] != of(ARM.replace("sve", ""))["processor"]["flags"]
    assert len(json.dumps(first)) < 500
    info.unlink()
    assert this_machine(2)["processor"]["name"]


def test_gpus_are_named_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert devices.gpu_models() == "a GPU"
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t 1\n")
    assert devices.gpu_models() == "NVIDIA H200"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.gpu_models() is None


def test_machines_are_described_by_what_differs() -> None:
    assert descriptions([ALPHA]) == ["Alpha 9"]
    assert descriptions([ALPHA, None]) == ["Alpha 9", UNKNOWN]
    assert descriptions([ALPHA, ALPHA | {"threads": 2}]) == [
        "Alpha 9, threads 1",
        "Alpha 9, threads 2",
    ]
    hostile: Machine = {"processor": {"name": "x\x1b[31m\n" * 1000}, "threads": 1}
    (_, shown) = descriptions([ALPHA, hostile])
    assert shown.isprintable()
    assert len(shown) < 500


# The report


def place(regimes: list[RegimeRuns], *moved: tuple[int, tuple[str, ...]]) -> None:
    """Put the runs on ALPHA, but those of a seed whose key begins with these names on BETA."""
    for runs in regimes:
        for (arm, seed, stage), kept in runs.records.items():
            away = any(
                (seed, names) == (other, (runs.study.regime, arm, stage)[: len(names)])
                for other, names in moved
            )
            kept["outcome"]["machine"] = BETA if away else ALPHA


def seeds_of(rows: list[dict[str, Any]], **labels: str) -> set[int]:
    found = {row["seeds"] for row in rows if labels.items() <= row.items()}
    assert found
    return found


@pytest.mark.slow
def test_runs_of_one_machine_are_compared_as_before(regimes: list[RegimeRuns]) -> None:
    before = collect(regimes)
    place(regimes)
    assert collect(regimes) == before
    assert limits_of(before) == limits_of(collect(regimes))


@pytest.mark.slow
def test_what_was_made_on_another_machine_is_not_paired(regimes: list[RegimeRuns]) -> None:
    place(regimes, (3, ("P", "precision_product", "rlvr")))
    found = collect(regimes)
    rows = found["effects"]
    for stage, seeds in (("pretrain", 8), ("eval_pretrain", 8), ("rlvr", 7), ("eval_rlvr", 7)):
        pair = {"arm": "precision_product", "stage": stage}
        for against in ("cross_entropy", "cooled") if stage != "pretrain" else ("cross_entropy",):
            assert seeds_of(rows, regime="P", against=against, **pair) == {seeds}
        assert seeds_of(rows, regime="D", against="cross_entropy", **pair) == {8}
        assert seeds_of(rows, regime="P", arm="tail_penalty", stage=stage) == {8}
    # as if that seed had not been made
    for runs in regimes[:1]:
        for stage in ("rlvr", "eval_rlvr"):
            for values in (runs.logs, runs.evaluations):
                values.get(("precision_product", stage), {}).pop(3, None)
    place(regimes)
    without = collect(regimes)
    assert effects(regimes) == rows
    differences = [each["regimes"]["P"]["differences"] for each in (found, without)]
    assert differences[0] == differences[1]
    gains = [
        [row for row in each["regimes"]["P"]["gains"] if row["arm"] == "precision_product"]
        for each in (found, without)
    ]
    assert gains[0] == gains[1]


def test_a_model_of_another_machine_spoils_what_is_built_on_it(regimes: list[RegimeRuns]) -> None:
    place(regimes, (5, ("P", "cross_entropy", "pretrain")))
    results = collect(regimes)
    rows = [row for row in results["effects"] if row["regime"] == "P"]
    for arm in ("precision_product", "tail_penalty"):
        for stage in ("pretrain", "eval_pretrain", "rlvr", "eval_rlvr"):
            assert seeds_of(rows, arm=arm, against="cross_entropy", stage=stage) == {7}
    # its model is that of cross_entropy
    assert seeds_of(rows, arm="cooled", against="cross_entropy", stage="rlvr") == {7}
    (nll,) = (
        row
        for row in results["regimes"]["P"]["training_differences"]
        if (row["arm"], row["quantity"]) == ("tail_penalty", "nll")
    )
    assert nll["seeds"] == 7
    neighbours = {"arm": "diversity_product", "against": "cross_entropy", "stage": "pretrain"}
    assert seeds_of(rows, **neighbours) == {7}


def test_contrasts_pair_what_was_made_on_one_machine(
    regimes: list[RegimeRuns], folder: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load((folder / "study.yaml").read_text()) | {"contrasts": PLANTED}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    study = load_study(tmp_path / "study.yaml")
    regimes = [
        replace(runs, study=view) for runs, view in zip(regimes, study.each_regime(), strict=True)
    ]
    place(regimes, (3, ("P", "cooled", "rlvr")))
    rows = contrast_rows(regimes)
    for kind in ("primary", "secondary"):
        cooled = {"kind": kind, "against": "cooled", "arm": "precision_product"}
        assert seeds_of(rows, regime="P", **cooled) == {7}
        assert seeds_of(rows, regime="D", **cooled) == {8}
    others = {"kind": "primary", "regime": "P", "against": "cross_entropy"}
    assert seeds_of(rows, **others) == {8}
    assert seeds_of(rows, kind="primary", regime="P", claim="tuned") == {7}


def test_the_report_names_what_it_does_not_pair(regimes: list[RegimeRuns]) -> None:
    place(regimes, (3, ("P", "precision_product")), (3, ("P", "cooled", "rlvr")))
    (seed,) = collect(regimes)["unlike_machines"]
    assert (seed["regime"], seed["seed"]) == ("P", 3)
    here, there = seed["machines"]
    assert here["machine"] == "Alpha 9, numpy 2.4.6"
    assert there == {"machine": "Beta 7, numpy 2.4.7", "arms": ["precision_product", "cooled"]}
    assert "cooled" in here["arms"], "its evaluations"
    (sentence,) = (each for each in limits_of(collect(regimes)) if "machines" in each)
    assert sentence.startswith("P: Seed 3 was made on several machines: cross_entropy, ")
    assert "precision_product, cooled on Beta 7, numpy 2.4.7. Values" in sentence


def test_an_unknown_machine_is_paired_with_unknown_ones_alone(regimes: list[RegimeRuns]) -> None:
    before = effects(regimes)
    for kept in regimes[0].records.values():
        kept["outcome"]["machine"] = "x86_64"  # as in records of earlier versions
    assert effects(regimes) == before
    assert "unlike_machines" not in collect(regimes)
    for (arm, seed, _), kept in regimes[0].records.items():
        if (arm, seed) == ("tail_penalty", 3):
            kept["outcome"]["machine"] = BETA
    tail = {"regime": "P", "arm": "tail_penalty", "against": "cross_entropy"}
    assert seeds_of(effects(regimes), **tail) == {7}
    (sentence,) = (each for each in limits_of(collect(regimes)) if "machines" in each)
    assert f"on {UNKNOWN}; tail_penalty on Beta 7. Values" in sentence


def test_a_study_of_earlier_records_says_that_their_machine_is_not_known(
    tmp_path: Path, on: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    on(ALPHA)
    study = load_study(write(tmp_path, seeds=[0]), tmp_path / "out")
    first = plan(study)[0]
    outcome = {"wall_seconds": 1.0, "cpu_seconds": 1.0, "attempt": 1, "machine": "x86_64"}
    record = {"outcome": outcome | {"fingerprint": first.fingerprint}, "log": {}}
    earlier = tmp_path / "out/finished" / f"{first.key}.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text(json.dumps(record))
    assert runner.run_study(study, dry_run=True, entry=ENTRY) == 0
    assert earlier.exists()
    assert run(study) == 0
    shown = capsys.readouterr().out
    assert shown.count(f"seed0 starts again: it is incomplete and was begun on {UNKNOWN}") == 2
    assert not (tmp_path / "out/finished").exists()
    assert machines_of(tmp_path / "out", "seed0") == [ALPHA] * 6
