"""Training rows from a local file, a mirror of the Hub, or the Hub, in TRL's data formats.

A row has ``text`` (language modelling), ``prompt`` and ``completion``, or ``messages`` (chat),
which SFTTrainer tokenises, masks and packs. Templates build these from other columns, as in
``"Question: {question}\\nAnswer:"``. The rows are a memory-mapped `datasets.Dataset` or, with
``streaming``, a `datasets.IterableDataset` that is read during training. A single data set goes to
TRL as it is. A mixture or a stream goes through `shaped_trl.data.packing`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import yaml
from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from shaped_eval.benchmarks.templates import check_templates, fill
from shaped_eval.errors import UserError
from shaped_eval.sources import MIRROR_VARIABLE, mirror_file

from shaped_trl.data.decontamination import MARK, ROW_ID, Overlap
from shaped_trl.run_record import MAY_CHANGE

LOADERS = {".jsonl": "json", ".json": "json", ".txt": "text", ".csv": "csv", ".parquet": "parquet"}
_PATTERN = re.compile(r"[*?\[]|::")  # in the path of a file
TRAINABLE = ("text", "messages", "prompt", "conversations", "input_ids")
TEMPLATED = ("text", "prompt", "completion")
Rows: TypeAlias = Dataset | IterableDataset


@dataclass
class SourceArguments:
    """Where rows come from; shared by `train` and `rlvr`."""

    dataset_name: str = field(
        default="",
        metadata={
            "help": "Data set: an id on the Hub, or a local .jsonl, .json, .txt, .csv or "
            ".parquet file."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a data set on the Hub."}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    hub_mirror: Annotated[str | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "Folder of data sets, which is read before the Hub. It holds files "
            f"<id>/<config>/<split>.jsonl. The environment variable {MIRROR_VARIABLE} "
            "sets it as well.",
        },
    )
    dataset_license: str | None = field(
        default=None,
        metadata={
            "help": "Licence of the data, for the model card. By default it is the licence that "
            "the card of the data set states."
        },
    )
    prompt_template: str | None = field(
        default=None,
        metadata={
            "help": "Text of the prompt, built from columns: 'Question: {question}'. By default "
            "it is the column prompt. A line break is \\n within double quotes in a recipe, and "
            "within $'…' in a shell."
        },
    )


@dataclass
class CorpusArguments(SourceArguments):
    """Data, tokenizer and, for training from scratch, the model of `shaped-trl train`."""

    mixture: list | str | None = field(
        default=None,
        metadata={
            "help": "Several data sets in place of dataset_name: [{dataset_name: a.jsonl, "
            "weight: 0.95}, {dataset_name: b.jsonl, weight: 0.05}]. Weights are shares "
            "of the training tokens and sum to 1. An entry may have its own "
            "dataset_config, dataset_train_split, dataset_test_split, templates, streaming and "
            "loss_weight (a factor of the loss of its tokens). Needs packing."
        },
    )
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read and tokenise the data during training, for data that does not fit on "
            "the disk. Needs packing."
        },
    )
    train_tokens: str | None = field(
        default=None,
        metadata={
            "help": "Number of tokens to train on, in place of max_steps: 300M, 1.5B, 500B. "
            "Needs packing."
        },
    )
    decontaminate: list | str | None = field(
        default=None,
        metadata={
            "help": "Drop rows that share 13 consecutive words with one of these benchmarks: "
            "[gsm8k, math500]."
        },
    )
    dataset_test_split: str | None = field(
        default=None,
        metadata={
            "help": "Split, or local file, to evaluate on. Without it and without num_heldout "
            "there is no evaluation on held-out rows. In a mixture it belongs to the first source; "
            "the other entries name their own. If there are several sources, or a "
            "column named source, the log has the negative log-likelihood of each source."
        },
    )
    num_heldout: int | None = field(
        default=None,
        metadata={
            "help": "Number of rows to hold out of each source that has no dataset_test_split. "
            "The first rows are taken. Neither they nor copies of them are trained on. "
            "Use this for data with a single split, streams included."
        },
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on at most this many rows of each source."}
    )
    completion_template: str | None = field(
        default=None,
        metadata={
            "help": "Text of the completion, built from columns: ' {answer}'. It needs "
            "prompt_template."
        },
    )
    text_template: str | None = field(
        default=None,
        metadata={
            "help": "Plain text to train on, built from columns: '{title}\\n{body}'. By default it "
            "is the column text."
        },
    )
    from_scratch: dict | str | None = field(
        default=None,
        metadata={
            "help": "Train a new, randomly initialised model with this configuration: "
            "{model_type: qwen3, hidden_size: 512, ...}. It is used if model_name_or_path is "
            "not given."
        },
    )
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer for a model from scratch. By default one is trained on the data."
        },
    )
    tokenizer_kind: str = field(
        default="bpe",
        metadata={"help": "Kind of tokenizer to train on the data: bpe (byte-level) or word."},
    )
    tokenizer_vocab_size: int = field(
        default=8192,
        metadata={"help": "Vocabulary size of a tokenizer that is trained on the data."},
    )

    def __post_init__(self):
        for name in ("from_scratch", "mixture"):
            setattr(self, name, parse_yaml(name, getattr(self, name)))
        if self.num_heldout is not None and self.num_heldout < 1:
            raise ValueError(f"num_heldout={self.num_heldout} must be at least 1")
        self.decontaminate = parse_names(self.decontaminate)


def parse_yaml(name: str, value: Any) -> Any:
    """A nested option, which the command line passes as YAML or JSON.

    Raises:
        ValueError: the text is not YAML.
    """
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}={value!r} is not YAML: {' '.join(str(error).split())}") from error


def parse_names(value: list | str | None) -> list | None:
    """A list of names that the command line passes as ``[gsm8k, math500]`` or without brackets."""
    return (
        [name.strip() for name in value.strip("[] ").split(",")]
        if isinstance(value, str)
        else value
    )


def load_split(args: SourceArguments, split: str, streaming: bool = False) -> Rows:
    """The rows of one split: of a local file, of the mirror if one is set, or of the Hub.

    Args:
        args: name the data set.
        split: name of the split, or a local file.
        streaming: read the rows during training.

    Raises:
        UserError: there is no such data set, or it cannot be read.
    """
    local = Path(args.dataset_name)
    if not args.dataset_name:
        raise UserError(
            "dataset_name is missing: "
            "give a Hub id or a local .jsonl, .json, .txt, .csv or .parquet file"
        )
    if split != args.dataset_train_split and Path(split).suffix in LOADERS:
        local = Path(split)
    if local.suffix in LOADERS:
        return _load_file(local, streaming)
    path = mirror_file(args.dataset_name, args.dataset_config, split, args.hub_mirror)
    if path is not None:
        return _load_file(path, streaming)
    try:
        return load_dataset(
            args.dataset_name, args.dataset_config, split=split, streaming=streaming
        )
    except Exception as error:
        message = str(error).splitlines()[0] if str(error) else "no message"
        raise UserError(
            f"dataset_name={args.dataset_name!r} (config {args.dataset_config!r}, split {split!r}) "
            f"could not be read from the Hub ({type(error).__name__}: {message}): "
            "check the id and the network, give a local file, "
            f"or point --hub_mirror (or {MIRROR_VARIABLE}) at a mirror that has it"
        ) from error


def _load_file(path: Path, streaming: bool) -> Rows:
    if not path.is_file():
        raise UserError(f"data {str(path)!r}: there is no such file")
    if path.stat().st_size == 0:
        raise UserError(f"data {str(path)!r}: the file is empty")
    if _PATTERN.search(str(path)):
        raise UserError(
            f"data {str(path)!r}: the library `datasets` reads *, ?, [ and :: as patterns, and "
            "would read other files: rename it"
        )
    try:
        return load_dataset(
            LOADERS[path.suffix], data_files=str(path), split="train", streaming=streaming
        )
    except DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(
            f"data {str(path)!r} cannot be read as {LOADERS[path.suffix]}: {reason}"
        ) from error


def column_names(rows: Rows) -> list[str]:
    """The names of the columns; if a stream does not know them, those of its first row."""
    return rows.column_names if rows.column_names is not None else list(next(iter(rows)))


def fill_template(rows: Rows, columns: dict[str, str]) -> Rows:
    """The rows with more columns, which templates build from the others.

    Args:
        rows: of a data set.
        columns: name of a new column → template, such as ``{"prompt": "Q: {question}"}``.

    Raises:
        UserError: a template is malformed, or names a column that the data set lacks.
    """
    check_templates(columns, column_names(rows))
    return rows.map(
        lambda row: {name: fill(name, template, row) for name, template in columns.items()}
    )


def training_rows(
    args: CorpusArguments,
    split: str,
    *,
    streaming: bool = False,
    overlap: Overlap | None = None,
    keep: Collection[str] = (),
) -> Rows:
    """One split in a format that SFTTrainer reads, with templates applied.

    Args:
        args: name the data set and the templates.
        split: name of the split, or a local file.
        streaming: read the rows during training.
        overlap: adds the columns `MARK` and `ROW_ID`; no row is dropped yet.
        keep: columns to keep besides those that TRL trains on.

    Raises:
        UserError: there is no column to train on, or a prompt without a completion, and no template
            that builds one.
    """
    rows = load_split(args, split, streaming)
    given = {name: getattr(args, f"{name}_template") for name in TEMPLATED}
    given = {name: template for name, template in given.items() if template is not None}
    if given:
        if "text" not in given and set(given) != {"prompt", "completion"}:
            raise UserError(
                f"templates for {sorted(given)} alone make no training row: give text_template, "
                "or prompt_template and completion_template together"
            )
        kept = [name for name in keep if name in column_names(rows) and name not in given]
        rows, columns = fill_template(rows, given), [*given, *kept]
    else:
        columns = column_names(rows)
        if "text" in columns and not {"messages", "prompt"} & set(columns):
            columns = ["text", *(name for name in keep if name in columns)]
        elif not set(TRAINABLE) & set(columns):
            raise UserError(
                f"dataset_name={args.dataset_name!r} has the columns {columns}, none of which can "
                "be trained on: name them in text_template, "
                "or in prompt_template and completion_template"
            )
        elif "prompt" in columns and "completion" not in columns:
            raise UserError(
                f"dataset_name={args.dataset_name!r} has the columns {columns}: a prompt without a "
                "completion cannot be trained on; give text_template, or prompt_template and "
                "completion_template"
            )
    if overlap is not None:
        rows, columns = rows.map(overlap.bind(columns)), [*columns, MARK, ROW_ID]
    return rows.select_columns(columns)
