"""Copies data sets of the Hub into the folder that ``--hub_mirror`` reads without a network.

    DIR/<dataset id>/<config or "default">/<split>.jsonl   the rows, one JSON object a line
    DIR/mirror.json                                        of each file: revision, licence, hash

A file is written at once or not at all, so a command that was killed continues where it stopped. A
data set's files are all of one revision: the newest one when the first of them was written.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shaped_eval.benchmarks import code
from shaped_eval.benchmarks.check_hub import licence_of
from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.benchmarks.own import is_file_of_rows
from shaped_eval.benchmarks.registry import ELSEWHERE, GENERATED, benchmark_of, check_names
from shaped_eval.benchmarks.suites import SUITES
from shaped_eval.errors import UserError
from shaped_eval.hub.errors import hub_errors, hub_reason
from shaped_eval.records import write_atomic
from shaped_eval.untrusted.files import check_folder, own_folder, replacing
from shaped_eval.untrusted.rows import read_object

RECORD = "mirror.json"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,149}")


class Source(NamedTuple):
    """One split of a data set. `config` None is the default one, `split` None stands for all."""

    dataset_id: str
    config: str | None
    split: str | None

    @property
    def path(self) -> str:
        """Where `shaped_eval.sources` looks for the split, below the mirror."""
        return f"{self.dataset_id}/{self.config or 'default'}/{self.split}.jsonl"


def mirror(benchmarks: str, datasets: str, out: str | Path) -> Path:
    """Write what benchmarks read, and other data sets, into a mirror; return its folder.

    Prints a line for each file. Files that the mirror has already are kept. Gated data sets are
    read with the user's token.

    Args:
        benchmarks: names of benchmarks and suites, separated by commas; paths of files of one's
            own.
        datasets: ``id``, ``id:config`` or ``id:config:split``, separated by commas; without a split
            all of them are written.
        out: the mirror's folder.

    Raises:
        UserError: nothing is named; a name, an id, a config or a split is wrong; a data set cannot
            be read from the Hub, or holds what JSON does not; or a file has changed since it was
            written. What was written before stays.
    """
    check_folder(out)
    sources = [*_of_benchmarks(benchmarks), *_of_datasets(datasets)]
    if not sources:
        raise UserError("mirror: name --benchmarks or --datasets that are on the Hub")
    out = own_folder(out)
    record = _read(out)
    for source in dict.fromkeys(each for named in sources for each in _splits(named)):
        if _is_written(out, source, record):
            print(f"{source.path}: kept")
            continue
        print(f"{source.path}: {_fetch(out, source, record):,} rows")
    return out


def _of_benchmarks(text: str) -> list[Source]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    names = list(dict.fromkeys(name for word in words for name in SUITES.get(word, (word,))))
    if names:
        check_names(names)
    return [source for name in names for source in _of_benchmark(name)]


def _of_benchmark(name: str) -> Iterator[Source]:
    """The splits that a benchmark and its worked examples are read from."""
    if name in HARNESS:
        from shaped_eval.benchmarks.harness.problems import configs_of

        spec = HARNESS[name]
        for config in configs_of(name):
            for split in (spec.split, spec.shots_split):
                if split is not None:
                    yield Source(spec.dataset_id, config, split)
        return
    if name in GENERATED or name in ELSEWHERE:
        print(f"{name}: made by a program, nothing to fetch", file=sys.stderr)
        return
    benchmark = benchmark_of(name)
    for split in (benchmark.split, benchmark.shots_split):
        if split is not None and not any(map(is_file_of_rows, (benchmark.dataset_id, split))):
            yield _checked(Source(benchmark.dataset_id, benchmark.config, split))
    if benchmark.shots_from is not None:  # MBPP and MBPP+ take their examples from each other
        yield from (Source(*code.MBPP), Source(*code.MBPP_PLUS))


def _of_datasets(text: str) -> list[Source]:
    found = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        dataset_id, *rest = word.split(":")
        if len(rest) > 2:
            raise UserError(f"datasets={word!r}: write id, id:config or id:config:split")
        config, split = ([part or None for part in rest] + [None, None])[:2]
        found.append(_checked(Source(dataset_id, config, split)))
    return found


def _checked(source: Source) -> Source:
    """The source, whose parts become parts of a path."""
    parts = [*source.dataset_id.split("/"), source.config or "default", source.split or "all"]
    if source.dataset_id.count("/") > 1 or not all(map(_PART.fullmatch, parts)):
        raise UserError(
            f"datasets={':'.join(part or '' for part in source)!r}: an id such as openai/gsm8k, "
            "a config and a split consist of letters, digits and ._+-"
        )
    return source


def _splits(source: Source) -> list[Source]:
    if source.split is not None:
        return [source]
    from datasets import get_dataset_split_names

    names = _asked(source, lambda: get_dataset_split_names(source.dataset_id, source.config))
    return [_checked(source._replace(split=str(name))) for name in names]


def _read(out: Path) -> dict[str, Any]:
    path = out / RECORD
    return read_object(path, _check_record) if path.is_file() else {}


def _check_record(record: dict[str, Any]) -> None:
    """Raise ValueError for a record that this command has not written."""
    for path, known in record.items():
        if not isinstance(known, dict) or not all(
            isinstance(known.get(name), str) for name in ("revision", "sha256")
        ):
            raise ValueError(f"{path!r} lacks its revision or sha256")


def _is_written(out: Path, source: Source, record: dict[str, Any]) -> bool:
    """Whether the mirror has the file, as this command wrote it or as somebody put it there."""
    path = out / source.path
    if not path.is_file():
        return False
    known = record.get(source.path)
    if known is not None and known["sha256"] != _sha256(path):
        raise UserError(
            f"{str(path)!r} has changed since it was written: remove it, and it is fetched again"
        )
    return True


def _fetch(out: Path, source: Source, record: dict[str, Any]) -> int:
    """Write the rows of one split, and the record with it; return the number of rows."""
    from datasets import load_dataset
    from huggingface_hub import HfApi

    dataset_id, config, split = source
    revision = _revision(dataset_id, record)
    info = _asked(source, lambda: HfApi().dataset_info(dataset_id, revision=revision))
    rows = _asked(source, lambda: load_dataset(dataset_id, config, split=split, revision=info.sha))
    folder = own_folder(out, *dataset_id.split("/"), config or "default")
    digest = hashlib.sha256()
    with replacing(folder / f"{split}.jsonl") as file:
        for line in _lines(source, rows):
            digest.update(line.encode())
            file.write(line)
        record[source.path] = {
            "revision": info.sha,
            "licence": licence_of(info),
            "gated": bool(info.gated),
            "sha256": digest.hexdigest(),
            "rows": len(rows),
        }
        # before the rows take their place: a killed command leaves no file without its record
        write_atomic(out / RECORD, json.dumps(record, indent=2, sort_keys=True) + "\n")
    return len(rows)


def _revision(dataset_id: str, record: dict[str, Any]) -> str | None:
    """The revision that the mirror has of a data set; None if it has nothing of it."""
    known = [each for path, each in record.items() if path.startswith(f"{dataset_id}/")]
    return next((each["revision"] for each in known), None)


def _lines(source: Source, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for index, row in enumerate(rows):
        try:
            yield json.dumps(row, ensure_ascii=False) + "\n"
        except TypeError as error:
            raise UserError(
                f"datasets={source.dataset_id!r}, row {index}: {error}; a mirror holds texts, "
                "numbers, and lists and objects of them"
            ) from error


def _asked(source: Source, ask: Any) -> Any:
    """What the Hub answers, with its refusals as a user's error."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import constants

    try:
        return ask()
    except (*hub_errors(), DatasetsError) as error:
        if isinstance(error, UserError):
            raise
        # of `datasets`, in whose words a gated data set or an unknown config is explained
        own = isinstance(error, DatasetsError)
        words = " ".join(str(error).split())[:300]
        reason = words if own else hub_reason(error, constants.ENDPOINT)
        raise UserError(
            f"data set {source.dataset_id!r} cannot be read: {reason}; what was written is kept, "
            "and the same command continues from there"
        ) from error


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
