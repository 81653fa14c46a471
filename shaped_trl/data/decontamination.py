"""Rows that share 13 words in a row with a benchmark's problem are found, dropped and reported.

Words are runs of letters, digits and underscores, in lower case, after Unicode's NFKC. Of a problem
the question counts, without worked examples or instructions. The 13-grams of the benchmarks are
kept in memory, and nothing of the corpus is.

    output_dir/decontamination/rows.jsonl          a line for each dropped row
    output_dir/decontamination/rows-<rank>.jsonl   the same for streams, written as they are read
    output_dir/decontamination/report.json         counts by benchmark

A question of fewer than 13 words cannot be found. The report counts these as ``too_short``.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from shaped_eval.benchmarks.loading import questions
from shaped_eval.benchmarks.registry import BENCHMARKS, check_names
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl, write_atomic
from transformers import TrainerCallback

NGRAM = 13
# columns that `Overlap` adds: the ids of the problems that a row overlaps with, separated by
# spaces, and the row's own id
MARK, ROW_ID = "overlaps_with", "row_id"


def ngrams(text: str) -> list[str]:
    """The 13-grams of the normalised words of a text, in order; none if it has fewer words."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())
    return [" ".join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]


class Overlap:
    """The 13-grams of benchmarks. `bind(columns)` is a function for `datasets.map` that marks rows.

    Args:
        names: of benchmarks in `BENCHMARKS`.
        hub_mirror: folder that is read in place of the Hub.

    Raises:
        UserError: a benchmark is unknown or not in `BENCHMARKS`, or cannot be read.
    """

    def __init__(self, names: Sequence[str], hub_mirror: str | None = None):
        check_names(names)
        others = [name for name in names if name not in BENCHMARKS]
        if others:
            raise UserError(
                f"decontaminate={others}: a program, another package or a file of yours makes "
                "these problems, whose questions are not known: "
                f"use some of {', '.join(BENCHMARKS)}"
            )
        self.problems: Counter[str] = Counter()
        self.too_short: Counter[str] = Counter()
        self.owners: dict[str, str] = {}
        for name in names:
            for index, question in enumerate(questions(name, hub_mirror)):
                own_id = str(index) if question.own_id is None else question.own_id
                self._add(name, f"{name}/{own_id}".replace(" ", "_"), question.text)

    def _add(self, benchmark: str, problem_id: str, text: str) -> None:
        grams = dict.fromkeys(ngrams(text))
        self.problems[benchmark] += 1
        self.too_short[benchmark] += not grams
        for gram in grams:
            self.owners[gram] = (
                f"{self.owners[gram]} {problem_id}" if gram in self.owners else problem_id
            )

    def found(self, text: str) -> list[str]:
        """The sorted ids of the problems that `text` overlaps with."""
        hits = (self.owners[gram] for gram in ngrams(text) if gram in self.owners)
        return sorted({problem_id for ids in hits for problem_id in ids.split()})

    def bind(self, columns: Sequence[str]) -> _Mark:
        """The function that marks rows with these columns; UserError if none of them has text."""
        texts = [
            name
            for name in ("text", "prompt", "completion", "messages", "conversations")
            if name in columns
        ]
        if not texts:
            raise UserError(
                f"decontaminate needs a column of text, but the data has {list(columns)}"
            )
        return _Mark(self, texts)


class _Mark:
    def __init__(self, overlap: Overlap, columns: Sequence[str]):
        self.overlap, self.columns = overlap, columns

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str]:
        text = " ".join(piece for name in self.columns for piece in _strings(row[name]))
        own_id = row.get("id")
        if own_id is None:
            own_id = hashlib.sha256(text.encode()).hexdigest()[:16]
        return {MARK: " ".join(self.overlap.found(text)), ROW_ID: str(own_id)}


def _strings(value: Any) -> Iterable[str]:
    """The texts of a column, which holds a string or the messages of a chat."""
    if isinstance(value, str):
        return [value]
    return [message.get("content") or message.get("value") or "" for message in value or []]


def dropped_row(source: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The line of the report for a marked row."""
    return {"source": source, "row_id": row[ROW_ID], "problems": row[MARK].split()}


def split_marked(source: str, rows: Dataset) -> tuple[Dataset, list[dict[str, Any]]]:
    """The rows that stay, without the marks, and a line of the report for each of the others."""
    dropped = rows.filter(bool, input_columns=MARK)
    kept = rows.filter(_clean, input_columns=MARK).remove_columns([MARK, ROW_ID])
    return kept, [dropped_row(source, row) for row in dropped.select_columns([MARK, ROW_ID])]


def _clean(mark: str) -> bool:
    return not mark


def rows_file(output_dir: str | Path, rank: int | None = None) -> Path:
    """Where dropped rows are written.

    Args:
        output_dir: of the run.
        rank: of the process whose streams they are from; None for memory-mapped sources.
    """
    name = "rows.jsonl" if rank is None else f"rows-{rank}.jsonl"
    return Path(output_dir) / "decontamination" / name


class ReportCallback(TrainerCallback):
    """Write the report on the main process when training begins, and again when it ends.

    Only the latter counts the rows of streams.

    Args:
        overlap: the benchmarks.
        dropped: lines of the report for memory-mapped sources.
    """

    def __init__(self, overlap: Overlap, dropped: Sequence[dict[str, Any]]):
        self.overlap, self.dropped = overlap, dropped

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in self.dropped)
            write_atomic(rows_file(args.output_dir), "".join(lines))
            _write_report(args.output_dir, self.overlap)

    def on_train_end(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            _write_report(args.output_dir, self.overlap)


def _write_report(output_dir: str | Path, overlap: Overlap) -> None:
    folder = rows_file(output_dir).parent
    dropped: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    for path in sorted(folder.glob("rows*.jsonl")):
        for row in read_jsonl(path):
            sources[row["source"]] += 1
            dropped.update({problem_id.partition("/")[0] for problem_id in row["problems"]})
    report = {
        "ngram": NGRAM,
        "benchmarks": {
            name: {
                "problems": count,
                "too_short": overlap.too_short[name],
                "rows_dropped": dropped[name],
            }
            for name, count in overlap.problems.items()
        },
        "rows_dropped": dict(sorted(sources.items())),
    }
    write_atomic(folder / "report.json", json.dumps(report, indent=2) + "\n")
