"""A study file becomes command lines; what is wrong with it is said by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval_suite.errors import UserError
from eval_suite.sample import SampleConfig
from shaped_trl.study.definition import Study, load_study
from shaped_trl.study.plan import bound, plan
from shaped_trl.study.runner import run_study
from shaped_trl.study.schedule import estimate_seconds, next_run, path_seconds, remaining_seconds


def study_values(tmp_path: Path) -> dict[str, Any]:
    recipes = {
        "pretrain": {"max_steps": 30, "top_k": 8, "dataset": "{data}/train.jsonl"},
        "rlvr": {"max_steps": 10},
        "eval": {"n": 4},
    }
    for name, recipe in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return {
        "name": "small",
        "seeds": [0, 1],
        "baseline": "cross_entropy",
        "max_parallel": 2,
        "arms": {"cross_entropy": {}, "precision": {"shape": {"beta": -0.25, "lambda_tail": -1e-5}}},
        "stages": {
            "pretrain": {"command": "train", "config": str(tmp_path / "pretrain.yaml"), "shaped": True},
            "rlvr": {"command": "rlvr", "config": str(tmp_path / "rlvr.yaml"), "model": "pretrain"},
            "eval": {
                "command": "eval",
                "config": str(tmp_path / "eval.yaml"),
                "model": "rlvr",
                "args": {"temperature": 1.0, "pass_at": [1, 4]},
            },
        },
    }


def load(tmp_path: Path, values: dict[str, Any]) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_study(path, tmp_path / "out")


def test_a_run_is_one_command_line(tmp_path: Path) -> None:
    study = load(tmp_path, study_values(tmp_path))
    runs = {run.key: run for run in plan(study)}
    assert len(runs) == 2 * 2 * 3
    out = tmp_path / "out"
    folder = out / "runs/precision/seed1"
    assert runs["precision/seed1/pretrain"].argv == (
        *("train", "--config", str(tmp_path / "pretrain.yaml"), "--output_dir", str(folder / "pretrain")),
        *("--seed", "1", "--beta", "-0.25", "--lambda_tail", "-0.00001"),
        *("--dataset", f"{out}/data/train.jsonl"),
    )
    assert runs["precision/seed1/eval"].argv == (
        *("eval", "--config", str(tmp_path / "eval.yaml"), "--model", str(folder / "rlvr")),
        *("--out", str(folder / "eval"), "--seed", "1", "--temperature", "1.0", "--pass_at", "1", "4"),
    )
    assert runs["precision/seed1/rlvr"].depends_on == ("precision/seed1/pretrain",)
    assert runs["precision/seed1/pretrain"].depends_on == ()
    assert "--beta" not in runs["cross_entropy/seed0/pretrain"].argv
    assert runs["precision/seed0/pretrain"].settings["max_steps"] == 30


def rich_values(tmp_path: Path) -> dict[str, Any]:
    """Two regimes; arms that share a checkpoint; one with data, seeds and a stage of its own."""
    values = study_values(tmp_path)
    values["prepare"] = {"running_sums": {"train_rows": 10, "noise": 0.1}}
    values["regimes"] = {"common": {}, "rare": {"running_sums": {"noise": 0.2}}}
    values["arms"] |= {
        "matched": {"checkpoint_of": "cross_entropy", "entropy_of": "precision"},
        "cool": {"checkpoint_of": "cross_entropy", "temperature": 0.75, "exploratory": True, "seeds": [1]},
        "long": {
            "prepare": {"running_sums": {"p_long": 0.9}},
            "args": {"rlvr": {"max_steps": 5}},
            "exploratory": True,
            "seeds": [0],
        },
    }
    midtrain = {"command": "train", "config": str(tmp_path / "pretrain.yaml"), "model": "pretrain", "arms": ["long"]}
    stages = values["stages"]
    values["stages"] = {
        "pretrain": stages["pretrain"],
        "midtrain": midtrain,
        "rlvr": stages["rlvr"] | {"model": "midtrain"},
    }
    values["stages"]["eval"] = stages["eval"]
    (tmp_path / "rlvr.yaml").write_text("max_steps: 10\nlearning_rate: 1.0e-3\nmax_grad_norm: 2.0\n")
    return values


def flag(run: Any, name: str) -> str:
    return run.argv[run.argv.index(f"--{name}") + 1]


def test_arms_share_checkpoints_in_each_regime(tmp_path: Path) -> None:
    study = load(tmp_path, rich_values(tmp_path))
    runs = {run.key: run for run in plan(study)}
    out = tmp_path / "out"
    # 2 regimes × (2 trained arms × 2 seeds × 3 stages, matched 2 × (temperature, rlvr, eval), cool 2, long 4)
    assert len(runs) == 2 * (12 + 6 + 2 + 4)
    base = out / "runs/rare/cross_entropy/seed1/pretrain"
    matched = runs["rare/matched/seed1/rlvr"]
    assert flag(matched, "model_name_or_path") == str(base)
    temperature = runs["rare/matched/seed1/temperature-pretrain"]
    assert matched.depends_on == ("rare/cross_entropy/seed1/pretrain", temperature.key)
    assert temperature.depends_on == ("rare/cross_entropy/seed1/pretrain", "rare/precision/seed1/pretrain")
    like = out / "runs/rare/precision/seed1/pretrain"
    assert temperature.argv == ("match", "--model", str(base), "--like", str(like), "--out", str(temperature.folder))
    assert runs["rare/matched/seed1/eval"].depends_on == (matched.key, temperature.key)
    assert flag(runs["rare/cross_entropy/seed0/pretrain"], "dataset") == f"{out}/data/rare/train.jsonl"
    assert flag(runs["common/long/seed0/pretrain"], "dataset") == f"{out}/data-long/common/train.jsonl"
    rare = next(view for view in study.each_regime() if view.regime == "rare")
    assert rare.preparation("long") == {"running_sums": {"train_rows": 10, "noise": 0.2, "p_long": 0.9}}
    assert flag(runs["common/long/seed0/rlvr"], "model_name_or_path").endswith("common/long/seed0/midtrain")
    assert flag(runs["common/long/seed0/rlvr"], "max_steps") == "5"
    assert flag(runs["common/precision/seed0/rlvr"], "model_name_or_path").endswith("precision/seed0/pretrain")


def shared_values(tmp_path: Path) -> dict[str, Any]:
    """Pre-training is the baseline's, and every arm is shaped in mid-training."""
    values = rich_values(tmp_path)
    stages = values["stages"]
    stages["pretrain"] = {"command": "train", "config": stages["pretrain"]["config"], "shared": True}
    stages["midtrain"] = {key: value for key, value in stages["midtrain"].items() if key != "arms"} | {"shaped": True}
    return values


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
    # its data is the baseline's; what follows is on the arm's own
    assert flag(runs["rare/cross_entropy/seed0/pretrain"], "dataset").endswith("/data/rare/train.jsonl")
    assert flag(runs["rare/long/seed0/midtrain"], "dataset").endswith("/data-long/rare/train.jsonl")
    assert flag(runs["rare/matched/seed1/rlvr"], "model_name_or_path").endswith("rare/cross_entropy/seed1/midtrain")
    likes = runs["rare/matched/seed1/temperature-midtrain"].depends_on
    assert likes == ("rare/cross_entropy/seed1/midtrain", "rare/precision/seed1/midtrain")


def test_a_shared_stage_starts_from_a_shared_one(tmp_path: Path) -> None:
    values = shared_values(tmp_path)
    del values["stages"]["pretrain"]["shared"]
    values["stages"]["midtrain"] |= {"shared": True, "shaped": False}
    with pytest.raises(UserError, match=r"stages.midtrain.shared: pretrain, which it starts from, is not"):
        load(tmp_path, values)


def test_rollouts_at_another_temperature_take_steps_of_its_scale(tmp_path: Path) -> None:
    runs = {run.key: run for run in plan(load(tmp_path, rich_values(tmp_path)))}
    cool = runs["common/cool/seed1/rlvr"]
    # the gradient is 1/T as large: a norm of 2/T clips where 2 did
    scaled = {name: float(flag(cool, name)) for name in ("temperature", "learning_rate", "max_grad_norm")}
    assert scaled == {"temperature": 0.75, "learning_rate": 0.00075, "max_grad_norm": pytest.approx(2 / 0.75)}
    assert flag(runs["common/cool/seed1/eval"], "temperature") == "0.75"
    assert "--temperature" not in runs["common/cross_entropy/seed1/rlvr"].argv
    matched = runs["common/matched/seed1/rlvr"]
    found = matched.folder.parent / "temperature-pretrain" / "temperature.json"
    found.parent.mkdir(parents=True)
    found.write_text(json.dumps({"temperature": 0.5}))
    argv = bound(matched)
    late = {name: argv[argv.index(f"--{name}") + 1] for name in ("temperature", "learning_rate", "max_grad_norm")}
    assert late == {"temperature": "0.5", "learning_rate": "0.0005", "max_grad_norm": "4.0"}
    assert bound(cool) == list(cool.argv)


def test_an_evaluation_without_a_temperature_has_that_of_the_command(tmp_path: Path) -> None:
    values = rich_values(tmp_path)
    del values["stages"]["eval"]["args"]["temperature"]
    runs = {run.key: run for run in plan(load(tmp_path, values))}
    assert float(flag(runs["common/cool/seed1/eval"], "temperature")) == pytest.approx(0.75 * SampleConfig.temperature)


def test_a_changed_arm_changes_what_is_matched_with_it(tmp_path: Path) -> None:
    values = rich_values(tmp_path)
    before = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}
    values["arms"]["precision"]["shape"]["beta"] = -0.5
    after = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}
    changed = {key.split("/")[1] for key in before if before[key] != after[key]}
    assert changed == {"precision", "matched"}
    values["regimes"]["rare"]["running_sums"]["noise"] = 0.3
    again = {run.key: run.fingerprint for run in plan(load(tmp_path, values))}
    assert {key.split("/")[0] for key in before if after[key] != again[key]} == {"rare"}


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
    here, there = (plan(load_study(tmp_path / "study.yaml", tmp_path / place)) for place in ("here", "there"))
    assert [run.fingerprint for run in here] == [run.fingerprint for run in there]


def test_moved_recipes_keep_a_studys_fingerprints(tmp_path: Path) -> None:
    fingerprints = []
    for place in (tmp_path / "here", tmp_path / "there"):
        place.mkdir()
        fingerprints.append([run.fingerprint for run in plan(load(place, study_values(place)))])
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("sedes",), [0], "unknown key 'sedes'; allowed: name, seeds"),
        (("seeds",), [0, 0], "seeds: [0, 0]"),
        (("seeds",), 3, "seeds: 3"),
        (("max_parallel",), 0, "max_parallel: 0"),
        (("baseline",), "focal", "baseline: 'focal' is no arm; choose one of cross_entropy, precision"),
        (("arms", "a/b"), {}, "arm: 'a/b' names a folder"),
        (("arms", "precision", "beta"), 1, "arms.precision: unknown key 'beta'; allowed: shape"),
        (("arms", "precision", "shape", "gamma"), 1, "unknown key 'gamma'; allowed: beta"),
        (("arms", "precision", "shape", "beta"), -2.0, "beta"),
        (("stages", "rlvr", "model"), "eval", "stages.rlvr.model: 'eval' is no earlier train or rlvr stage"),
        (("stages", "rlvr", "shaped"), True, "stages.rlvr.shaped: only train takes a shape"),
        (("stages", "eval", "command"), "evaluate", "stages.eval.command: 'evaluate'; choose one of train"),
        (("stages", "eval", "model"), None, "stages.eval.model: missing"),
        (("stages", "eval", "args"), {"seed": 3}, "stages.eval.args.seed: the study sets it"),
        (("stages", "eval", "args"), {"a": {"b": 1}}, "stages.eval.args.a: {'b': 1} is no value"),
        (("prepare",), {"running_sums": {}, "chain_sum": {}}, "prepare: running_sums and chain_sum would write"),
        (("stages", "pretrain", "shaped"), False, "arms.precision.shape: the arm goes through no stage with shaped"),
        (("prepare",), {"sums": {}}, "prepare: unknown key 'sums'; allowed: running_sums"),
        (("regimes",), {"a": {"sums": {}}}, "regimes.a: unknown key 'sums'"),
        (("nll_within",), 5, "nll_within: 5; give a share"),
        (("arms", "precision", "checkpoint_of"), "x", "arms.precision.checkpoint_of: 'x' is no other arm"),
        (("arms", "precision", "checkpoint_of"), "cross_entropy", "leave out shape and prepare"),
        (("arms", "precision", "entropy_of"), "precision", "arms.precision.entropy_of: 'precision' is no other arm"),
        (("arms", "precision", "temperature"), 0, "arms.precision.temperature: 0 is no number above 0"),
        (("arms", "precision", "args"), {"sft": {"n": 1}}, "arms.precision.args: 'sft' is no stage"),
        (("arms", "precision", "args"), {"eval": {"seed": 1}}, "arms.precision.args.eval.seed: the study sets it"),
        (("arms", "cross_entropy", "seeds"), [1.5], "arms.cross_entropy.seeds: [1.5]"),
        (("stages", "eval", "arms"), ["focal"], "stages.eval.arms: 'focal' is no arm"),
        (("stages", "temperature-rlvr"), {"command": "eval", "config": "c", "model": "rlvr"}, "choose another name"),
        (("stages", "eval", "shared"), True, "stages.eval.shared: only a train stage"),
        (("stages", "pretrain", "shared"), True, "stages.pretrain.shared: only a train stage without shaped"),
        (("stages", "eval", "seconds"), -1, "stages.eval.seconds: -1 is no number above 0"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_bad_studies_are_refused_by_name(tmp_path: Path, place: tuple[str, ...], value: Any, named: str) -> None:
    values = study_values(tmp_path)
    target = values
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(ValueError, match=r".+") as caught:
        load(tmp_path, values)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shape_in_the_recipe_of_a_shaped_stage_is_refused(tmp_path: Path) -> None:
    study = load(tmp_path, study_values(tmp_path))
    (tmp_path / "pretrain.yaml").write_text("beta: 0.5\n")
    with pytest.raises(UserError, match="beta is set in the recipe of pretrain"):
        plan(study)


def test_a_temperature_is_found_for_a_model_of_the_study_alone(tmp_path: Path) -> None:
    values = rich_values(tmp_path)
    del values["stages"]["rlvr"]["model"]
    with pytest.raises(UserError, match=r"arms.matched.entropy_of: rlvr starts from no model that the study trains"):
        load(tmp_path, values)


def test_an_unknown_recipe_is_refused(tmp_path: Path) -> None:
    values = study_values(tmp_path)
    values["stages"]["eval"]["config"] = "demo/nothing"
    with pytest.raises(UserError, match="demo/nothing"):
        plan(load(tmp_path, values))


def test_dry_run_prints_commands_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = load(tmp_path, study_values(tmp_path))
    assert run_study(study, dry_run=True) == 0
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

    waiting = [run.key for run in runs if run.key != "cross_entropy/seed0/pretrain"]
    chosen = next_run(runs, waiting, ["cross_entropy/seed0/pretrain"], seconds)
    assert chosen is not None
    assert chosen.key == "precision/seed0/pretrain"
    assert next_run(runs, ["cross_entropy/seed0/eval"], [], seconds) is None
    left = {key: seconds[key] for key in waiting}
    assert remaining_seconds(runs, left, 1) == pytest.approx(100 + 10 + 10 + 2 * 110 / 1.2)
    assert remaining_seconds(runs, left, 9) == pytest.approx(110 + 110 / 1.2)
    assert remaining_seconds(runs, {}, 2) == 0.0
