"""`shaped-trl env`: what a bug report needs to say about a machine, as Markdown."""

from __future__ import annotations

import os
import platform

from shaped_trl.usage import argparser

# `shaped_eval.provenance` adds some more.
PACKAGES = (
    *("trl", "accelerate", "peft", "datasets", "tokenizers", "huggingface-hub"),
    *("triton", "vllm", "liger-kernel", "deepspeed", "reasoning-gym"),
)


def env_command(argv: list[str]) -> int:
    argparser(
        "env",
        "Print the versions of Python and of the packages that this project uses, the devices, and "
        "which protections of the sandbox for generated code work on this machine. The text is "
        "Markdown for a bug report.",
    ).parse_args(argv)
    print("\n".join(_lines()))
    return 0


def _lines() -> list[str]:
    from shaped_eval.provenance import package_versions, source_commit

    versions = package_versions(*PACKAGES)
    named = {name: version or "not installed" for name, version in versions.items()}
    lines = ["### Versions", "", *(f"- {name}: {version}" for name, version in named.items())]
    lines += [f"- commit: {source_commit() or 'none; not a checkout'}", f"- system: {_system()}"]
    lines += ["", "### Devices", "", *(f"- {line}" for line in _devices())]
    lines += ["", "### Sandbox for generated code", "", *(f"- {line}" for line in _protections())]
    return lines


def _system() -> str:
    return f"{platform.platform()}, {platform.machine()}"


def _devices() -> list[str]:
    import psutil
    import torch

    # the cores that this process may use, where the system tells
    count = getattr(os, "sched_getaffinity", None)
    cores = len(count(0)) if count else os.cpu_count()
    memory_gib = psutil.virtual_memory().total / 2**30
    lines = [f"CPU: {cores} cores, {memory_gib:.0f} GiB of memory"]
    if not torch.accelerator.is_available():
        return [*lines, "accelerator: none"]
    kind = torch.accelerator.current_accelerator()
    for index in range(torch.accelerator.device_count()):
        lines.append(f"{kind}:{index}: {_accelerator(index)}")
    if torch.version.cuda:
        lines.append(f"CUDA of torch: {torch.version.cuda}")
    return lines


def _accelerator(index: int) -> str:
    import torch

    if not torch.cuda.is_available():
        return "available"
    properties = torch.cuda.get_device_properties(index)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _protections() -> list[str]:
    """What confines generated code here; a process is confined on trial."""
    from shaped_eval.grading.sandbox.confine import missing_protections
    from shaped_eval.grading.sandbox.server import (
        ALLOW_WEAK_VARIABLE,
        SandboxServer,
        SandboxUnavailable,
        weak_allowed,
    )

    lines = [f"missing: {reason}" for reason in missing_protections()]
    if weak_allowed():
        lines.append(f"{ALLOW_WEAK_VARIABLE} is set: generated code runs without them, if need be")
    try:
        server = SandboxServer()
    except SandboxUnavailable as error:
        return [*lines, f"generated code is not run: {error}"]
    lines.append(f"confinement of generated code: {server.confinement}")
    server.close()
    return lines
