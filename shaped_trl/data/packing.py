"""Endless packed batches from weighted sources, each with the position that continues after it.

A batch is made in these steps:

1. The rows of a source have TRL's columns ``input_ids`` and ``labels``. Those of a stream are
   tokenised when they are read.
2. They become sequences of exactly `length` tokens. Documents follow one another; one that does not
   fit is cut and continued in the source's next sequence. The lengths of the pieces are kept, from
   which TRL's collator restarts ``position_ids``.
3. Each sequence of a batch is from one source, which is drawn by weight from (seed, rank, number of
   the sequence).
4. TRL's collator joins them without padding: attention does not cross documents, and there is no
   loss on the first token of a document.

A position is a small JSON object. It holds the number of sequences drawn, and for each source the
place of the document being read and the number of its tokens used so far. To continue, only that
document of each source is read again. A memory-mapped source is read in a random order that (seed,
epoch) determines, which takes 8 bytes a row. A stream is read file by file. `datasets` shuffles
the files in each epoch, and rows keep their order within a file.
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

# the key of a batch that is ours, not the collator's: {"position", "sources", "dropped"}
STREAM = "stream"


def part_of(rows: Dataset | IterableDataset, rank: int, world: int) -> Dataset | IterableDataset:
    """The part of a stream that this process reads.

    These are files of its own or, if there are fewer files than processes, every world-th row. A
    memory-mapped data set stays whole, because `PackedStream` divides the order of each epoch.

    Args:
        rows: of a source.
        rank: number of this process, from 0.
        world: number of processes.
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
    """Yields collated batches without end, to a DataLoader with ``batch_size=None``.

    The DataLoader may have one worker at most.

    Args:
        sources: tokenised rows with ``input_ids``, ``labels`` and, if rows are to be dropped, the
            marks of `Overlap`. Of streams, the part of this process (`part_of`).
        length: number of tokens of a sequence.
        batch_size: number of sequences of a batch.
        collate: list of {"input_ids", "labels", "seq_lengths"} → batch.
        seed: of the order of rows and of the choice of sources.
        rank: number of this process among those that read different data, from 0.
        world: number of those processes.
        position: of the batch to continue after; None to begin at the start.
        columns: of the rows, with a value for each token.

    Raises:
        UserError: while iterating, if a source has no rows, or all of them are dropped.
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
        columns: Sequence[str] = ("input_ids", "labels"),
    ):
        self.sources, self.length, self.batch_size, self.collate = (
            list(sources),
            length,
            batch_size,
            collate,
        )
        self.seed, self.rank, self.world = seed, rank, world
        self.columns = tuple(columns)
        self.position = position or {
            "sequences": 0,
            "dropped": 0,
            "sources": [None] * len(self.sources),
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cursors = [
            _Cursor(self.sources[i].name, self._documents(i, place), place, self.columns)
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
        """An endless stream of documents, each with its place: the epoch, and how to find it."""
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
                    f"dataset_name={source.name!r} has no rows "
                    f"for process {self.rank} of {self.world}"
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
        # `datasets` shuffles the files in any epoch but 0, with the number of the epoch as the seed
        rows.set_epoch(int(np.random.default_rng([self.seed, number, epoch]).integers(1, 2**31)))
        if start is not None:
            rows.load_state_dict(start)
        before = start
        for row in rows:
            yield before, row
            before = rows.state_dict()


class _Cursor:
    """Cuts the documents of a source into sequences.

    `place` is where the next token stands; None if nothing has been read yet.
    """

    def __init__(
        self,
        name: str,
        documents: Iterator[tuple[dict[str, Any], dict]],
        place: dict[str, Any] | None,
        columns: Sequence[str],
    ):
        self.name, self.documents, self.columns = name, documents, columns
        self.found: dict[str, Any] | None = None
        self.document: dict[str, list] = {column: [] for column in columns}
        self.taken = 0
        self.dropped: list[dict[str, Any]] = []
        if place is not None:
            self._next()
            self.taken = place["taken"]

    @property
    def place(self) -> dict[str, Any] | None:
        return None if self.found is None else {**self.found, "taken": self.taken}

    def sequence(self, length: int) -> dict[str, list]:
        """The next `length` tokens, with the lengths of the pieces of documents in them."""
        sequence: dict[str, list] = {column: [] for column in (*self.columns, "seq_lengths")}
        while (room := length - len(sequence["input_ids"])) > 0:
            if self.taken == len(self.document["input_ids"]):
                self._next()
            piece = slice(self.taken, self.taken + room)
            for column in self.columns:
                sequence[column] += self.document[column][piece]
            sequence["seq_lengths"].append(len(self.document["input_ids"][piece]))
            self.taken += sequence["seq_lengths"][-1]
        return sequence

    def drain(self) -> list[dict[str, Any]]:
        """The lines of the report for the rows that were dropped since the last call."""
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
                    f"dataset_name={self.name!r}: no row is left to train on, "
                    "because decontaminate drops them all, or they are empty"
                )
