"""A preset of another paper can be an arm of a study, and is not taken for a shape of this paper."""

from dataclasses import asdict

import pytest
from shaped_kernels import PRESETS, RewardShape
from study_values import load, study_values

from shaped_trl.options import train_options
from shaped_trl.recipes import Parser
from shaped_trl.study.plan import plan
from shaped_trl.study.reporting.effects import is_beta_alone
from shaped_trl.study.reporting.paper import differences
from shaped_trl.training.config import ShapedConfig

NEIGHBOURS = ("dft", "neg_p", "profit", "eaft", "gem")


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_command_of_the_arm_trains_with_its_shape(tmp_path, name):
    default = asdict(RewardShape())
    own = {key: value for key, value in asdict(PRESETS[name]).items() if value != default[key]}
    values = study_values(tmp_path)
    values["arms"][name] = {"shape": own}
    runs = [run for run in plan(load(tmp_path, values)) if run.arm == name]
    trained = [run for run in runs if own.items() <= run.settings.items()]
    assert trained
    for run in trained:
        places = [run.argv.index(f"--{key}") for key in own]
        flags = [word for place in places for word in run.argv[place : place + 2]]
        options, _ = Parser("train", train_options()).resolve(None, [*flags, "--use_cpu", "true"])
        (args,) = [each for each in options if isinstance(each, ShapedConfig)]
        assert args.reward_shape() == PRESETS[name]


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_the_report_does_not_compare_it_with_the_papers_arms(name):
    assert not is_beta_alone(PRESETS[name])
    assert differences(PRESETS[name]) is None
