"""Errors in a study file are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from shaped_eval.errors import UserError
from study_values import load, rich_values, study_values

from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import check_options, plan


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("sedes",), [0], "unknown key 'sedes'; allowed: name, seeds"),
        (("seeds",), [0, 0], "seeds: [0, 0]"),
        (("seeds",), 3, "seeds: 3"),
        (("max_parallel",), 0, "max_parallel: 0"),
        (
            ("baseline",),
            "focal",
            "baseline: 'focal' is not an arm; choose one of cross_entropy, precision",
        ),
        (("arms", "a/b"), {}, "arm: 'a/b' would name a folder"),
        (("arms", "precision", "beta"), 1, "arms.precision: unknown key 'beta'; allowed: shape"),
        (("arms", "precision", "shape", "gamma"), 1, "unknown key 'gamma'; allowed: beta"),
        (("arms", "precision", "shape", "beta"), -2.0, "beta"),
        (
            ("stages", "rlvr", "model"),
            "eval",
            "stages.rlvr.model: 'eval' is not an earlier train or rlvr stage",
        ),
        (("stages", "rlvr", "shaped"), True, "stages.rlvr.shaped: only train takes a shape"),
        (
            ("stages", "eval", "command"),
            "evaluate",
            "stages.eval.command: 'evaluate'; choose one of train",
        ),
        (("stages", "eval", "model"), None, "stages.eval.model: missing"),
        (("stages", "eval", "args"), {"seed": 3}, "stages.eval.args.seed: the study sets it"),
        (
            ("stages", "eval", "args"),
            {"a": {"b": 1}},
            "stages.eval.args.a: {'b': 1} is not a value",
        ),
        (
            ("stages", "pretrain", "args"),
            {"output-dir": "/tmp/elsewhere"},
            "stages.pretrain.args: 'output-dir' is not the name of an option",
        ),
        (("stages", "eval", "args"), {5: 1}, "stages.eval.args: 5 is not the name of an option"),
        (
            ("stages", "eval", "args"),
            {"n=4 --out": "x"},
            "stages.eval.args: 'n=4 --out' is not the name",
        ),
        (
            ("arms", "precision", "args"),
            {"eval": {"n": [5, "--push_to_hub=true"]}},
            "arms.precision.args.eval.n: '--push_to_hub=true' would be read as another option",
        ),
        (
            ("regimes",),
            {"a": {"args": {"eval": {"label": "--help"}}}},
            "regimes.a.args.eval.label: '--help' would be read as another option",
        ),
        (
            ("prepare",),
            {"running_sums": {}, "chain_sum": {}},
            "prepare: running_sums and chain_sum would write",
        ),
        (
            ("stages", "pretrain", "shaped"),
            False,
            "arms.precision.shape: the arm has no stage of its own with shaped",
        ),
        (("prepare",), {"sums": {}}, "prepare: unknown key 'sums'; allowed: running_sums"),
        (("regimes",), {"a": {"sums": {}}}, "regimes.a: unknown key 'sums'"),
        (("nll_within",), 5, "nll_within: 5; give a share"),
        (
            ("arms", "precision", "checkpoint_of"),
            "x",
            "arms.precision.checkpoint_of: 'x' is not another arm",
        ),
        (("arms", "precision", "checkpoint_of"), "cross_entropy", "leave out shape and prepare"),
        (
            ("arms", "precision", "entropy_of"),
            "precision",
            "arms.precision.entropy_of: 'precision' is not another arm",
        ),
        (
            ("arms", "precision", "temperature"),
            0,
            "arms.precision.temperature: 0 is not a number above 0",
        ),
        (
            ("arms", "precision", "args"),
            {"sft": {"n": 1}},
            "arms.precision.args: 'sft' is not a stage",
        ),
        (
            ("arms", "precision", "args"),
            {"eval": {"seed": 1}},
            "arms.precision.args.eval.seed: the study sets it",
        ),
        (("arms", "cross_entropy", "seeds"), [1.5], "arms.cross_entropy.seeds: [1.5]"),
        (
            ("stages", "temperature-rlvr"),
            {"command": "eval", "config": "c", "model": "rlvr"},
            "this name is reserved",
        ),
        (("stages", "eval", "shared"), True, "stages.eval.shared: only a train stage"),
        (
            ("stages", "pretrain", "shared"),
            True,
            "stages.pretrain.shared: only a train stage without shaped",
        ),
        (
            ("stages", "pretrain", "args"),
            {"beta": 0.5},
            "pretrain.args.beta: it would bypass",
        ),
        (
            ("stages", "pretrain", "args"),
            {"shape_schedule": "{}"},
            "args.shape_schedule: it would bypass",
        ),
        (
            ("arms", "precision", "args"),
            {"pretrain": {"shape": "diversity"}},
            "args.pretrain.shape: it would",
        ),
        (
            ("arms", "c"),
            {"checkpoint_of": "precision", "args": {"pretrain": {"n": 1}}},
            "precision runs pretrain for this arm",
        ),
        (
            ("prepare",),
            {"running_sums": {"train_row": 9}},
            "prepare.running_sums: train_row: no such option",
        ),
        (
            ("prepare",),
            {"running_sums": {"noise": "1e-1"}},
            "prepare.running_sums: noise='1e-1': give a number",
        ),
        (
            ("prepare",),
            {"running_sums": {"train_rows": 9.0}},
            "train_rows=9.0: give a whole number of at least 1",
        ),
        (
            ("prepare",),
            {"running_sums": {"length_weights": 1}},
            "length_weights=1: give a list of numbers",
        ),
        (
            ("prepare",),
            {"running_sums": {"modulus": 7}},
            "modulus: the benchmark running_sums needs 10",
        ),
        (("stages", "eval", "seconds"), -1, "stages.eval.seconds: -1 is not a number above 0"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else None,
)
def test_bad_studies_are_refused_by_name(
    tmp_path: Path, place: tuple[str, ...], value: Any, named: str
) -> None:
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


def test_what_a_study_cannot_fill_in_or_scale_is_refused(tmp_path: Path) -> None:
    values = rich_values(tmp_path)
    (tmp_path / "rlvr.yaml").write_text("learning_rate: high\n")
    with pytest.raises(UserError, match="learning_rate: 'high' is not a number"):
        plan(load(tmp_path, values))
    (tmp_path / "rlvr.yaml").write_text("max_steps: 10\n")
    (tmp_path / "pretrain.yaml").write_text(
        'mixture: [{dataset_name: "{data}/train.jsonl", weight: 1.0}]\n'
    )
    with pytest.raises(UserError, match=r"\{data\} is nested within mixture"):
        plan(load(tmp_path, values))
    (tmp_path / "twice.yaml").write_text("arms: {a: {}, b: {}, a: {}}\n")
    with pytest.raises(UserError, match="'a' is given twice"):
        load_study(tmp_path / "twice.yaml")


def test_a_temperature_is_found_for_a_model_of_the_study_alone(tmp_path: Path) -> None:
    values = rich_values(tmp_path)
    del values["stages"]["rlvr"]["model"]
    with pytest.raises(
        UserError, match=r"arms.matched.entropy_of: rlvr starts from no model that the study trains"
    ):
        load(tmp_path, values)


@pytest.mark.parametrize(
    ("temperatures", "named"),
    [
        ([], "stages.eval.temperature: the list is empty"),
        ([0.6, 0.6000001], "there are two stages eval-t0.6"),
    ],
)
def test_a_list_of_temperatures_makes_as_many_stages(
    tmp_path: Path, temperatures: list[float], named: str
) -> None:
    values = study_values(tmp_path)
    del values["stages"]["eval"]["args"]["temperature"]
    values["stages"]["eval"]["temperature"] = temperatures
    with pytest.raises(UserError, match=named):
        load(tmp_path, values)


@pytest.mark.parametrize(
    ("seeds", "named"),
    [
        ([0, 7], r"regimes.rare.seeds: the study does not have all of these; it has \(0, 1\)"),
        ([], r"regimes.rare.seeds: \[\]; give a list of distinct whole numbers"),
    ],
)
def test_seeds_of_a_regime_are_the_studys(tmp_path: Path, seeds: list[int], named: str) -> None:
    values = rich_values(tmp_path)
    values["regimes"]["rare"]["seeds"] = seeds
    with pytest.raises(UserError, match=named):
        load(tmp_path, values)


@pytest.mark.parametrize("text", ["seeds: " + "[" * 5000, "seeds: " + "[" * 50 + "]" * 50])
def test_lists_within_lists_end_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    values = study_values(tmp_path)
    del values["seeds"]
    path.write_text(yaml.safe_dump(values, sort_keys=False) + text)
    with pytest.raises(UserError, match=r"nested too deeply|seeds: .*give a list") as caught:
        load_study(path)
    assert len(str(caught.value)) < 300


def test_a_value_that_repeats_itself_is_shown_short(tmp_path: Path) -> None:
    """Each level has nine times the one before: written out, it would fill any memory."""
    values = study_values(tmp_path)
    del values["seeds"]
    nested = "[1]"
    for level in range(30):
        nested = f"[&l{level} {nested}, {', '.join([f'*l{level}'] * 8)}]"
    path = tmp_path / "study.yaml"
    path.write_text(f"seeds: {nested}\n{yaml.safe_dump(values, sort_keys=False)}")
    with pytest.raises(UserError, match=r"seeds: .*give a list of distinct whole") as caught:
        load_study(path)
    assert len(str(caught.value)) < 300


def test_an_unknown_recipe_is_refused(tmp_path: Path) -> None:
    values = study_values(tmp_path)
    values["stages"]["eval"]["config"] = "demo/nothing"
    with pytest.raises(UserError, match="demo/nothing"):
        plan(load(tmp_path, values))


@pytest.mark.parametrize("in_recipe", [True, False])
def test_evaluations_of_every_checkpoint_are_refused_before_anything_runs(
    tmp_path: Path, in_recipe: bool
) -> None:
    values = study_values(tmp_path)
    if in_recipe:
        (tmp_path / "eval.yaml").write_text("n: 4\nevery_checkpoint: true\n")
    else:
        values["stages"]["eval"]["args"] = {"every_checkpoint": True}
    runs = plan(load(tmp_path, values))
    with pytest.raises(UserError, match=r"/eval: every_checkpoint: .* set eval_benchmarks in"):
        check_options([run for run in runs if run.stage == "eval"])
