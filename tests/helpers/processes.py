"""Starts a few processes that talk over gloo, for tests of sharded code."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from filelock import FileLock


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A folder that `build(folder)` filled, once for all workers of pytest-xdist; the others wait
    for it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp(name)
        build(folder)
        return folder
    folder = factory.getbasetemp().parent / name  # of this session
    with FileLock(f"{folder}.lock"):
        if not (folder / "built").exists():
            shutil.rmtree(folder, ignore_errors=True)  # an attempt that failed
            folder.mkdir()
            build(folder)
            (folder / "built").touch()
    return folder


def results_in(folder: Path, count: int) -> list:
    """What `run_processes` left in its folder."""
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(count)]


def run_processes(
    main: Callable[..., object], count: int, folder: Path, *arguments: object
) -> list:
    """What `main(*arguments)` returned in each of `count` processes that form one group.

    Raises:
        ProcessRaisedException: one of them raised; the others are stopped at once.
    """
    torch.multiprocessing.spawn(_start, (main, count, str(folder), arguments), nprocs=count)
    return results_in(folder, count)


def _start(
    rank: int, main: Callable[..., object], count: int, folder: str, arguments: tuple
) -> None:
    torch.set_num_threads(1)
    # What accelerate and transformers look for. Nothing listens at the address: the group meets in
    # a file.
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    store = dist.FileStore(f"{folder}/store", count)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=180)
    )
    result = main(*arguments)
    torch.save(result, f"{folder}/result-{rank}.pt")
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that gloo and DDP leave behind can abort the interpreter's own way out
