"""A study becomes command lines with their dependencies."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from study_values import load, rich_values, shared_values, study_values

from shaped_trl.study.contents import _digest
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import bound, plan
from shaped_trl.study.runner import run_study
from shaped_trl.study.running.schedule import (
    estimate_seconds,
    next_run,
    path_seconds,
    remaining_seconds,
)


def test_a_run_is_one_command_line(tmp_path: Path) -> None:
    study = load(tmp_path, study_values(tmp_path))
    runs = {run.key: run for run in plan(study)}
    assert len(runs) == 2 * 2 * 3
    out = tmp_path / "out"
    folder = out / "runs/precision/seed1"
    assert runs["precision/seed1/pretrain"].argv == (
        *(
            "train",
            "--config",
            str(tmp_path / "pretrain.yaml"),
            "--output_dir",
            str(folder / "pretrain"),
        ),
        *("--seed", "1", "--beta", "-0.25", "--lambda_tail", "-0.00001", "--positive", "exponent"),
        *("--dataset", f"{out}/data/train.jsonl"),
    )
    assert runs["precision/seed1/eval"].argv == (
        *("eval", "--config", str(tmp_path / "eval.yaml"), "--model", str(folder / "rlvr")),
        *(
            "--out",
            str(folder / "eval"),
            "--seed",
            "1",
            "--temperature",
            "1.0",
            "--pass_at",
            "1",
            "4",
        ),
    )
    assert runs["precision/seed1/rlvr"].depends_on == ("precision/seed1/pretrain",)
    assert runs["precision/seed1/pretrain"].depends_on == ()
    assert "--beta" not in runs["cross_entropy/seed0/pretrain"].argv
    assert runs["precision/seed0/pretrain"].settings["max_steps"] == 30


def flag(run: Any, name: str) -> str:
    return run.argv[run.argv.index(f"--{name}") + 1]


def test_arms_share_checkpoints_in_each_regime(tmp_path: Path) -> None:
    study = load(tmp_path, rich_values(tmp_path))
    runs = {run.key: run for run in plan(study)}
    out = tmp_path / "out"
    # 2 regimes × (2 trained arms × 2 seeds × 4 stages, matched 2 × (temperature, rlvr, eval), cool
    # 2, long 4)
    assert len(runs) == 2 * (16 + 6 + 2 + 4)
    base = out / "runs/rare/cross_entropy/seed1/midtrain"
    matched = runs["rare/matched/seed1/rlvr"]
    assert flag(matched, "model_name_or_path") == str(base)
    temperature = runs["rare/matched/seed1/temperature-midtrain"]
    assert matched.depends_on == ("rare/cross_entropy/seed1/midtrain", temperature.key)
    assert temperature.depends_on == (
        "rare/cross_entropy/seed1/midtrain",
        "rare/precision/seed1/midtrain",
    )
    like = out / "runs/rare/precision/seed1/midtrain"
    assert temperature.argv == (
        "match",
        "--model",
        str(base),
        "--like",
        str(like),
        "--out",
        str(temperature.folder),
    )
    assert runs["rare/matched/seed1/eval"].depends_on == (matched.key, temperature.key)
    assert (
        flag(runs["rare/cross_entropy/seed0/pretrain"], "dataset") == f"{out}/data/rare/train.jsonl"
    )
    assert (
        flag(runs["common/long/seed0/pretrain"], "dataset") == f"{out}/data-long/common/train.jsonl"
    )
    rare = next(view for view in study.each_regime() if view.regime == "rare")
    assert rare.preparation("long", 0) == {
        "running_sums": {"train_rows": 10, "noise": 0.2, "p_long": 0.9}
    }
    assert flag(runs["common/long/seed0/rlvr"], "model_name_or_path").endswith(
        "common/long/seed0/midtrain"
    )
    assert flag(runs["common/long/seed0/rlvr"], "max_steps") == "5"


def test_a_shared_stage_runs_once_and_all_arms_go_on_from_it(tmp_path: Path) -> None:
    values = shared_values(tmp_path)
    runs = {run.key: run for run in plan(load(tmp_path, values))}
    assert [key for key in runs if key.startswith("rare/") and key.endswith("/pretrain")] == [
        "rare/cross_entropy/seed0/pretrain",
        "rare/cross_entropy/seed1/pretrain",
    ]
    for arm, seed in (("cross_entropy", 1), ("precision", 1), ("long", 0)):
        midtrain = runs[f"rare/{arm}/seed{seed}/midtrain"]
        assert midtrain.depends_on == (f"rare/cross_entropy/seed{seed}/pretrain",)
        assert flag(midtrain, "model_name_or_path") == str(runs[midtrain.depends_on[0]].folder)
    assert flag(runs["rare/precision/seed0/midtrain"], "beta") == "-0.25"
    # the shared stage has the baseline's data; later stages have the arm's own
    assert flag(runs["rare/cross_entropy/seed0/pretrain"], "dataset").endswith(
        "/data/rare/train.jsonl"
    )
    assert flag(runs["rare/long/seed0/midtrain"], "dataset").endswith("/data-long/rare/train.jsonl")
    assert flag(runs["rare/matched/seed1/rlvr"], "model_name_or_path").endswith(
        "rare/cross_entropy/seed1/midtrain"
    )
    likes = runs["rare/matched/seed1/temperature-midtrain"].depends_on
    assert likes == ("rare/cross_entropy/seed1/midtrain", "rare/precision/seed1/midtrain")


def test_a_shared_stage_starts_from_a_shared_one(tmp_path: Path) -> None:
    values = shared_values(tmp_path)
    del values["stages"]["pretrain"]["shared"]
    values["stages"]["midtrain"] |= {"shared": True, "shaped": False}
    with pytest.raises(
        UserError, match=r"stages.midtrain.shared: pretrain, from which it starts, is not"
    ):
        load(tmp_path, values)


def test_rollouts_at_another_temperature_take_steps_of_its_scale(tmp_path: Path) -> None:
    runs = {run.key: run for run in plan(load(tmp_path, rich_values(tmp_path)))}
    cool = runs["common/cool/seed1/rlvr"]
    # the gradient is 1/T as large, so that a norm of 2/T clips the same steps as 2 did
    scaled = {
        name: float(flag(cool, name)) for name in ("temperature", "learning_rate", "max_grad_norm")
    }
    assert scaled == {
        "temperature": 0.75,
        "learning_rate": 0.00075,
        "max_grad_norm": pytest.approx(2 / 0.75),
    }
    assert flag(runs["common/cool/seed1/eval"], "temperature") == "0.75"
    assert "--temperature" not in runs["common/cross_entropy/seed1/rlvr"].argv
    matched = runs["common/matched/seed1/rlvr"]
    found = matched.folder.parent / "temperature-midtrain" / "temperature.json"
    found.parent.mkdir(parents=True)
    found.write_text(json.dumps({"temperature": 0.5}))
    argv = bound(matched)
    late = {
        name: argv[argv.index(f"--{name}") + 1]
        for name in ("temperature", "learning_rate", "max_grad_norm")
    }
    assert late == {"temperature": "0.5", "learning_rate": "0.0005", "max_grad_norm": "4.0"}
    assert bound(cool) == list(cool.argv)


def test_an_evaluation_without_a_temperature_has_that_of_the_command(tmp_path: Path) -> None:
    values = rich_values(tmp_path)
    del values["stages"]["eval"]["args"]["temperature"]
    runs = {run.key: run for run in plan(load(tmp_path, values))}
    assert float(flag(runs["common/cool/seed1/eval"], "temperature")) == pytest.approx(
        0.75 * SampleConfig.temperature
    )


def test_a_changed_arm_changes_what_is_matched_with_it(tmp_path: Path) -> None:
    values = rich_values(tmp_path)
    before = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}
    values["arms"]["precision"]["shape"]["beta"] = -0.5
    after = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}
    changed = {key.split("/")[1] for key in before if before[key] != after[key]}
    assert changed == {"precision", "matched"}
    values["regimes"]["rare"]["running_sums"]["noise"] = 0.3
    later = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}
    assert {key.split("/")[0] for key in before if after[key] != later[key]} == {"rare"}


def test_the_resolved_copy_loads_as_the_same_study(tmp_path: Path) -> None:
    for values in (study_values(tmp_path), rich_values(tmp_path), shared_values(tmp_path)):
        study = load(tmp_path, values)
        (tmp_path / "copy.yaml").write_text(study.to_yaml())
        assert load_study(tmp_path / "copy.yaml", study.out) == study


def test_fingerprints_change_with_what_a_run_depends_on(tmp_path: Path) -> None:
    values = study_values(tmp_path)
    before = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}

    def changed() -> set[str]:
        after = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}
        return {key for key in before if before[key] != after[key]}

    assert changed() == set()
    (tmp_path / "rlvr.yaml").write_text("# only a comment\nmax_steps: 10\n")
    assert changed() == set()
    values["arms"]["precision"]["shape"]["beta"] = -0.5
    assert changed() == {key for key in before if key.startswith("precision/")}
    values["arms"]["precision"]["shape"]["beta"] = -0.25
    (tmp_path / "rlvr.yaml").write_text("max_steps: 11\n")
    assert changed() == {key for key in before if not key.endswith("/pretrain")}


def test_a_moved_study_keeps_its_fingerprints(tmp_path: Path) -> None:
    load(tmp_path, study_values(tmp_path))
    here, there = (
        plan(load_study(tmp_path / "study.yaml", tmp_path / place)) for place in ("here", "there")
    )
    assert [run.fingerprint for run in here] == [run.fingerprint for run in there]


def test_moved_recipes_keep_a_studys_fingerprints(tmp_path: Path) -> None:
    fingerprints = []
    for place in (tmp_path / "here", tmp_path / "there"):
        place.mkdir()
        fingerprints.append([run.fingerprint for run in plan(load(place, study_values(place)))])
    assert fingerprints[0] == fingerprints[1]


def test_an_arm_called_like_the_stage_that_finds_temperatures(tmp_path: Path) -> None:
    values = rich_values(tmp_path)
    values["arms"]["temperature-matched"] = values["arms"].pop("matched")
    runs = {run.key: run for run in plan(load(tmp_path, values))}
    evaluation = runs["rare/temperature-matched/seed1/eval"]
    found = evaluation.folder.parent / "temperature-midtrain/temperature.json"
    found.parent.mkdir(parents=True)
    found.write_text('{"temperature": 0.5}')
    assert bound(evaluation)[-5:] == [*("--temperature", "0.5"), *evaluation.argv[-3:]]


def test_a_file_or_model_of_the_users_own_is_a_part_of_a_run(tmp_path: Path) -> None:
    values, corpus, model = study_values(tmp_path), tmp_path / "my.jsonl", tmp_path / "model"
    (tmp_path / "pretrain.yaml").write_text(
        f"dataset_name: {corpus}\nmodel_name_or_path: {model}\n"
    )
    found = []
    for text, weights in (("a", ""), ("b", ""), ("b", "w"), ("b", "v")):
        corpus.write_text(text)
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_text(weights)
        found.append({run.key: run.fingerprint for run in plan(load(tmp_path, values))})
    for before, after in pairwise(found):
        assert all(before[key] != after[key] for key in before)
    assert found[-1] == {run.key: run.fingerprint for run in plan(load(tmp_path, values))}


def test_an_edited_benchmark_is_evaluated_again(tmp_path: Path) -> None:
    """Its definition and its rows count, also where it has a name of the package's beside it."""
    values, rows = study_values(tmp_path), tmp_path / "rows.jsonl"
    definition, plain = tmp_path / "mine.yaml", tmp_path / "plain.jsonl"
    values["stages"]["eval"]["args"] = {"benchmarks": f"gsm8k, {definition},{plain}"}
    edits = [(rows, "[1]"), (definition, "dataset_name: rows.jsonl\nstop: ['.']\n"), (plain, "[2]")]
    for path, _ in edits:
        path.write_text("dataset_name: rows.jsonl\n" if path == definition else "[0]")
    before = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}
    for path, text in edits:
        path.write_text(text)
        after = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}
        changed = {key for key in after if after[key] != before[key]}
        assert changed == {key for key in after if key.endswith("/eval")}
        before = after


def test_a_folder_of_data_is_a_part_of_a_run(tmp_path: Path) -> None:
    values, corpus = study_values(tmp_path), tmp_path / "corpus"
    (corpus / "train").mkdir(parents=True)
    (tmp_path / "pretrain.yaml").write_text(f"dataset_name: {corpus}\n")
    found = []
    for name, text in (("train/0.txt", "a"), ("train/0.txt", "b"), (".cache", "of a download")):
        (corpus / name).write_text(text)
        found.append([run.fingerprint for run in plan(load(tmp_path, values))])
    assert found[0] != found[1] == found[2]


@pytest.mark.parametrize(
    ("size", "changed"), [(20, {*range(20)}), (21, {*range(10), *range(11, 21)})]
)
def test_a_large_file_is_told_by_its_ends(tmp_path: Path, size: int, changed: set[int]) -> None:
    digests = []
    for place in range(-1, size):
        (tmp_path / str(place)).write_bytes(bytes(number == place for number in range(size)))
        digests.append(_digest(tmp_path / str(place), 0, 10))
    assert {place for place in range(size) if digests[1 + place] != digests[0]} == changed
    assert len({*digests}) == len(changed) + 1


def test_dry_run_prints_commands_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load(tmp_path, study_values(tmp_path))
    assert run_study(study, dry_run=True, entry="fake_stages:main") == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if not line.startswith("#")]
    assert commands == [" ".join(["shaped-trl", *run.argv]) for run in plan(study)]
    assert not study.out.exists()


def test_schedule_starts_the_longest_chain_and_adds_up(tmp_path: Path) -> None:
    values = study_values(tmp_path)
    values["seeds"] = [0]
    runs = plan(load(tmp_path, values))
    measured = {"cross_entropy/seed0/pretrain": 100.0, "precision/seed0/eval": 10.0}
    seconds = estimate_seconds(runs, measured)
    assert seconds["precision/seed0/pretrain"] == 100.0
    assert seconds["cross_entropy/seed0/eval"] == 10.0
    # Not timed yet: the weight of rlvr, 1, at the pace of 110 s for train and eval together, 1.2.
    assert seconds["precision/seed0/rlvr"] == pytest.approx(110 / 1.2)
    chain = path_seconds(runs, seconds)
    assert chain["precision/seed0/pretrain"] == pytest.approx(110 + 110 / 1.2)

    states = {run.key: "waiting" for run in runs} | {"cross_entropy/seed0/pretrain": "done"}
    chosen = next_run(runs, states, seconds)
    assert chosen is not None
    assert chosen.key == "precision/seed0/pretrain"
    states |= {"cross_entropy/seed0/rlvr": "running", "precision/seed0/pretrain": "running"}
    assert next_run(runs, states, seconds) is None
    left = {key: seconds[key] for key, state in states.items() if state != "done"}
    assert remaining_seconds(runs, left, 1) == pytest.approx(100 + 10 + 10 + 2 * 110 / 1.2)
    assert remaining_seconds(runs, left, 9) == pytest.approx(110 + 110 / 1.2)
    assert remaining_seconds(runs, {}, 2) == 0.0


def test_a_seed_ends_before_the_next_begins(tmp_path: Path) -> None:
    runs = plan(load(tmp_path, study_values(tmp_path)))
    assert [run.seed for run in runs[::6]] == [0, 1]
    seconds = {run.key: 10.0 for run in runs}
    states = {run.key: "waiting" for run in runs}
    order = []
    while chosen := next_run(runs, states, seconds):
        order.append(chosen)
        states[chosen.key] = "running"
        if len(order) == 6:
            assert next_run(runs, states, seconds) is None, "the last run of seed 0 has not ended"
        states[chosen.key] = "failed" if chosen.key == "precision/seed0/eval" else "done"
    assert [run.seed for run in order] == [0] * 6 + [1] * 6
    # A seed takes 60 s of work and 30 s of a chain, whatever the other seeds do meanwhile.
    left = {run.key: 10.0 for run in runs}
    assert remaining_seconds(runs, left, 2) == pytest.approx(60.0)
    assert remaining_seconds(runs, left, 9) == pytest.approx(60.0)
    assert remaining_seconds(runs, left, 1) == pytest.approx(120.0)
