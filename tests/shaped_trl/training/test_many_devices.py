"""`shaped-trl train` works on two processes as on one, under each shipped configuration."""

import importlib.util
import shutil

import launched_tiny
import pytest
import torch
from launched_tiny import launched, losses, unfinished, write
from processes import built_once, run_processes
from transformers import AutoModelForCausalLM

from shaped_trl.cli import main
from shaped_trl.training.resuming import last_checkpoint

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

HALF = ["--per_device_train_batch_size", "2"]
# two processes share each batch; transformers adds accumulated gradients up wrongly
# (`engines.check_accumulation`)
SHARED = [
    "--per_device_train_batch_size",
    "8",
    "--gradient_accumulation_steps",
    "1",
    "--save_only_model",
    "true",
]
ON_A_CPU = ["--use_cpu", "false", "--ddp_backend", "gloo"]  # otherwise DeepSpeed is left out
SHARDED = {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}
LORA = {
    "use_peft": True,
    "lora_r": 2,
    "lora_dropout": 0.0,  # differs by process
    "packing": True,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
}
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs, of one process and of two processes from one start."""
    return built_once(tmp_path_factory, "many_devices", build)


def build(folder):
    recipes = {
        "untied": write(folder),
        "tied": write(folder, model_name_or_path=str(folder / "tied")),
        "lora": write(folder, model_name_or_path=str(folder / "tied"), **LORA),
    }
    for name, recipe in recipes.items():
        assert main(["train", "--config", recipe, "--output_dir", str(folder / f"one-{name}")]) == 0
    two = [
        run(folder, "ddp", "untied", *HALF),
        run(folder, "up", "untied", *HALF, cut="one-untied"),
        run(folder, "fsdp2", "tied", *HALF, config="fsdp2"),
        run(folder, "tp", "tied", *SHARED, config="tp", PARALLELISM_CONFIG_TP_SIZE="2"),
        run(folder, "lora", "lora", *HALF),
        run(folder, "fsdp2-sharded", "tied", *HALF, config="fsdp2", **SHARDED),
        run(folder, "fsdp2-again", "tied", *HALF, config="fsdp2", cut="fsdp2-sharded", **SHARDED),
    ]
    if HAS_DEEPSPEED:
        two.append(run(folder, "zero3", "untied", *HALF, *ON_A_CPU, config="zero3"))
        two.append(
            run(folder, "zero3-again", "untied", *HALF, *ON_A_CPU, config="zero3", cut="zero3")
        )
    assert run_processes(launched_tiny.run_all, 2, folder, two) == [[0] * len(two)] * 2
    one = [run(folder, "fsdp2-down", "tied", config="fsdp2", cut="fsdp2-sharded", **SHARDED)]
    (folder / "store").unlink()
    assert run_processes(launched_tiny.run_all, 1, folder, one) == [[0]]


def run(folder, name, recipe, *words, config="ddp", cut=None, **variables):
    """The arguments of `launched_tiny.run_all`."""
    argv = [
        "train",
        "--config",
        str(folder / f"{['untied', 'tied', 'lora'].index(recipe)}.yaml"),
        *words,
    ]
    return (
        launched(config) | variables,
        [*argv, "--output_dir", str(folder / name)],
        folder / cut if cut else None,
    )


def check_losses(folder, name, alone):
    ours, expected = losses(folder / name), losses(folder / alone)
    assert len(ours) == 6
    assert ours == pytest.approx(expected, abs=1e-6)
    assert abs(expected[0] - expected[-1]) > 1e-3


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("ddp", "one-untied"),
        ("up", "one-untied"),
        ("fsdp2", "one-tied"),
        ("tp", "one-tied"),
        ("lora", "one-lora"),
    ],
)
def test_two_processes_log_the_losses_of_one(runs, name, alone):
    check_losses(runs, name, alone)


@pytest.mark.parametrize("name", ["fsdp2-sharded", "fsdp2-again", "fsdp2-down"])
def test_sharded_checkpoints_go_on_with_the_losses_of_one_process(runs, name):
    check_losses(runs, name, "one-tied")


@pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")
@pytest.mark.parametrize("name", ["zero3", "zero3-again"])
def test_zero3_logs_the_losses_of_one_process(runs, name):
    check_losses(runs, name, "one-untied")


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def check_weights(folder, name, alone):
    ours, expected = weights(folder / name), weights(folder / alone)
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            ours[key], value, rtol=0, atol=1e-4, msg=f"{key} differs: {{}}".format
        )


@pytest.mark.parametrize("name", ["fsdp2", "tp"])
def test_a_sharded_run_ends_as_a_whole_model(runs, name):
    check_weights(runs, name, "one-tied")
    last, saved = weights(runs / name / "checkpoint-6"), weights(runs / name)
    assert all(torch.equal(last[key], saved[key]) for key in saved)


def test_a_run_with_sharded_checkpoints_ends_as_a_whole_model(runs):
    assert not list((runs / "fsdp2-sharded" / "checkpoint-6").glob("*.safetensors"))
    check_weights(runs, "fsdp2-sharded", "one-tied")
    if HAS_DEEPSPEED:
        check_weights(runs, "zero3", "one-untied")


def test_one_process_goes_on_from_two(runs):
    recipe = str(runs / "0.yaml")
    folder = unfinished(runs / "ddp", runs / "down")
    assert last_checkpoint(folder).endswith("checkpoint-3")
    assert main(["train", "--config", recipe, "--output_dir", str(folder)]) == 0
    assert losses(folder) == pytest.approx(losses(runs / "one-untied"), abs=1e-6)


@pytest.mark.parametrize(
    ("folder", "words", "message"),
    [
        ("ddp", HALF, "8 sequences a step on 2 processes, not 4 on 1"),
        ("fsdp2", [], "under accelerate_config fsdp2, but this run uses ddp"),
    ],
)
def test_what_could_not_go_on_is_refused(runs, folder, words, message, tmp_path, capsys):
    recipe = str(runs / ("0.yaml" if folder == "ddp" else "1.yaml"))
    copy = unfinished(runs / folder, tmp_path / "copy")
    assert main(["train", "--config", recipe, *words, "--output_dir", str(copy)]) == 2
    assert message in capsys.readouterr().err
    shutil.rmtree(copy)
