"""Weights of the loss of each training token: from rows, sources of a mixture, and prompts.

A batch has them in the column ``loss_weights``, beside ``labels``. They are the product of

    the rows' own column ``loss_weights``   for rows that have ``input_ids``: a number a token
    `loss_weight`                           of the row's source in a mixture
    `prompt_loss_weight`                    for the tokens of a prompt, which are then trained on

Only training rows have weights, so that evaluations of runs with different weights compare.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from shaped_eval.errors import UserError
from trl import SFTTrainer, pack_dataset

from shaped_trl.data.corpora import Rows, column_names
from shaped_trl.data.mixtures import Source, is_finite

LOSS_WEIGHTS = "loss_weights"
COLUMNS = ("input_ids", "labels", LOSS_WEIGHTS)
COMPLETION = "completion_mask"


class WeightedRows(SFTTrainer):
    """An `SFTTrainer` whose training rows may have weights.

    Call `weigh` before the constructor of `SFTTrainer`.
    """

    weighted: bool
    _weighed: Any
    # of SFTTrainer
    completion_only_loss: bool
    data_collator: Any
    _signature_columns: Any

    def weigh(self, sources: Sequence[Source], prompt_weight: float | None) -> None:
        """Find out whether the rows of `sources` have weights.

        Raises:
            UserError: there is a `prompt_weight`, and no source has prompts.
        """
        columns = [set(column_names(source.rows)) for source in sources]
        if prompt_weight is not None and not any({"prompt", COMPLETION} & each for each in columns):
            raise UserError(
                f"prompt_loss_weight={prompt_weight!r} needs rows with a prompt and a completion: "
                "leave it out, or give prompt_template and completion_template"
            )
        self.weighted = (
            prompt_weight is not None
            or any(source.loss_weight != 1 for source in sources)
            or any(LOSS_WEIGHTS in each for each in columns)
        )
        self._weighed = sources[0].rows if len(sources) == 1 and self.weighted else None

    def training_sources(self, rows: Any) -> list[Source]:
        """The training rows of a trainer as a source; none if they are not a data set."""
        return [Source("train", 1.0, rows)] if isinstance(rows, Dataset | IterableDataset) else []

    def _prepare_dataset(
        self, dataset, processing_class, args, packing, formatting_func, dataset_name
    ):
        # TRL would drop the weights when it truncates and packs. So it only tokenizes here.
        if dataset is not self._weighed:
            return super()._prepare_dataset(
                dataset, processing_class, args, packing, formatting_func, dataset_name
            )
        self._weighed = None
        source = Source(dataset_name, 1.0, dataset)
        rows = self.tokenised(source, args, processing_class, formatting_func)
        return _cut_and_pack(rows, args, packing)

    def tokenised(
        self,
        source: Source,
        args: Any,
        processing_class: Any,
        formatting_func: Callable | None = None,
    ) -> Rows:
        """The rows of a source, prepared by TRL up to `labels`, with weights if there are any.

        `datasets` caches the result of a memory-mapped source.
        """
        args = copy.copy(args)
        args.max_length, args.shuffle_dataset = None, False
        completion_only = self.completion_only_loss
        prompt_weight = args.prompt_loss_weight
        if prompt_weight is not None:
            # All tokens become labels then, and the rows keep the mask of the completion.
            self.completion_only_loss = False
        # Without packing and length limit, TRL's method only tokenizes and masks.
        rows = super()._prepare_dataset(
            source.rows, processing_class, args, False, formatting_func, source.name
        )
        self.completion_only_loss = completion_only
        if not self.weighted:
            return rows
        given = {"prompt_weight": prompt_weight, "source_weight": source.loss_weight}
        return rows.map(weigh_row, fn_kwargs=given)

    def get_train_dataloader(self):
        if not self.weighted:
            return super().get_train_dataloader()
        # The Trainer drops columns of the rows that are not in `_signature_columns`, which this
        # method of TRL's fills at first use.
        self._set_signature_columns_if_needed()
        collator, columns = self.data_collator, self._signature_columns
        self.data_collator = WeightCollator(collator)
        self._signature_columns = [*columns, LOSS_WEIGHTS]
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator, self._signature_columns = collator, columns


def weigh_row(
    row: dict[str, Any], prompt_weight: float | None, source_weight: float
) -> dict[str, list[float]]:
    """The column `loss_weights` of a tokenised row.

    Raises:
        UserError: the row's own weights are not one finite number for each token.
    """
    tokens = len(row["input_ids"])
    weights = row.get(LOSS_WEIGHTS)
    if weights is None:
        weights = [1.0] * tokens
    if len(weights) != tokens or not all(map(is_finite, weights)):
        shown = str(weights)[:100]
        raise UserError(
            f"{LOSS_WEIGHTS}={shown} must be one finite number for each of the {tokens} tokens of "
            "input_ids"
        )
    mask = row.get(COMPLETION)
    if prompt_weight is not None and mask is not None:
        weights = [
            weight if bit else prompt_weight * weight
            for weight, bit in zip(weights, mask, strict=True)
        ]
    return {LOSS_WEIGHTS: [float(source_weight * weight) for weight in weights]}


def _cut_and_pack(rows: Rows, args: Any, packing: bool) -> Rows:
    """What TRL's `_prepare_dataset` does after it has tokenized, in the same order."""
    if packing:
        rows = rows.select_columns(list(COLUMNS))
        if args.shuffle_dataset:
            rows = rows.shuffle(seed=args.seed)
        rows = pack_dataset(rows, args.max_length, args.packing_strategy)
    elif args.max_length is not None:
        rows = rows.map(_cut, fn_kwargs={"length": args.max_length, "end": args.truncation_mode})
        rows = rows.filter(_has_target)
    return rows.shuffle(seed=args.seed) if args.shuffle_dataset else rows


def _cut(row: dict[str, Any], length: int, end: str) -> dict[str, list]:
    part = slice(None, length) if end == "keep_start" else slice(-length, None)
    return {name: row[name][part] for name in COLUMNS}


def _has_target(row: dict[str, Any]) -> bool:
    return any(label != -100 for label in row["labels"])


class WeightCollator:
    """A collator that adds `loss_weights`, shaped like the labels, 0 where there is padding.

    Raises:
        ValueError: the other collator has left out tokens, so that the weights have no places.
    """

    def __init__(self, collate: Callable[[list[dict]], dict[str, Any]]):
        self.collate = collate

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        weights = [torch.tensor(row[LOSS_WEIGHTS], dtype=torch.float64) for row in rows]
        batch = self.collate(
            [{key: value for key, value in row.items() if key != LOSS_WEIGHTS} for row in rows]
        )
        weights_BT = torch.zeros(batch["labels"].shape)
        joined = torch.cat(weights).float()
        mask_BT = batch.get("attention_mask")
        if len(weights_BT) != len(rows):  # a padding-free batch is one row with all sequences
            weights_BT[0, : len(joined)] = joined
        elif mask_BT is None and weights_BT.numel() == len(joined):
            weights_BT[:] = joined.view_as(weights_BT)
        elif mask_BT is not None and mask_BT.sum(1).tolist() == list(
            map(len, weights)
        ):  # padded on either side
            weights_BT[mask_BT.bool()] = joined
        else:
            raise ValueError(
                "loss_weights do not fit the rows of the data_collator, whose tokens are not those "
                "of the data set: cut the rows there"
            )
        return {**batch, LOSS_WEIGHTS: weights_BT}
