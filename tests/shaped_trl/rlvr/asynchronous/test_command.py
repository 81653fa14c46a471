"""`shaped-trl rlvr --asynchronous true`: recipes, help, and what is refused in one line."""

import pytest
import torch
from rlvr_async import save_model
from shaped_eval.errors import UserError

from shaped_trl import recipes
from shaped_trl.cli import main
from shaped_trl.commands.training import is_on
from shaped_trl.options import rlvr_options
from shaped_trl.rlvr.asynchronous import server
from shaped_trl.rlvr.asynchronous.config import AsyncRLVRConfig

NAMES = [name for name in recipes.names() if name.endswith("/rlvr-async")]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_parsed(name, tmp_path):
    given = ["--output_dir", str(tmp_path)]
    resolved, settings = recipes.Parser("rlvr", rlvr_options(True)).resolve(name, given)
    assert is_on("asynchronous", name, [])
    assert "experimental" in recipes.contract(name)
    args = resolved[1]
    assert args.weight_transfer == settings["weight_transfer"]
    assert args.dtype == settings["dtype"]


def test_there_are_recipes_for_a_cpu_and_for_gpus():
    assert {name.partition("/")[0] for name in NAMES} == {"qwen3-0.6b", "smollm2-135m"}


@pytest.mark.parametrize(
    ("words", "on"),
    [
        ([], False),
        (["--asynchronous"], True),
        (["--asynchronous", "true"], True),
        (["--asynchronous=True"], True),
        (["--asynchronous", "false"], False),
        (["--asynchronous", "--max_steps", "3"], True),
        (["--asynchronous", "true", "--asynchronous", "false"], False),
    ],
)
def test_the_command_line_wins(words, on):
    assert is_on("asynchronous", None, words) is on
    assert is_on("asynchronous", NAMES[0], words) is (on if words else True)


HERE = ["--max_steps", "1", "--model_name_or_path", "m", "--dataset_name", "p.jsonl"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loss_type", "grpo"], "--loss_type is not available with asynchronous: true, where"),
        (["--importance_sampling_level", "sequence"], "--importance_sampling_level is not avail"),
        (["--use_vllm", "true"], "--use_vllm is not available"),
        (["--beta", "0.1"], "--beta is not available"),
        (["--max_stalenes", "1"], "unknown flag: --max_stalenes; did you mean --max_staleness?"),
        (
            [*HERE, "--num_heldout", "4"],
            "num_heldout=4: the asynchronous trainer does not evaluate",
        ),
        ([], "max_steps=-1 must be at least 1"),
    ],
)
def test_what_the_asynchronous_trainer_lacks_is_refused(words, message, tmp_path, capsys):
    given = ["rlvr", "--asynchronous", "true", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    assert main([*given, *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_what_the_other_trainer_lacks_is_refused(tmp_path, capsys):
    assert main(["rlvr", "--output_dir", str(tmp_path), "--max_staleness", "3"]) == 2
    assert "--max_staleness needs asynchronous: true" in capsys.readouterr().err


def test_its_help_is_its_own(capsys):
    assert main(["rlvr", "--asynchronous", "true", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--max_staleness" in shown
    assert "--vllm_mode" not in shown


def test_the_server_of_a_run_is_started_for_its_model(tmp_path, monkeypatch, capsys):
    model = str(save_model(tmp_path / "model"))
    started = []
    monkeypatch.setattr(server.os, "execvp", lambda program, command: started.append(command))
    monkeypatch.setattr(server, "find_spec", lambda name: True)
    words = ["rlvr", "--config", "smollm2-135m/rlvr-async", "--model_name_or_path", model]
    assert main([*words, "--serve", "true"]) == 0
    (command,) = started
    assert command[command.index("--model") + 1] == model
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--dtype") + 1] == "float32"
    assert command[command.index("--max-model-len") + 1] == str(64 + 3)
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    assert main([*words, "--serve", "true"]) == 2
    assert main([*words, "--serve", "true", "--asynchronous", "false"]) == 2
    errors = capsys.readouterr().err
    assert "serve=True needs vLLM" in errors
    assert "serve=True needs asynchronous: true" in errors


def test_the_command_of_a_server_has_no_effect_on_the_terminal(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(server.os, "execvp", lambda program, command: started.append(command))
    monkeypatch.setattr(server, "find_spec", lambda name: True)
    args = AsyncRLVRConfig(str(tmp_path), max_steps=1, use_cpu=True)
    model = "\x1b]0;title\x07 \u202e"
    server.serve(model, args, None)
    assert model in started[0]
    shown = capsys.readouterr().out
    assert "'[U+001B]]0;title[U+0007] [U+202E]'" in shown
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_nccl_needs_a_gpu_before_a_model_is_loaded(tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("here is a GPU")
    from shaped_trl.rlvr.asynchronous.trainer import _check

    args = AsyncRLVRConfig(str(tmp_path), max_steps=1, use_cpu=True)
    with pytest.raises(UserError, match="weight_transfer='nccl' needs a GPU"):
        _check("m", [print], None, args)
