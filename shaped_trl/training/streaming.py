"""Training on a `PackedStream` whose position is saved in each checkpoint for an exact resume.

The saved position is that of the last batch that the Trainer took, not of the last one read, since
DataLoader workers may be ahead. It is written together with the Trainer's random state, before
older checkpoints are deleted:

    checkpoint-<step>/stream-<rank>.json   {"world", "position"}
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from shaped_eval.errors import UserError
from shaped_eval.records import append_jsonl, read_jsonl, write_atomic
from shaped_eval.untrusted.rows import check_field, is_count, read_object
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from shaped_trl.data.decontamination import rows_file
from shaped_trl.data.mixtures import Source
from shaped_trl.data.packing import STREAM, PackedStream, part_of
from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.trainer import ShapedTrainer
from shaped_trl.training.weights import COLUMNS, LOSS_WEIGHTS, WeightCollator


def check_streaming(args: ShapedConfig) -> None:
    """Check the settings of a packed stream.

    Raises:
        UserError: a setting does not work with packed streams.
    """
    if not args.packing or args.max_length is None or args.packing_strategy == "wrapped":
        raise UserError(
            "mixture and streaming need packing: true and max_length "
            "(and not packing_strategy: wrapped)"
        )
    if args.dataloader_num_workers > 1:
        raise UserError(
            f"dataloader_num_workers={args.dataloader_num_workers}: a mixture or stream has one "
            "position per process; use 0 or 1"
        )


class StreamingTrainer(ShapedTrainer):
    """`ShapedTrainer` on packed sources instead of a `train_dataset`; resumes where it stopped.

    For the current step, `sources_of_step` holds the source of each sequence of each micro-batch.

    Raises:
        UserError: `check_streaming` refuses a setting, or a checkpoint has no position or was saved
            by another number of processes.
    """

    def __init__(self, model, args: ShapedConfig, *, sources: list[Source], **kwargs):
        check_streaming(args)
        args.ignore_data_skip = True  # the stream itself starts after what was consumed
        self.sources = sources
        self.stream: dict[str, Any] | None = None
        self.sources_of_step: list[list[str]] = []
        super().__init__(model, args, train_dataset=sources[0].rows, **kwargs)
        self.add_callback(_Epoch())

    def training_sources(self, rows: Any) -> list[Source]:
        return self.sources

    def _prepare_dataset(
        self, dataset, processing_class, args, packing, formatting_func, dataset_name
    ):
        # TRL tokenizes and packs a whole data set here, while the trainer is built. A stream is
        # packed row by row during training instead, from this process's part (`_part`); TRL is
        # left to prepare the evaluation sets.
        if dataset is self.sources[0].rows:
            return dataset
        return super()._prepare_dataset(
            dataset, processing_class, args, packing, formatting_func, dataset_name
        )

    def _part(self, source: Source, rank: int, world: int) -> Source:
        """This process's part of a source, prepared by TRL up to `labels`."""
        part = replace(source, rows=part_of(source.rows, rank, world))
        rows = self.tokenised(part, self.args, self.processing_class)
        if isinstance(rows, Dataset):
            rows = rows.select_columns(list(self._columns()))
        return replace(source, rows=rows)

    def _columns(self) -> tuple[str, ...]:
        return COLUMNS if self.weighted else ("input_ids", "labels")

    def get_train_dataloader(self) -> DataLoader:
        rank, world = self._place()
        position = self.stream
        self._cut_dropped_rows(position["dropped"] if position else 0)
        stream = PackedStream(
            [self._part(source, rank, world) for source in self.sources],
            length=self.args.max_length,
            batch_size=self._train_batch_size,  # the Trainer's: auto_find_batch_size may lower it
            collate=self._collate(),
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            rank=rank,
            world=world,
            position=position,
            columns=self._columns(),
        )
        workers = self.args.dataloader_num_workers
        return DataLoader(
            stream,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=self.args.dataloader_prefetch_factor if workers else None,
            pin_memory=self.args.dataloader_pin_memory,
            # An iterator draws a seed when it starts. With the global generator this would change
            # the model's random numbers when a run is resumed.
            generator=torch.Generator(),
        )

    def _collate(self) -> Callable[[list[dict]], dict[str, Any]]:
        """TRL's collator, wrapped to return several rows if attention masks densely.

        TRL's collator puts a batch into one row, for attention that takes the lengths of the
        documents. The sdpa and eager implementations would mask this row densely. For them each
        sequence stays a row, which gives the same numbers with a fraction of the products. Layers
        that carry a state along a row need the lengths, and keep one row.
        """
        collator = WeightCollator(self.data_collator) if self.weighted else self.data_collator
        return SequencesAsRows(collator, self.args.max_length) if self.masks_densely() else collator

    def _place(self) -> tuple[int, int]:
        """The number of this process among those that read different data, and their number."""
        group = self._group()
        return self.args.process_index // group, self.args.world_size // group

    def _group(self) -> int:
        """How many processes read the same data, as they share a model's layers or a sequence."""
        return self.get_tp_size() * self.get_cp_size() * self.get_sp_size()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        notes = [batch.pop(STREAM) for batch in batches]
        self.stream = notes[-1]["position"]
        self.sources_of_step = [note["sources"] for note in notes]
        dropped = [line for note in notes for line in note["dropped"]]
        if dropped and self.args.process_index % self._group() == 0:
            self._dropped_rows().parent.mkdir(parents=True, exist_ok=True)
            append_jsonl(self._dropped_rows(), dropped)
        return batches, items

    def train(self, resume_from_checkpoint=None, **kwargs):
        checkpoint = resume_from_checkpoint or None
        if checkpoint is True:
            checkpoint = get_last_checkpoint(self.args.output_dir)
        self.stream = self._read_position(checkpoint) if checkpoint else None
        return super().train(resume_from_checkpoint=checkpoint, **kwargs)

    def _save_rng_state(self, output_dir):
        # The Trainer saves the random state of every process here, into the checkpoint and before
        # it deletes older ones: the position in the stream belongs to the same moment.
        super()._save_rng_state(output_dir)
        state = {"world": self.args.world_size, "position": self.stream}
        write_atomic(position_file(output_dir, self.args.process_index), json.dumps(state))

    def _read_position(self, checkpoint: str) -> dict[str, Any]:
        path = position_file(checkpoint, self.args.process_index)
        if not path.is_file():
            raise UserError(
                f"{checkpoint} has no {path.name}: it is not a checkpoint of a mixture or stream"
            )
        state = read_object(path, check_position)
        if state["world"] != self.args.world_size:
            raise UserError(
                f"{checkpoint} was saved by {state['world']} processes, and this run has "
                f"{self.args.world_size}: the position of a stream cannot be divided among "
                "another number of processes"
            )
        return state["position"]

    def _dropped_rows(self) -> Path:
        return rows_file(self.args.output_dir, self.args.process_index)

    def _cut_dropped_rows(self, count: int) -> None:
        """Drop the lines about batches after the checkpoint, which the run will read again."""
        path = self._dropped_rows()
        if path.is_file():
            kept = list(read_jsonl(path))[:count]
            write_atomic(
                path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
            )


class SequencesAsRows:
    """A padding-free collator that returns B sequences as [B, length] instead of [1, B·length].

    `position_ids` separate the documents.
    """

    def __init__(self, collate: Callable[[list[dict]], dict[str, Any]], length: int):
        self.collate = collate
        self.length = length

    def __call__(self, sequences: list[dict]) -> dict[str, Any]:
        batch = self.collate(sequences)
        tokens = len(sequences) * self.length  # TRL's collator may pad further, to a multiple
        names = ("input_ids", "labels", "position_ids", LOSS_WEIGHTS)
        return {
            name: batch[name][0, :tokens].view(-1, self.length) for name in names if name in batch
        }


class _Epoch(TrainerCallback):
    """Set `epoch` to the share of the run that is done.

    The Trainer itself would count epochs from the restart if it skips no data.
    """

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step / state.max_steps


def check_position(state: dict[str, Any]) -> None:
    """Check the saved position of a stream.

    Raises:
        ValueError: a field is missing or of the wrong type.
    """
    check_field("world", state.get("world"), is_count, "a number of processes")
    check_field(
        "position",
        state.get("position"),
        lambda value: value is None or isinstance(value, dict),
        "an object",
    )


def position_file(checkpoint: str | Path, rank: int) -> Path:
    """The file in a checkpoint with the position of one process."""
    return Path(checkpoint) / f"stream-{rank}.json"


def _as_it_is(batch):
    return batch
