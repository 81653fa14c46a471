"""`shaped-trl train` in two processes, under each shipped configuration of accelerate."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model, tiny_tokenizer

from shaped_trl import launch
from shaped_trl.cli import main

RECIPE = {
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "max_length": 32,
    "logging_steps": 1,
    "save_steps": 3,
    "beta": -0.25,
    "lambda_tail": -0.1,
    "top_k": 5,
    "gradient_checkpointing": False,
    "disable_tqdm": True,
    "use_cpu": True,
}


def write(folder: Path, **changes) -> str:
    """Write a model, rows and a recipe to `folder`; return the recipe's path."""
    if not (folder / "rows.jsonl").is_file():
        for name, tied in (("model", False), ("tied", True)):
            tiny_model(tie_word_embeddings=tied, num_key_value_heads=2).save_pretrained(
                folder / name
            )
            tiny_tokenizer().save_pretrained(folder / name)
        text_rows(200).to_json(folder / "rows.jsonl")
    data = {"model_name_or_path": str(folder / "model"), "dataset_name": str(folder / "rows.jsonl")}
    path = folder / f"{len(list(folder.glob('*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump(data | RECIPE | changes))
    return str(path)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / "train_log.jsonl") if "loss" in row]


def launched(config: str, *words: str) -> dict[str, str]:
    """The environment of two processes as from `accelerate launch --config_file`."""
    given = [
        "--config_file",
        str(launch.find_config(config)),
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]
    args = launch_command_parser().parse_args([*given, *words, "-m", "shaped_trl.cli"])
    args, _, _ = _validate_launch_command(args)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ""
        environment = prepare_deepspeed_cmd_env(args)[1]
    else:
        environment = prepare_multi_gpu_env(args)
    names = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_")
    return {name: value for name, value in environment.items() if name.startswith(names)}


@contextmanager
def environment(variables: dict[str, str]):
    before = dict(os.environ)
    os.environ |= variables
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def unfinished(run: Path, copy: Path) -> Path:
    """A copy of a run's folder, as if it had been killed after checkpoint-3."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoint-6", "*.safetensors"))
    shutil.copytree(run / "checkpoint-3", copy / "checkpoint-3", dirs_exist_ok=True)
    return copy


def run_all(runs: list[tuple[dict[str, str], list[str], Path | None]]) -> list[int]:
    """The exit codes of `shaped-trl` for these runs, each (environment, arguments, folder).

    A run with a folder continues a copy of that folder's run, cut off in the middle. The last of its
    arguments is its own folder.
    """
    if any("ACCELERATE_USE_DEEPSPEED" in variables for variables, _, _ in runs):
        os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed  # noqa: F401

        # only for inference, and DeepSpeed would compile it
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    codes = []
    for variables, argv, cut in runs:
        if cut is not None:
            if dist.get_rank() == 0:
                unfinished(cut, Path(argv[-1]))
            dist.barrier()
        with environment(variables):
            codes.append(main(argv))
    return codes
