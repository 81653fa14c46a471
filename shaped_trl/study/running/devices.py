"""The GPUs and cores that a study may use."""

from __future__ import annotations

import os
from pathlib import Path


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


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
