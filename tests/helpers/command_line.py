"""Runs of the `shaped-trl` command in processes of their own that start at once: forked from a server that has
imported what they need. They can be killed like any other."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = [
    "command_line",
    "eval_suite.sample",
    "transformers.models.qwen3.modeling_qwen3",
    "shaped_trl.recipes",
    "trl",
]


def start(arguments: list[str], errors: Path, **environment: str) -> BaseProcess:
    """``shaped-trl`` with `arguments` on one thread; what it says on standard error goes to the file `errors`."""
    CONTEXT.set_forkserver_preload(PRELOAD)
    process = CONTEXT.Process(target=_main, args=(arguments, str(errors), environment))
    process.start()
    return process


def run(arguments: list[str], errors: Path, **environment: str) -> int:
    """Exit code of the command."""
    process = start(arguments, errors, **environment)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def start_several(count: int, arguments: list[str], errors: Path) -> list[BaseProcess]:
    """`count` processes that share a run, as `torchrun` would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [start(arguments, errors, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(count)]


def _main(arguments: list[str], errors: str, environment: dict[str, str]) -> None:
    os.environ |= environment
    import torch

    torch.set_num_threads(1)
    with open(errors, "a") as file, open(os.devnull, "w") as nothing:
        os.dup2(file.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
        from shaped_trl.cli import main

        code = main(arguments)
    sys.exit(code)
