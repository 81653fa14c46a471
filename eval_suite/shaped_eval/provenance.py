"""What a run must remember so that its numbers can be traced: versions, commit, and hashes."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("shaped-trl", "torch", "transformers", "math-verify", "lm_eval")
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


def stable_hash(value: Any) -> str:
    """64 hexadecimal digits for a JSON value: equal on every machine and in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def package_versions(*more: str) -> dict[str, str | None]:
    """Version of Python and of the packages that decide the numbers; None for one that is not
    installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*_PACKAGES, *more):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def source_commit() -> str | None:
    """Commit of this package's checkout, with ``-dirty`` where files differ from it; None outside
    of one.

    A checkout that merely contains the environment this package is installed in does not count.
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
    # no git, or a file system that does not answer
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def folder_fingerprint(folder: str | Path) -> str:
    """Hash of a model folder: names, sizes, and first, middle and last MiB of weights, config,
    tokenizer.

    It tells a retrained model from the one a run began with, without reading all of its weights:
    training changes every block. It is no protection against a file altered on purpose. What else a
    training run leaves in the folder does not count.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if not path.is_file() or not path.name.startswith(_MODEL_FILES):
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as file:
            for start in sorted({0, max(0, size // 2), max(0, size - _BLOCK_BYTES)}):
                file.seek(start)
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()
