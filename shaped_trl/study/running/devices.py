"""The GPUs and cores that a study may use."""

from __future__ import annotations

import os
from pathlib import Path

# The driver's files on GPUs. Asking CUDA instead would start it, which takes memory on a GPU.
DRIVER = Path("/proc/driver/nvidia/gpus")


def gpu_names() -> list[str]:
    """The GPUs that this process may use, as numbers or names for CUDA_VISIBLE_DEVICES.

    Parallel runs are distributed over them.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    # CUDA numbers the GPUs from 0, whatever their numbers in /dev are.
    devices = [
        path
        for path in Path("/dev").glob("nvidia[0-9]*")
        if path.name.removeprefix("nvidia").isdigit()
    ]
    return [str(number) for number in range(len(devices))]


def gpu_models() -> str | None:
    """The models of the machine's GPUs, each named once; None if the process may use no GPU."""
    if not gpu_names():
        return None
    lines = [
        line.partition(":")
        for file in sorted(DRIVER.glob("*/information"))
        for line in file.read_text().splitlines()
    ]
    models = sorted({value.strip() for name, _, value in lines if name == "Model"})
    return ", ".join(models) or "a GPU"


def num_threads(max_parallel: int) -> int:
    """The threads of each of so many runs side by side, which share the cores."""
    return max(1, _num_cores() // max_parallel)


def _num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
