"""`shaped-trl train` on two processes logs, saves and goes on as on one, under each shipped configuration."""

import importlib.util
import shutil

import launched_tiny
import pytest
import torch
from launched_tiny import launched, losses, unfinished, write
from processes import run_processes
from transformers import AutoModelForCausalLM

from shaped_trl.cli import main
from shaped_trl.training.resuming import last_checkpoint

pytestmark = pytest.mark.distributed

HALF = ["--per_device_train_batch_size", "2"]
# two processes share each batch; transformers adds accumulated gradients up wrongly (`engines.check_accumulation`)
SHARED = ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1", "--save_only_model", "true"]
ON_A_CPU = ["--use_cpu", "false", "--ddp_backend", "gloo"]  # or accelerate leaves DeepSpeed out
SHARDED = {"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}
LORA = {
    "use_peft": True,
    "lora_r": 2,
    "packing": True,
    "gradient_checkpointing": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
}
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs: one process's, and two processes' in one start of them."""
    folder = tmp_path_factory.mktemp("runs")
    untied = write(folder)
    tied = write(folder, model_name_or_path=str(folder / "tied"))
    lora = write(folder, model_name_or_path=str(folder / "tied"), **LORA)
    for name, recipe in {"untied": untied, "tied": tied, "lora": lora}.items():
        assert main(["train", "--config", recipe, "--output_dir", str(folder / f"one-{name}")]) == 0

    def run(recipe, name, *words, config="ddp", cut=None, **variables):
        argv = ["train", "--config", recipe, *words, "--output_dir", str(folder / name)]
        return launched(config) | variables, argv, folder / cut if cut else None

    two = [
        run(untied, "ddp", *HALF),
        run(untied, "up", *HALF, cut="one-untied"),
        run(tied, "fsdp2", *HALF, config="fsdp2"),
        run(tied, "fsdp2-sharded", *HALF, config="fsdp2", **SHARDED),
        run(tied, "fsdp2-again", *HALF, config="fsdp2", cut="fsdp2-sharded", **SHARDED),
        run(tied, "tp", *SHARED, config="tp", PARALLELISM_CONFIG_TP_SIZE="2"),
        run(lora, "lora", *HALF),
    ]
    if HAS_DEEPSPEED:
        two.append(run(untied, "zero3", *HALF, *ON_A_CPU, config="zero3"))
    assert run_processes(launched_tiny.run_all, 2, folder, two) == [[0] * len(two)] * 2
    return folder


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("ddp", "one-untied"),
        ("up", "one-untied"),
        ("fsdp2", "one-tied"),
        ("fsdp2-sharded", "one-tied"),
        ("fsdp2-again", "one-tied"),
        ("tp", "one-tied"),
        ("lora", "one-lora"),
        pytest.param("zero3", "one-untied", marks=pytest.mark.skipif(not HAS_DEEPSPEED, reason="no deepspeed")),
    ],
)
def test_two_processes_log_the_losses_of_one(runs, name, alone):
    ours, expected = losses(runs / name), losses(runs / alone)
    print(name, max(abs(one - other) for one, other in zip(ours, expected, strict=True)))
    assert len(ours) == 6
    assert ours == pytest.approx(expected, abs=1e-6)
    assert abs(expected[0] - expected[-1]) > 1e-3


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


@pytest.mark.parametrize("name", ["fsdp2", "fsdp2-sharded", "tp", "zero3"])
def test_a_sharded_run_ends_as_a_whole_model(runs, name):
    if name == "zero3" and not HAS_DEEPSPEED:
        pytest.skip("no deepspeed")
    ours, expected = weights(runs / name), weights(runs / f"one-{'untied' if name == 'zero3' else 'tied'}")
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=1e-4, msg=f"{key} differs: {{}}".format)
    if name != "fsdp2-sharded":
        last = weights(runs / name / "checkpoint-6")
        assert all(torch.equal(ours[key], last[key]) for key in ours)


def test_one_process_goes_on_from_two(runs):
    recipe = str(runs / "0.yaml")
    folder = unfinished(runs / "ddp", runs / "down")
    assert last_checkpoint(folder).endswith("checkpoint-3")
    assert main(["train", "--config", recipe, "--output_dir", str(folder)]) == 0
    assert losses(folder) == pytest.approx(losses(runs / "one-untied"), abs=1e-6)


@pytest.mark.parametrize(
    ("folder", "words", "said"),
    [
        ("ddp", HALF, "8 sequences a step on 2 processes, not 4 on 1"),
        ("fsdp2", [], "under accelerate_config fsdp2, this run is under ddp"),
    ],
)
def test_what_could_not_go_on_is_refused(runs, folder, words, said, tmp_path, capsys):
    recipe = str(runs / ("0.yaml" if folder == "ddp" else "1.yaml"))
    copy = unfinished(runs / folder, tmp_path / "copy")
    assert main(["train", "--config", recipe, *words, "--output_dir", str(copy)]) == 2
    assert said in capsys.readouterr().err
    shutil.rmtree(copy)
