"""Runs of the `shaped-trl` command in processes of their own that start at once: forked from a
server that has imported what they need. They can be killed like any other."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
PRELOAD = [
    "command_line",
    "shaped_eval.sample",
    "transformers.models.qwen3.modeling_qwen3",
    "shaped_trl.recipes",
    "trl",
]


STOP_AT = "SHAPED_TRL_TEST_STOP_AT"


def start(arguments: list[str], errors: Path, **environment: str) -> BaseProcess:
    """``shaped-trl`` with `arguments` on one thread; what it says on standard error goes to the
    file `errors`.

    With ``STOP_AT=n`` among `environment` it waits once it has written n samples or verdicts, until
    `let_go`.
    """
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


def waits(process: BaseProcess, errors: Path) -> bool:
    """At `STOP_AT`: its main thread alone, so that the others of its run still reach it."""
    return Path(f"{errors}.{process.pid}").exists()


def let_go(process: BaseProcess, errors: Path) -> None:
    Path(f"{errors}.{process.pid}").unlink()


def start_several(
    count: int, arguments: list[str], errors: Path, **environment: str
) -> list[BaseProcess]:
    """`count` processes that share a run, as `torchrun` would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **environment,
    }
    return [
        start(arguments, errors, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(count)
    ]


def _stop_at(most: int, mark: Path) -> None:
    from shaped_eval import grade, sample
    from shaped_eval.records import append_jsonl

    written = 0

    def append(path: Path, rows: list[Any]) -> None:
        nonlocal written
        append_jsonl(path, rows)
        before, written = written, written + len(rows)
        if before < most <= written:
            mark.touch()
            while mark.exists():
                time.sleep(0.01)

    for module in (sample, grade):
        setattr(module, "append_jsonl", append)  # noqa: B010


def _main(arguments: list[str], errors: str, environment: dict[str, str]) -> None:
    os.environ |= environment
    import torch

    torch.set_num_threads(1)
    with open(errors, "a") as file, open(os.devnull, "w") as nothing:
        os.dup2(file.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
        if STOP_AT in environment:
            _stop_at(int(environment[STOP_AT]), Path(f"{errors}.{os.getpid()}"))
        from shaped_trl.cli import main

        code = main(arguments)
    sys.exit(code)
