"""Training rows from a local file, a mirror of the Hub, or the Hub, as TRL's data formats.

A row ends as ``text`` (language modelling), ``prompt`` + ``completion``, or ``messages`` (chat): what SFTTrainer
tokenises, masks and packs. Templates turn other columns into these: ``"Question: {question}\\nAnswer:"``.
"""

from __future__ import annotations

import json
import string
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, load_dataset

from eval_suite.errors import UserError
from eval_suite.sources import MIRROR_VARIABLE, mirror_file

LOADERS = {".jsonl": "json", ".json": "json", ".txt": "text", ".csv": "csv", ".parquet": "parquet"}
TRAINABLE = ("text", "messages", "prompt", "conversations", "input_ids")


@dataclass
class SourceArguments:
    """Where rows come from; shared by `train` and `rlvr`."""

    dataset_name: str = field(
        default="",
        metadata={"help": "Hub id, or a local .jsonl, .json, .txt, .csv or .parquet file."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    hub_mirror: str | None = field(
        default=None,
        metadata={"help": f"Folder <id>/<config>/<split>.jsonl read before the Hub (or {MIRROR_VARIABLE})."},
    )
    prompt_template: str | None = field(
        default=None, metadata={"help": "Prompt built from columns: 'Question: {question}\\nAnswer:'."}
    )


@dataclass
class CorpusArguments(SourceArguments):
    """Data, tokenizer and, for training from scratch, the model of `shaped-trl train`."""

    dataset_test_split: str | None = field(
        default=None, metadata={"help": "Split, or local file, to evaluate on; none: no evaluation."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first rows only."})
    completion_template: str | None = field(
        default=None, metadata={"help": "Completion built from columns, with prompt_template: ' {answer}'."}
    )
    text_template: str | None = field(default=None, metadata={"help": "Plain text built from columns."})
    from_scratch: dict | str | None = field(
        default=None,
        metadata={"help": "Model configuration to initialise at random where no model_name_or_path is given."},
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Tokenizer for training from scratch; none: one is trained on the corpus."}
    )
    tokenizer_kind: str = field(
        default="bpe", metadata={"help": "Tokenizer trained on the corpus: bpe (byte-level) or word."}
    )
    tokenizer_vocab_size: int = field(default=8192, metadata={"help": "Vocabulary of a tokenizer trained here."})

    def __post_init__(self):
        if isinstance(self.from_scratch, str):  # the command line passes JSON
            self.from_scratch = json.loads(self.from_scratch)


def load_split(args: SourceArguments, split: str) -> Dataset:
    """One split as a `datasets.Dataset`: a local file, else the mirror, else the Hub.

    Raises:
        UserError: nothing there, with how to point at a mirror.
    """
    local = Path(args.dataset_name)
    if not args.dataset_name:
        raise UserError("dataset_name is missing: give a Hub id or a local .jsonl, .json, .txt, .csv, .parquet file")
    if split != args.dataset_train_split and Path(split).suffix in LOADERS:
        local = Path(split)
    if local.suffix in LOADERS:
        return _load_file(local)
    path = mirror_file(args.dataset_name, args.dataset_config, split, args.hub_mirror)
    if path is not None:
        return _load_file(path)
    try:
        return load_dataset(args.dataset_name, args.dataset_config, split=split)
    except Exception as error:
        message = str(error).splitlines()[0] if str(error) else "no message"
        raise UserError(
            f"dataset_name={args.dataset_name!r} (config {args.dataset_config!r}, split {split!r}) could not be read "
            f"from the Hub ({type(error).__name__}: {message}): check the id and the network, give a local file, "
            f"or point --hub_mirror (or {MIRROR_VARIABLE}) at a mirror that has it"
        ) from error


def _load_file(path: Path) -> Dataset:
    if not path.is_file():
        raise UserError(f"dataset_name={str(path)!r}: no such file")
    return load_dataset(LOADERS[path.suffix], data_files=str(path), split="train")


def fill_template(dataset: Dataset, columns: dict[str, str]) -> Dataset:
    """Add columns built from templates over the others: ``{"prompt": "Q: {question}"}``.

    Raises:
        UserError: a template names a column that the data set lacks.
    """
    for name, template in columns.items():
        wanted = {field_name for _, field_name, _, _ in string.Formatter().parse(template) if field_name}
        missing = wanted - set(dataset.column_names)
        if missing:
            raise UserError(
                f"{name}_template={template!r} names {sorted(missing)}, but the data has the columns "
                f"{dataset.column_names}"
            )
    return dataset.map(lambda row: {name: template.format(**row) for name, template in columns.items()})


def training_rows(args: CorpusArguments, split: str) -> Dataset:
    """One split in a format that SFTTrainer reads, templates applied, other columns dropped.

    Raises:
        UserError: no trainable column and no template that makes one.
    """
    dataset = load_split(args, split)
    templates = {"text": args.text_template, "prompt": args.prompt_template, "completion": args.completion_template}
    given = {name: template for name, template in templates.items() if template is not None}
    if given:
        if "text" not in given and set(given) != {"prompt", "completion"}:
            raise UserError(
                f"templates for {sorted(given)} alone make no training row: give text_template, or prompt_template "
                "and completion_template together"
            )
        return fill_template(dataset, given).select_columns(list(given))
    columns = dataset.column_names
    if "text" in columns and not {"messages", "prompt"} & set(columns):
        return dataset.select_columns(["text"])
    if not set(TRAINABLE) & set(columns):
        raise UserError(
            f"dataset_name={args.dataset_name!r} has the columns {columns}, none of which trains: name them in "
            "text_template, or in prompt_template and completion_template"
        )
    return dataset
