"""Starts a few processes that talk over gloo, for tests of sharded code."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing


def run_processes(main: Callable[..., object], count: int, folder: Path, *arguments: object) -> list:
    """What `main(*arguments)` returned in each of `count` processes that form one group.

    Raises:
        ProcessRaisedException: one of them raised; the others are stopped at once.
    """
    torch.multiprocessing.spawn(_start, (main, count, str(folder), arguments), nprocs=count)
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(count)]


def _start(rank: int, main: Callable[..., object], count: int, folder: str, arguments: tuple) -> None:
    torch.set_num_threads(1)
    # What accelerate and transformers look for. Nothing listens at the address: the group meets in a file.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    store = dist.FileStore(f"{folder}/store", count)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=timedelta(seconds=180))
    result = main(*arguments)
    torch.save(result, f"{folder}/result-{rank}.pt")
    dist.destroy_process_group()
