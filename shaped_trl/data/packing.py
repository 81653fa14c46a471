"""Endless packed batches from weighted sources, each with the position that continues after it.

    rows of a source (TRL's columns input_ids and labels; tokenised as they are read where the
    source streams)
      → sequences of exactly `length` tokens: documents one after the other, cut where the sequence
      ends and
        continued in the source's next one, their lengths kept so that TRL's collator restarts
        position_ids
      → each sequence of a batch from one source, drawn by weight from (seed, rank, number of the
      sequence) → TRL's collator (padding-free: attention does not cross documents, no loss on a
      document's first token)

A position is small and plain JSON: how many sequences were drawn, and of each source the place of
the document under way and how many of its tokens are used. Continuing reads again only that one
document of each source. The order of a memory-mapped source is a permutation by (seed, epoch), 8
bytes a row; a stream is read in the order of its files, which `datasets` shuffles by epoch, and
rows keep their order within a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from shaped_eval.errors import UserError

from shaped_trl.data.decontamination import MARK, dropped_row
from shaped_trl.data.mixtures import Source

# key of a batch beside the collator's: {"position", "sources", "dropped"}
STREAM = "stream"


def part_of(rows: Dataset | IterableDataset, rank: int, world: int) -> Dataset | IterableDataset:
    """This process's part of a stream: files of its own, or with fewer files than processes every
    world-th row.

    A memory-mapped data set stays whole: `PackedStream` deals out each epoch's permutation.
    """
    if isinstance(rows, Dataset) or world == 1:
        return rows
    if rows.num_shards >= world:
        return rows.shard(world, rank)
    return rows.filter(_EveryNth(rank, world), with_indices=True)


class _EveryNth:
    def __init__(self, rank: int, world: int):
        self.rank, self.world = rank, world

    def __call__(self, row: dict, index: int) -> bool:
        return index % self.world == self.rank


class PackedStream(torch.utils.data.IterableDataset):
    """Yields whole collated batches without end; for a DataLoader with ``batch_size=None`` and at
    most one worker.

    Args:
        sources: tokenised rows with `input_ids`, `labels` and, where rows are to be dropped, the
            marks of `Overlap`; streams hold this process's part already (`part_of`).
        length: tokens of a sequence.
        batch_size: sequences of a batch.
        collate: list of {"input_ids", "labels", "seq_lengths"} → batch.
        rank, world: this process's place among those that read different data.
        position: of the batch to continue after; None: from the start.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        length: int,
        batch_size: int,
        collate: Callable[[list[dict]], dict[str, Any]],
        seed: int,
        rank: int = 0,
        world: int = 1,
        position: dict[str, Any] | None = None,
    ):
        self.sources, self.length, self.batch_size, self.collate = (
            list(sources),
            length,
            batch_size,
            collate,
        )
        self.seed, self.rank, self.world = seed, rank, world
        self.position = position or {
            "sequences": 0,
            "dropped": 0,
            "sources": [None] * len(self.sources),
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cursors = [
            _Cursor(self.sources[i].name, self._documents(i, place), place)
            for i, place in enumerate(self.position["sources"])
        ]
        cumulative = np.cumsum([source.weight for source in self.sources])
        sequences, dropped = self.position["sequences"], self.position["dropped"]
        while True:
            chosen = []
            for _ in range(self.batch_size):
                drawn = (
                    np.random.default_rng([self.seed, self.rank, sequences]).random()
                    * cumulative[-1]
                )
                chosen.append(cursors[int(np.searchsorted(cumulative, drawn, side="right"))])
                sequences += 1
            batch = self.collate([cursor.sequence(self.length) for cursor in chosen])
            lines = [line for cursor in cursors for line in cursor.drain()]
            dropped += len(lines)
            position = {
                "sequences": sequences,
                "dropped": dropped,
                "sources": [cursor.place for cursor in cursors],
            }
            batch[STREAM] = {
                "position": position,
                "sources": [cursor.name for cursor in chosen],
                "dropped": lines,
            }
            yield batch

    def _documents(
        self, number: int, place: dict[str, Any] | None
    ) -> Iterator[tuple[dict[str, Any], dict]]:
        """Endless pairs of a document's place (epoch and what finds it again) and the document."""
        source = self.sources[number]
        epoch, at = (place["epoch"], place["at"]) if place else (0, None)
        while True:
            read = self._indexed if isinstance(source.rows, Dataset) else self._streamed
            count = 0
            for at_row, row in read(number, epoch, at):
                count += 1
                yield {"epoch": epoch, "at": at_row}, row
            if count == 0 and at is None:
                raise UserError(
                    f"dataset_name={source.name!r} has no rows for process {self.rank} of {self.world}"
                )
            epoch, at = epoch + 1, None

    def _indexed(self, number: int, epoch: int, start: int | None) -> Iterator[tuple[int, dict]]:
        rows = self.sources[number].rows
        order = np.random.default_rng([self.seed, number, epoch]).permutation(len(rows))[
            self.rank :: self.world
        ]
        for index in range(start or 0, len(order)):
            yield index, rows[int(order[index])]

    def _streamed(
        self, number: int, epoch: int, start: dict | None
    ) -> Iterator[tuple[dict | None, dict]]:
        rows = self.sources[number].rows
        # any epoch but 0 makes `datasets` shuffle the files, with the epoch as the seed
        rows.set_epoch(int(np.random.default_rng([self.seed, number, epoch]).integers(1, 2**31)))
        if start is not None:
            rows.load_state_dict(start)
        before = start
        for row in rows:
            yield before, row
            before = rows.state_dict()


class _Cursor:
    """Cuts a source's documents into sequences. `place` finds the next token again; None: nothing
    was read yet."""

    def __init__(
        self,
        name: str,
        documents: Iterator[tuple[dict[str, Any], dict]],
        place: dict[str, Any] | None,
    ):
        self.name, self.documents = name, documents
        self.found: dict[str, Any] | None = None
        self.document: dict[str, list[int]] = {"input_ids": [], "labels": []}
        self.taken = 0
        self.dropped: list[dict[str, Any]] = []
        if place is not None:
            self._next()
            self.taken = place["taken"]

    @property
    def place(self) -> dict[str, Any] | None:
        return None if self.found is None else {**self.found, "taken": self.taken}

    def sequence(self, length: int) -> dict[str, list[int]]:
        """The next `length` tokens, with the lengths of the documents' pieces in them."""
        sequence: dict[str, list[int]] = {"input_ids": [], "labels": [], "seq_lengths": []}
        while (room := length - len(sequence["input_ids"])) > 0:
            if self.taken == len(self.document["input_ids"]):
                self._next()
            piece = slice(self.taken, self.taken + room)
            sequence["input_ids"] += self.document["input_ids"][piece]
            sequence["labels"] += self.document["labels"][piece]
            sequence["seq_lengths"].append(len(self.document["input_ids"][piece]))
            self.taken += sequence["seq_lengths"][-1]
        return sequence

    def drain(self) -> list[dict[str, Any]]:
        """Report lines of the rows dropped since the last call."""
        lines, self.dropped = self.dropped, []
        return lines

    def _next(self) -> None:
        first = self.found
        for found, row in self.documents:
            first = first or found
            if row.get(MARK):
                if found["epoch"] == 0:  # later epochs drop the same rows
                    self.dropped.append(dropped_row(self.name, row))
            elif row["input_ids"]:
                self.found, self.document, self.taken = found, row, 0
                return
            if found["epoch"] > first["epoch"] + 1:
                raise UserError(
                    f"dataset_name={self.name!r}: no row is left to train on; look at decontaminate"
                )
