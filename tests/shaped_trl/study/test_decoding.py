"""Seeds with data of their own, evaluations at a temperature of their own, and divided heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shaped_eval.benchmarks.running_sums import is_held_out
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from study_values import load, rich_values

from shaped_trl.data import chain_sum, running_sums
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import StudyRun, plan
from shaped_trl.study.reporting.reading import next_evaluations
from shaped_trl.study.runner import prepare_data


def values_of(tmp_path: Path) -> dict[str, Any]:
    """`rich_values` with a divided head, seeds of data and two temperatures of evaluation."""
    values = rich_values(tmp_path)
    values["prepare"]["running_sums"]["seed"] = "{seed}"
    values["regimes"]["rare"]["args"] = {"rlvr": {"max_steps": 7}}
    values["arms"]["divided"] = {
        "checkpoint_of": "cross_entropy",
        "entropy_of": "precision",
        "matched_on": "rollouts",
        "head_divided": True,
    }
    values["arms"]["halved"] = {
        "checkpoint_of": "precision",
        "temperature": 0.5,
        "head_divided": True,
    }
    values["stages"]["eval"] |= {"temperature": [0.6, 1], "args": {"pass_at": [1, 4]}}
    values["stages"]["before"] = {
        "command": "eval",
        "config": values["stages"]["eval"]["config"],
        "model": "midtrain",
        "temperature": 0.6,
    }
    return values


def planned(tmp_path: Path, values: dict[str, Any]) -> dict[str, StudyRun]:
    return {run.key: run for run in plan(load(tmp_path, values))}


def flag(run: StudyRun, name: str) -> str:
    return run.argv[run.argv.index(f"--{name}") + 1]


def test_each_seed_has_its_own_data(tmp_path: Path) -> None:
    study = load(tmp_path, values_of(tmp_path))
    runs = {run.key: run for run in plan(study)}
    for seed in (0, 1):
        train = flag(runs[f"rare/precision/seed{seed}/pretrain"], "dataset")
        assert train == f"{study.out}/data/rare/seed{seed}/train.jsonl"
    of_seed_0 = [run for run in runs.values() if run.seed == 0 and run.regime == "rare"]
    prepare_data(study, of_seed_0)
    assert sorted(path.name for path in (study.out / "data/rare").iterdir()) == ["seed0"]
    prepare_data(study, list(runs.values()))
    texts = [(study.out / f"data/rare/seed{seed}/train.jsonl").read_text() for seed in (0, 1)]
    assert texts[0] != texts[1]


def test_an_evaluation_has_a_stage_for_each_of_its_temperatures(tmp_path: Path) -> None:
    runs = planned(tmp_path, values_of(tmp_path))
    assert "rare/cross_entropy/seed0/eval" not in runs
    for temperature in ("0.6", "1"):
        for arm in ("cross_entropy", "matched", "cool", "divided"):
            run = runs[f"rare/{arm}/seed1/eval-t{temperature}"]
            assert float(flag(run, "temperature")) == float(temperature), "whatever the arm's own"
    assert "T*" in flag(runs["rare/matched/seed0/rlvr"], "temperature")


def test_the_same_model_is_evaluated_once_at_a_temperature(tmp_path: Path) -> None:
    runs = planned(tmp_path, values_of(tmp_path))
    assert "rare/matched/seed0/before" not in runs, "it is that of cross_entropy"
    assert flag(runs["rare/divided/seed0/before"], "model").endswith(
        "divided/seed0/divided-midtrain"
    )


def test_a_divided_head_is_a_model_between_training_and_rl(tmp_path: Path) -> None:
    runs = planned(tmp_path, values_of(tmp_path))
    divided = runs["rare/divided/seed1/divided-midtrain"]
    assert divided.depends_on == (
        "rare/cross_entropy/seed1/midtrain",
        "rare/precision/seed1/midtrain",
    )
    words = divided.argv[divided.argv.index("--rollouts") :]
    assert words[1] == str(tmp_path / "rlvr.yaml")
    assert words[words.index("--max_steps") + 1] == "7"
    assert words[words.index("--seed") + 1] == "1"
    rl = runs["rare/divided/seed1/rlvr"]
    assert rl.depends_on == (divided.key,)
    assert flag(rl, "model_name_or_path") == str(divided.folder)
    assert "--learning_rate" not in rl.argv, "it learns at the recipe's rate"
    halved = runs["rare/halved/seed1/divided-midtrain"]
    assert halved.depends_on == ("rare/precision/seed1/midtrain",)
    assert flag(halved, "temperature") == "0.5"
    assert "--max_steps" not in runs["common/divided/seed1/rlvr"].argv, "only the other regime's"


def test_the_resolved_study_gives_the_same_runs(tmp_path: Path) -> None:
    values = values_of(tmp_path)
    values["arms"]["precision"]["shape_in"] = {"rare": {"beta": -0.9}}
    study = load(tmp_path, values)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "resolved.yaml").write_text(study.to_yaml())
    again = load_study(tmp_path / "again" / "resolved.yaml", study.out)
    assert [run.fingerprint for run in plan(again)] == [run.fingerprint for run in plan(study)]


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("arms", "divided", "checkpoint_of"), None, "arms.divided.head_divided: name the model"),
        (("arms", "halved", "temperature"), None, "arms.halved.head_divided: name the model"),
        (("arms", "divided", "matched_on"), "text", "arms.divided.matched_on: 'text'; choose one"),
        (("arms", "cool", "matched_on"), "rollouts", "arms.cool.matched_on: there is no"),
        (("stages", "rlvr", "temperature"), 0.5, "stages.rlvr.temperature: only eval"),
        (("stages", "eval", "temperature"), [0], "stages.eval.temperature: 0 is not a number"),
        (("regimes", "rare", "args"), {"sft": {}}, "regimes.rare.args: 'sft' is not a stage"),
        (
            ("regimes", "rare", "args"),
            {"pretrain": {"beta": 1}},
            "regimes.rare.args.pretrain.beta: it would bypass",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, where: tuple[str, ...], value: Any, message: str
) -> None:
    values = values_of(tmp_path)
    inner = values
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(UserError) as caught:
        load(tmp_path, values)
    assert message in str(caught.value)


@pytest.mark.parametrize("corpus", [running_sums, chain_sum])
def test_problems_of_a_seed_are_held_out_and_different(corpus: Any, tmp_path: Path) -> None:
    if corpus is chain_sum:
        pytest.importorskip("reasoning_gym", reason="the extra `tasks` is not installed")
    rows = {}
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        corpus.write_corpus(folder, train_rows=8, heldout_rows=8, rl_rows=8, problems=48, seed=seed)
        rows[seed] = list(read_jsonl(folder / "problems.jsonl"))
        prompts = [row["prompt"] for row in rows[seed]]
        assert len(set(prompts)) == 48
        assert all(map(is_held_out, prompts))
    assert rows[0] != rows[1]


def test_an_arm_has_another_shape_in_a_regime(tmp_path: Path) -> None:
    values = values_of(tmp_path)
    before = values["arms"]["precision"]["shape"]["beta"]
    values["arms"]["precision"]["shape_in"] = {"rare": {"beta": -0.9}}
    runs = planned(tmp_path, values)
    found = {
        regime: flag(runs[f"{regime}/precision/seed0/pretrain"], "beta")
        for regime in ("common", "rare")
    }
    assert found == {"common": str(before), "rare": "-0.9"}


def test_a_regime_has_seeds_of_its_own(tmp_path: Path) -> None:
    values = values_of(tmp_path)
    before = planned(tmp_path, values)
    values["regimes"]["rare"]["seeds"] = [1]
    runs = planned(tmp_path, values)
    left_out = {key for key in before if key.startswith("rare/") and "/seed0/" in key}
    assert left_out
    assert runs.keys() == before.keys() - left_out
    assert all(run.fingerprint == before[key].fingerprint for key, run in runs.items())
    study = load(tmp_path, values)
    again = tmp_path / "again.yaml"
    again.write_text(study.to_yaml())
    assert load_study(again, study.out) == study


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"shape": {"beta": -0.25}, "shape_in": {"rarer": {"beta": -1}}}, "rarer"),
        ({"shape": {"beta": -0.25}, "shape_in": {"rare": {"beta": -2}}}, "shape_in.rare: beta=-2"),
        ({"shape_in": {"rare": {"beta": -1}}}, "replaces fields of shape, which is missing"),
    ],
)
def test_a_wrong_shape_in_a_regime_is_refused(tmp_path, arm, message) -> None:
    values = values_of(tmp_path)
    values["arms"]["own"] = arm
    with pytest.raises(UserError, match=message):
        load(tmp_path, values)


def test_a_gain_is_that_of_training_and_not_of_decoding() -> None:
    pairs = list(next_evaluations(load_study("studies/decode")))
    assert pairs == [("eval_midtrain-t0.6", "eval_rlvr-t0.6")]
    assert list(next_evaluations(load_study("studies/cpu"))) == [("eval_pretrain", "eval_rlvr")]
