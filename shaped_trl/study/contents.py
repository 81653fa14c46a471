"""The content of the user's files and folders that a run reads, which is a part of its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.own import files_of, is_own

# Options that may name a file or a folder.
_MODELS = ("model_name_or_path", "model", "tokenizer_name_or_path")
_PATHS = (*_MODELS, "dataset_name", "dataset_test_split", "accelerate_config")
# Options that may name benchmarks by their files, separated by commas.
_BENCHMARKS = ("benchmarks", "eval_benchmarks", "benchmark_format", "dataset_name")
_END_BYTES = 2**28


def fingerprint(value: Any) -> str:
    """A short hash of JSON-like data, the same on every machine."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def contents(out: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Option → digest of the files that it names: data, benchmarks with their rows, and models.

    What lies in the study's folder `out` is left out, since it has fingerprints.
    """
    sources = settings.get("mixture")
    mixed = (
        [entry for entry in sources if isinstance(entry, dict)] if isinstance(sources, list) else []
    )
    found: dict[str, str] = {}
    for number, given in enumerate([settings, *mixed]):
        for key in dict.fromkeys((*_PATHS, *_BENCHMARKS)):
            files = [
                (name, _digest(path, path.stat().st_mtime_ns))
                for name, path in _named(key, given.get(key))
                if path.is_file() and not path.absolute().is_relative_to(out)
            ]
            if files:
                found[f"{key}-{number}"] = fingerprint(sorted(files))
    return found


def _named(key: str, value: Any) -> Iterator[tuple[str, Path]]:
    """Each file that an option names, with its name in the digest."""
    if not isinstance(value, str) or not value:
        return
    if key in _PATHS:
        path = Path(value)
        if not path.is_dir():
            yield path.name, path
        elif key in _MODELS:
            yield from ((each.name, each) for each in path.iterdir())
        else:
            for each in path.rglob("*"):
                inside = each.relative_to(path)
                if not any(part.startswith(".") for part in inside.parts):  # caches and such
                    yield inside.as_posix(), each
    for name in map(str.strip, value.split(",") if key in _BENCHMARKS else ()):
        if is_own(name) and Path(name).is_file():
            first, *rows = _files_of(name, Path(name).stat().st_mtime_ns)
            # One that is a data set as well was named above.
            yield from ((each.name, each) for each in (rows if key in _PATHS else [first, *rows]))


@cache
def _files_of(benchmark: str, changed_ns: int) -> list[Path]:
    return files_of(benchmark)


@cache
def _digest(path: Path, changed_ns: int) -> str:
    """A digest of the content; for a large file, of its size, beginning and end."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(_END_BYTES))
        file.seek(max(file.tell(), size - _END_BYTES))
        digest.update(file.read(_END_BYTES))
    return digest.hexdigest()
