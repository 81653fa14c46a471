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
_SHARD_BYTES = 2**20  # of a file in a folder of data, which may have thousands


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
                (name, _digest(path, path.stat().st_mtime_ns, bound))
                for name, path, bound in _named(key, given.get(key))
                if path.is_file() and not path.absolute().is_relative_to(out)
            ]
            if files:
                found[f"{key}-{number}"] = fingerprint(sorted(files))
    return found


def _named(key: str, value: Any) -> Iterator[tuple[str, Path, int]]:
    """Each file that an option names, with its name in the digest and how much of it is read."""
    if not isinstance(value, str) or not value:
        return
    if key in _PATHS:
        path = Path(value)
        if not path.is_dir():
            yield path.name, path, _END_BYTES
        elif key in _MODELS:
            yield from ((each.name, each, _END_BYTES) for each in path.iterdir())
        else:
            yield from ((name, each, _SHARD_BYTES) for name, each in files_inside(path))
    for name in map(str.strip, value.split(",") if key in _BENCHMARKS else ()):
        if is_own(name) and Path(name).is_file():
            first, *rows = _files_of(name, Path(name).stat().st_mtime_ns)
            # One that is a data set as well was named above.
            for each in rows if key in _PATHS else [first, *rows]:
                yield each.name, each, _END_BYTES


@cache
def files_inside(folder: Path) -> list[tuple[str, Path]]:
    """The files of a folder of data, at the time of the plan, without caches and such."""
    found = [(each.relative_to(folder), each) for each in folder.rglob("*")]
    return [
        (inside.as_posix(), each)
        for inside, each in found
        if not any(part.startswith(".") for part in inside.parts)
    ]


@cache
def _files_of(benchmark: str, changed_ns: int) -> list[Path]:
    return files_of(benchmark)


@cache
def _digest(path: Path, changed_ns: int, bound: int) -> str:
    """A digest of the content; beyond twice `bound` bytes, of the size, beginning and end."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        digest.update(file.read(bound))
        file.seek(max(file.tell(), size - bound))
        digest.update(file.read(bound))
    return digest.hexdigest()
