"""The private names of TRL and transformers that trainers rely on are checked when they are
built."""

import ast
import tomllib

import pytest
from places import ROOT
from shaped_eval.errors import UserError
from transformers import Trainer
from trl import GRPOTrainer, SFTTrainer
from trl.experimental.async_grpo import AsyncGRPOTrainer, async_rollout_worker
from trl.trainer import grpo_trainer

from shaped_trl.rlvr import RLVRTrainer
from shaped_trl.rlvr.asynchronous import AsyncRLVRTrainer
from shaped_trl.training import trl_names
from shaped_trl.training.trainer import ShapedTrainer
from shaped_trl.training.trl_names import Generated, check_names

TRAINERS = [SFTTrainer, GRPOTrainer, AsyncGRPOTrainer]
RANGE = r"trl 1\.\d+\.\d+.*shaped-trl is tested with trl>=1\.16,<2, transformers>=5\.17"


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_installed_version_has_the_names(trainer):
    check_names(trainer)


def test_the_range_is_that_of_the_package():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    dependencies = tool["hatch"]["metadata"]["hooks"]["custom"]["dependencies"]
    for name, versions in trl_names.TESTED.items():
        assert f"{name}{versions}" in dependencies


def images_too(self, prompts, images):
    raise AssertionError


def test_a_method_with_another_signature_is_refused_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "_generate", images_too)
    with pytest.raises(UserError, match=RANGE) as error:
        RLVRTrainer("no/such-model", len)
    assert "GRPOTrainer._generate takes (prompts, images), not (prompts)" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_that_is_missing_is_refused(monkeypatch):
    monkeypatch.delattr(Trainer, "_get_grad_norm")
    with pytest.raises(UserError, match="SFTTrainer does not have the method _get_grad_norm"):
        ShapedTrainer("no/such-model")


def test_a_method_that_is_called_may_take_more(monkeypatch):
    own = trl_names.CALLED["GRPOTrainer"]["_generate_single_turn"]
    monkeypatch.setitem(trl_names.CALLED["GRPOTrainer"], "_generate_single_turn", own[:2])
    check_names(GRPOTrainer)
    monkeypatch.setitem(trl_names.CALLED["GRPOTrainer"], "_generate_single_turn", own[::-1])
    with pytest.raises(UserError, match=r"_generate_single_turn takes \(prompt_ids, images"):
        check_names(GRPOTrainer)


def test_an_attribute_that_no_method_mentions_is_refused(monkeypatch):
    monkeypatch.setitem(trl_names.ATTRIBUTES, "GRPOTrainer", ("_metrics", "_metrics_of_old"))
    with pytest.raises(UserError, match="GRPOTrainer does not have the attribute _metrics_of_old"):
        check_names(GRPOTrainer)


def test_a_function_that_left_its_module_is_refused(monkeypatch):
    monkeypatch.delattr(grpo_trainer, "print_prompt_completions_sample")
    with pytest.raises(UserError, match="grpo_trainer does not have print_prompt_completions"):
        check_names(GRPOTrainer)


def test_a_method_of_the_loop_of_rollouts_that_is_missing_is_refused(monkeypatch):
    monkeypatch.delattr(async_rollout_worker._AsyncRolloutLoop, "_score_group")
    with pytest.raises(UserError, match=r"does not have _AsyncRolloutLoop\._score_group"):
        AsyncRLVRTrainer("no/such-model", len)


def test_another_number_of_generated_values_is_refused():
    assert Generated.of((1, 2, 3, 4, 5, 6, 7, 8)).completions == 4
    with pytest.raises(UserError, match=r"_generate returns 7 values, not 8"):
        Generated.of((1, 2, 3, 4, 5, 6, 7))


def listed() -> set[str]:
    names = {name for table in trl_names.ATTRIBUTES.values() for name in table}
    for methods in (trl_names.OVERRIDDEN, trl_names.CALLED):
        names |= {name for table in methods.values() for name in table}
    return names | {path.rpartition(".")[2] for _, path in trl_names.ELSEWHERE}


def names_in_the_package() -> set[str]:
    """All names of methods, class attributes and attributes in the package's source."""
    found = set()
    for path in (ROOT / "shaped_trl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found.add(node.targets[0].id)
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_every_private_name_of_a_trainer_is_listed():
    theirs = {name for one in TRAINERS for name in trl_names._attributes(one)}
    ours = names_in_the_package()
    assert set(filter(is_private, theirs & ours)) == set(filter(is_private, theirs & listed()))
    assert {"_generate", "_calculate_rewards", "_tr_loss", "_pending_extra_logs"} <= listed()
