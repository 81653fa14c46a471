"""The sources of a run: one data set, or several with weights, each memory-mapped or a stream."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from datasets import Dataset, concatenate_datasets
from shaped_eval.errors import UserError

from shaped_trl.data.corpora import TEMPLATED, CorpusArguments, Rows, column_names, training_rows
from shaped_trl.data.decontamination import MARK, ROW_ID, Overlap, split_marked

# keys of an entry of `mixture`, besides its weight
TEMPLATES = tuple(f"{name}_template" for name in TEMPLATED)
KEYS = (
    *(
        "dataset_name",
        "dataset_config",
        "dataset_train_split",
        "dataset_test_split",
        "dataset_license",
        "streaming",
    ),
    *TEMPLATES,
)
LOSS_WEIGHT = "loss_weight"
# column that names a row's source
SOURCE = "source"


@dataclass(frozen=True)
class Source:
    """A data set of a run.

    Args:
        name: what the log calls it.
        weight: its share of the training tokens.
        rows: in one of TRL's formats.
        loss_weight: a factor of the loss of its tokens.
    """

    name: str
    weight: float
    rows: Rows
    loss_weight: float = 1.0


def mixture_entries(corpus: CorpusArguments) -> list[tuple[CorpusArguments, float]]:
    """The options and the weight of each source; no data is read.

    Raises:
        UserError: an entry is not a mapping, lacks a name or a weight, or has an unknown key; the
            weights do not sum to 1; or there is a `dataset_name` or a template beside the mixture.
    """
    if corpus.mixture is None:
        return [(corpus, 1.0)]
    beside = [
        name
        for name in ("dataset_name", "dataset_config", "dataset_license", *TEMPLATES)
        if getattr(corpus, name)
    ]
    if beside:
        raise UserError(
            f"{beside[0]}={getattr(corpus, beside[0])!r} does not go with mixture: "
            "write it into the entry that it is for"
        )
    if not isinstance(corpus.mixture, list) or not corpus.mixture:
        raise UserError(
            f"mixture={corpus.mixture!r} must be a list: [{{dataset_name: my.jsonl, weight: 1.0}}]"
        )
    entries = [_entry(corpus, number, entry) for number, entry in enumerate(corpus.mixture)]
    total = sum(weight for _, weight in entries)
    if abs(total - 1) > 1e-6:
        listed = " + ".join(f"{weight:g}" for _, weight in entries)
        raise UserError(f"mixture: the weights {listed} sum to {total:g}: they must sum to 1")
    return entries


def _entry(corpus: CorpusArguments, number: int, entry: object) -> tuple[CorpusArguments, float]:
    where = f"mixture[{number}]"
    if not isinstance(entry, dict):
        raise UserError(f"{where}={entry!r} must be a mapping with dataset_name and weight")
    known = [*KEYS, "weight", LOSS_WEIGHT]
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}: choose from {', '.join(known)}")
    if not entry.get("dataset_name"):
        raise UserError(f"{where}: dataset_name is missing: give a Hub id or a local file")
    weight = entry.get("weight")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        raise UserError(f"{where}: weight={weight!r} must be a number above 0")
    factor = entry.get(LOSS_WEIGHT, 1.0)
    if not is_finite(factor):
        raise UserError(f"{where}: {LOSS_WEIGHT}={factor!r} must be a finite number")
    options = {
        "streaming": corpus.streaming,
        **{key: value for key, value in entry.items() if key in KEYS},
    }
    if number > 0:  # a split beside the mixture is the first source's
        options.setdefault("dataset_test_split", None)
    return replace(corpus, mixture=None, **options), float(weight)


def loss_weights(corpus: CorpusArguments) -> list[float]:
    """The `loss_weight` of each entry of `mixture_entries`; 1 by default."""
    entries = corpus.mixture if isinstance(corpus.mixture, list) else [{}]
    return [float(entry.get(LOSS_WEIGHT, 1.0)) for entry in entries]


def is_finite(value: object) -> bool:
    """Whether a value is a finite number, and not a truth value."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)  # type: ignore[arg-type]


def load_sources(
    corpus: CorpusArguments, overlap: Overlap | None = None
) -> tuple[list[Source], list[dict[str, Any]]]:
    """The sources with their rows, and a line of the report for each row that was dropped.

    Args:
        corpus: the options of the run.
        overlap: drops contaminated rows of memory-mapped sources. Those of streams are marked
            here, and dropped when they are read.

    Raises:
        UserError: as `mixture_entries` and `training_rows`, or no row of a source is left.
    """
    sources, dropped = [], []
    for (options, weight), factor in zip(
        mixture_entries(corpus), loss_weights(corpus), strict=True
    ):
        name = source_name(options)
        rows = training_rows(
            options, options.dataset_train_split, streaming=options.streaming, overlap=overlap
        )
        if holds_out(options):
            columns = [column for column in column_names(rows) if column not in (MARK, ROW_ID)]
            rows = rows.filter(_NotHeldOut(_first_rows(options), columns))
            if isinstance(rows, Dataset) and len(rows) == 0:
                raise UserError(
                    f"num_heldout={options.num_heldout} leaves no row of {name!r} to train on"
                )
        if overlap is not None and isinstance(rows, Dataset):
            rows, lines = split_marked(name, rows)
            dropped += lines
            if len(rows) == 0:
                raise UserError(f"decontaminate: no row of {name!r} is left")
        sources.append(Source(name, weight, rows, factor))
    return sources, dropped


def source_name(options: CorpusArguments) -> str:
    """What the log calls a source, such as ``openai/gsm8k:main``."""
    return ":".join(filter(None, [options.dataset_name, options.dataset_config]))


def evaluation_rows(corpus: CorpusArguments) -> Dataset | None:
    """The rows to evaluate on: the evaluation split of each source, or its held-out rows.

    At most `max_eval_samples` of each source are taken. They have a column ``source`` if there are
    several sources, or if the data has that column itself.

    Returns:
        The rows, one source after the other; None if no source has any.

    Raises:
        UserError: as `training_rows`, or the columns of the sources differ.
    """
    parts = []
    for options, _ in mixture_entries(corpus):
        if options.dataset_test_split or holds_out(options):
            split = options.dataset_test_split
            rows = training_rows(options, split, keep=[SOURCE]) if split else _first_rows(options)
            count = min(corpus.max_eval_samples or len(rows), len(rows))
            parts.append((source_name(options), rows.select(range(count))))
    if len(parts) < 2:
        return parts[0][1] if parts else None
    named = []
    for name, rows in parts:
        if SOURCE not in rows.column_names:
            rows = rows.add_column(SOURCE, [name] * len(rows))
        named.append(rows.select_columns(sorted(rows.column_names)))
        if named[-1].column_names != named[0].column_names:
            raise UserError(
                f"mixture: the evaluation rows of {name!r} have the columns "
                f"{named[-1].column_names}, and those of {parts[0][0]!r} have "
                f"{named[0].column_names}: give both a text_template, "
                "or both a prompt_template and a completion_template"
            )
    return concatenate_datasets(named)


def holds_out(options: CorpusArguments) -> bool:
    """Whether a source is evaluated on rows of its own training split."""
    return options.num_heldout is not None and not options.dataset_test_split


def _first_rows(options: CorpusArguments) -> Dataset:
    """The first `num_heldout` rows of a source's training split.

    Raises:
        UserError: there are fewer.
    """
    rows = training_rows(
        options, options.dataset_train_split, streaming=options.streaming, keep=[SOURCE]
    )
    first = list(islice(rows, options.num_heldout))
    if len(first) != options.num_heldout:
        raise UserError(
            f"num_heldout={options.num_heldout}, but {source_name(options)!r} has {len(first)} rows"
        )
    return Dataset.from_list(first)


class _NotHeldOut:
    """Whether the content of a row differs from that of every held-out row.

    The content decides because the processes and workers that share a stream read different files
    and count rows on their own.
    """

    def __init__(self, held_out: Dataset, columns: Sequence[str]):
        self.columns = list(columns)
        # sorted, so that the cache of `filter` recognises the function
        self.held_out = dict.fromkeys(sorted(map(self._digest, held_out)))

    def _digest(self, row: dict[str, Any]) -> str:
        content = json.dumps([row[column] for column in self.columns], default=str)
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def __call__(self, row: dict[str, Any]) -> bool:
        return self._digest(row) not in self.held_out
