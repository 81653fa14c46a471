"""The machine on which a run is made: its processor, GPUs, threads and builds of libraries.

The same run ends with other numbers on another machine: rounding differs, and training amplifies
the difference. Therefore runs are compared only if their machines are equal.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from shaped_eval.untrusted.texts import one_line

from shaped_trl.study.running.devices import gpu_models, num_threads

CPU_INFO = Path("/proc/cpuinfo")
LIBRARIES = ("torch", "numpy", "transformers", "trl", "tokenizers", "triton")
UNKNOWN = "a machine that its records do not name"
_HASH_DIGITS = 8
_MOST_LETTERS = 300

Machine = dict[str, Any]


def this_machine(max_parallel: int) -> Machine:
    """This machine, as a run on it is recorded that has its share of the cores.

    ``processor`` has its name, its family, model and stepping, and a hash of the flags of its
    instruction set. ``gpu`` names the models of the GPUs; it is None without any. ``threads`` are
    those of a run. ``builds`` has versions, and as ``torch_config`` a hash of how torch was built.
    """
    import torch

    builds = {name: _version(name) for name in LIBRARIES}
    return {
        "processor": _processor(),
        "gpu": gpu_models(),
        "threads": num_threads(max_parallel),
        "builds": builds | {"torch_config": _short_hash(torch.__config__.show())},
    }


def _processor() -> dict[str, str]:
    try:
        first, _, _ = CPU_INFO.read_text().partition("\n\n")
    except OSError:  # this system describes its processor elsewhere
        return {"name": platform.processor() or platform.machine()}
    lines = [line.partition(":") for line in first.splitlines()]
    given = {name.strip(): value.strip() for name, _, value in lines}
    numbers = [given.get(name, "?") for name in ("cpu family", "model", "stepping")]
    flags = given.get("flags", given.get("Features", ""))  # x86, ARM
    return {
        "name": given.get("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": "/".join(numbers),
        "flags": _short_hash(" ".join(sorted(flags.split()))),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]


def recorded_machine(state: Mapping[str, Any]) -> Machine | None:
    """The machine in done.json, in started.json or in a record's outcome.

    None if it is not named there; earlier versions named the kind of the processor only.
    """
    machine = state.get("machine")
    return machine if isinstance(machine, dict) else None


def descriptions(machines: Sequence[Machine | None]) -> list[str]:
    """Each machine by its processor and by what differs between these machines, on one line."""
    flat = [_flat(machine) for machine in machines if machine is not None]
    names = dict.fromkeys(name for each in flat for name in each)
    shown = [
        name
        for name in names
        if name == "processor name" or len({str(each.get(name)) for each in flat}) > 1
    ]
    return [
        UNKNOWN if machine is None else _described(_flat(machine), shown) for machine in machines
    ]


def _described(flat: Mapping[str, Any], shown: Sequence[str]) -> str:
    parts = [
        str(flat.get(name)) if name == "processor name" else f"{name} {flat.get(name)}"
        for name in shown
    ]
    # A record may be somebody else's, and its texts of any length.
    return one_line(", ".join(parts))[:_MOST_LETTERS]


def _flat(machine: Machine) -> dict[str, Any]:
    """The values of the machine, which are one level deep at most, each with a name in words."""
    flat: dict[str, Any] = {}
    for name, value in machine.items():
        inner = value if isinstance(value, dict) else {"": value}
        for part, each in inner.items():
            words = part if name == "builds" else f"{name} {part}"
            flat[words.replace("_", " ").strip()] = each
    return flat
