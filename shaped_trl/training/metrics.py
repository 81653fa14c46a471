"""Metrics by rank, rarity, position and source of the targets.

All are sums over the targets of a class. They are kept on the device, and added over processes once
they are logged. The largest has three numbers for each token of the vocabulary.

    rank_0, rank_1, rank_2_3, …    share of the targets with this rank, the number of tokens that
                                   are more probable (0: top-1), in doubling buckets
    rare_nll, rare_token_accuracy  over the rare targets: the rarest tokens that together make up
                                   at most a tenth of the set's targets; of equally rare tokens,
                                   those of lowest id
    nll_position_0_255, …          by the number of tokens before the target in its document (in
                                   its row, if the batch has no position_ids), in doubling buckets
    nll_source_<name>              by the rows' column `source`

Which targets are rare depends on the set alone, and not on the model or the shape of the loss.

Dimensions: B rows, T positions, C classes, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from torch import Tensor

from shaped_trl.data.mixtures import SOURCE

logger = logging.getLogger(__name__)

ROW = "row"
# The reciprocal of the share of the targets that are rare.
RARE = 10
FIRST_POSITIONS = 256
POSITION_BUCKETS = 32
MOST_SOURCES = 64

Reduce = Callable[[Tensor], Tensor]


def sums_device(device: torch.device) -> torch.device:
    """Where sums in float64 are kept: on `device`, or on the CPU if that is Apple's MPS.

    MPS does not have float64.
    """
    return torch.device("cpu") if device.type == "mps" else device


def in_float64(values: Tensor) -> Tensor:
    """The values in float64, without their graph, on `sums_device`."""
    return values.detach().to(sums_device(values.device)).double()


class _Sums:
    """Per class: the number of targets and the sums of their values, [C] each, in float64."""

    def __init__(self, values: int, classes: int, device: torch.device):
        kept: dict[str, Any] = {"dtype": torch.float64, "device": sums_device(device)}
        self.sums_C = [torch.zeros(classes, **kept) for _ in range(1 + values)]

    def add(self, classes_BT: Tensor, mask_BT: Tensor, *values_BT: Tensor) -> None:
        """Add targets. Where `mask_BT` is false, the class is ignored and the values must be 0."""
        # Indexing with the mask would make the host wait for the device.
        classes = classes_BT.masked_fill(~mask_BT, 0).flatten()
        for sum_C, value_BT in zip(self.sums_C, (mask_BT, *values_BT), strict=True):
            sum_C.index_add_(0, classes.to(sum_C.device), in_float64(value_BT).flatten())

    def total(self, reduce: Reduce) -> list[Tensor]:
        """The number of targets and the sums over all processes, [C] each, on the CPU."""
        return list(reduce(torch.stack(self.sums_C)).cpu())


class Ranks:
    """Histogram of the targets' ranks."""

    def __init__(self, vocabulary: int, device: torch.device):
        self.sums = _Sums(0, (vocabulary - 1).bit_length() + 1, device)

    def add(self, outputs: Any) -> None:
        """Add a `ShapedCausalLMOutput` with `target_rank`."""
        self.sums.add(bucket(outputs.target_rank, 1), outputs.label_mask)

    def columns(self, reduce: Reduce) -> dict[str, float]:
        """The share of the targets in each bucket."""
        (count_C,) = self.sums.total(reduce)
        shares = (count_C / count_C.sum().clamp(min=1)).tolist()
        return {f"rank_{bucket_name(number, 1)}": share for number, share in enumerate(shares)}


class Breakdown:
    """All the columns of an evaluation over rows from `sources`."""

    def __init__(self, vocabulary: int, sources: Sequence[str], device: torch.device):
        self.sources = sources
        self.ranks = Ranks(vocabulary, device)
        self.by_token = _Sums(2, vocabulary, device)
        self.by_position = _Sums(1, POSITION_BUCKETS, device)
        self.by_source = _Sums(1, len(sources), device) if sources else None

    def add(self, outputs: Any, inputs: dict[str, Any], sources_BT: Tensor | None) -> None:
        """Add a batch: its `ShapedCausalLMOutput` with all metrics, and the model's inputs."""
        self.ranks.add(outputs)
        targets_BT, positions_BT = target_tokens(inputs, outputs.label_mask.shape[1])
        own = slice(-targets_BT.shape[1], None)  # not the virtual tokens of prompt learning (PEFT)
        mask_BT, nll_BT = outputs.label_mask[:, own], outputs.nll[:, own]
        self.by_token.add(targets_BT, mask_BT, nll_BT, outputs.is_top1[:, own])
        self.by_position.add(bucket(positions_BT // FIRST_POSITIONS, 1), mask_BT, nll_BT)
        if self.by_source is not None and sources_BT is not None:
            self.by_source.add(sources_BT[:, own], mask_BT, nll_BT)

    def columns(self, reduce: Reduce) -> dict[str, float]:
        """The columns of the log over all processes. A class without targets has no column."""
        columns = self.ranks.columns(reduce)
        count_V, nll_V, top1_V = self.by_token.total(reduce)
        is_rare_V = rare_tokens(count_V)
        count = count_V[is_rare_V].sum().item()
        if count:
            columns["rare_nll"] = nll_V[is_rare_V].sum().item() / count
            columns["rare_token_accuracy"] = top1_V[is_rare_V].sum().item() / count
        names = [bucket_name(number, FIRST_POSITIONS) for number in range(POSITION_BUCKETS)]
        columns |= _means("nll_position", names, self.by_position.total(reduce))
        if self.by_source is not None:
            columns |= _means("nll_source", self.sources, self.by_source.total(reduce))
        return columns


def _means(prefix: str, names: Sequence[str], totals: list[Tensor]) -> dict[str, float]:
    counts, sums = (total.tolist() for total in totals)
    return {f"{prefix}_{name}": sums[i] / counts[i] for i, name in enumerate(names) if counts[i]}


def bucket(values: Tensor, first: int) -> Tensor:
    """The doubling buckets of whole numbers ≥ 0.

    Bucket 0 is [0, first), 1 is [first, 2·first), 2 is [2·first, 4·first), and so on.
    """
    # frexp writes a number as m·2^e with 1/2 ≤ m < 1: e is 0 for 0, 1 for 1, and 2 for 2 and 3.
    return torch.frexp((values // first).float()).exponent.long()


def bucket_name(number: int, first: int) -> str:
    """`low_high`, the limits of a doubling bucket, both inclusive; one number if they are equal."""
    low, high = (first << number >> 1, (first << number) - 1) if number else (0, first - 1)
    return f"{low}_{high}" if high > low else str(low)


def rare_tokens(count_V: Tensor) -> Tensor:
    """Booleans [V]: the rarest tokens that together have at most 1/`RARE` of all targets.

    Of equally rare tokens, those with the lowest ids come first.
    """
    order = count_V.argsort(stable=True)
    is_rare_V = torch.zeros_like(count_V, dtype=torch.bool)
    is_rare_V[order] = RARE * count_V[order].cumsum(0) <= count_V.sum()
    return is_rare_V


def target_tokens(inputs: dict[str, Any], most: int) -> tuple[Tensor, Tensor]:
    """The targets of a batch, and how many tokens of its document precede each; both [B, T].

    The targets are aligned with the end of the metrics of `ShapedCausalLMOutput`, which are `most`
    in a row. Without virtual tokens in front of it, the first token of a row is not a target.
    """
    shifted = inputs.get("shift_labels") is not None
    tokens_BT: Tensor = inputs["shift_labels" if shifted else "labels"]
    positions_BT = inputs.get("position_ids")
    if positions_BT is None:
        positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(
            tokens_BT
        )
    # Shifted labels stand one place before the token that they are.
    if shifted:
        return tokens_BT, positions_BT + 1
    first = max(0, tokens_BT.shape[1] - most)
    return tokens_BT[:, first:], positions_BT[:, first:]


def source_names(rows: Any) -> list[str]:
    """The distinct values of the column `source` of a memory-mapped data set.

    None are returned if it has no such column, or more than `MOST_SOURCES` values in it.
    """
    if not isinstance(rows, Dataset) or SOURCE not in rows.column_names:
        return []
    names = sorted({str(name) for name in rows.unique(SOURCE)})
    if len(names) > MOST_SOURCES:
        logger.warning(
            "column %s has %d values: metrics by source are left out above %d",
            SOURCE,
            len(names),
            MOST_SOURCES,
        )
        return []
    return names


class EvaluationCollator:
    """A collator that adds `row` and, if there are sources, `source`, both shaped like the labels.

    These are the number of each token's row in the batch, and that of its source.
    """

    def __init__(self, collate: Callable[[list[dict]], dict[str, Any]], names: Sequence[str]):
        self.collate = collate
        self.numbers = {name: number for number, name in enumerate(names)}

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        batch = self.collate(
            [{key: value for key, value in row.items() if key != SOURCE} for row in rows]
        )
        rows_BT = torch.zeros_like(batch["labels"])
        numbers_B = torch.arange(len(rows))
        if len(rows_BT) == len(rows):
            rows_BT[:] = numbers_B[:, None]
        else:  # a padding-free batch is one row with all sequences in sequence
            lengths_B = torch.tensor([len(row["input_ids"]) for row in rows])
            rows_BT[0, : lengths_B.sum()] = numbers_B.repeat_interleave(lengths_B)
        if not self.numbers:
            return {**batch, ROW: rows_BT}
        sources_B = torch.tensor([self.numbers[str(row[SOURCE])] for row in rows])
        return {**batch, ROW: rows_BT, SOURCE: sources_B[rows_BT]}


def mask_repeated(inputs: dict[str, Any], rows_BT: Tensor, accelerator: Accelerator) -> None:
    """Leave the targets of repeated rows out of an evaluation's batch.

    Where processes share a set, accelerate fills their last batches with rows from its beginning,
    so that all have as many. In the order of the processes these lie behind the others. `Trainer`
    leaves them out of what it gathers (`gather_for_metrics`). Of a stream the number of rows is not
    known, and all count.

    Args:
        inputs: of the model; a padding-free batch is one row of them.
        rows_BT: the number of each token's row in this process's batch.
        accelerator: whose evaluation is at this batch.
    """
    state = accelerator.gradient_state
    sampler = getattr(state.active_dataloader, "batch_sampler", None)
    if not isinstance(sampler, BatchSamplerShard):  # which fills batches
        return
    if not state.end_of_dataloader or state.remainder <= 0:
        return
    size = int(rows_BT.max()) + 1  # a batch that was filled is full
    repeated_BT = rows_BT >= state.remainder - sampler.process_index * size
    for name in ("labels", "shift_labels"):
        if inputs.get(name) is not None:
            inputs[name] = inputs[name].masked_fill(repeated_BT, -100)
