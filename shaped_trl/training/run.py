"""`shaped-trl train`: one resolved recipe → data, tokenizer, model → ShapedTrainer → a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME
from trl import ModelConfig, get_peft_config, get_quantization_config

from eval_suite.errors import UserError
from shaped_trl.data.budget import budget_steps
from shaped_trl.data.corpora import CorpusArguments, column_names, training_rows
from shaped_trl.data.decontamination import Overlap, ReportCallback
from shaped_trl.data.mixtures import Source, load_sources, mixture_entries
from shaped_trl.data.streaming import StreamingTrainer, check_streaming, position_file
from shaped_trl.data.tokenizers import train_tokenizer
from shaped_trl.modeling.architectures import ARCHITECTURES, paper_config, scaled_down
from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.evaluation import BenchmarkArguments, add_benchmarks
from shaped_trl.training.throughput import ThroughputCallback
from shaped_trl.training.trainer import ShapedTrainer

# rows of each streaming source that a tokenizer is trained on, where one is to be trained
TOKENIZER_ROWS = 100_000


def model_source(model_args: ModelConfig) -> str:
    """The checkpoint to start from, checked before anything is loaded.

    Raises:
        UserError: it looks like a local folder and is not one.
    """
    name = model_args.model_name_or_path
    if not name:
        raise UserError("model_name_or_path is missing: give a local folder or a Hub id")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local and not (Path(name).expanduser() / "config.json").is_file():
        raise UserError(f"model_name_or_path={name!r}: no config.json there; give a saved model's folder or a Hub id")
    return name


def model_init_kwargs(model_args: ModelConfig) -> dict:
    """What `from_pretrained` gets: TRL's ModelConfig fields that it reads."""
    quantization = get_quantization_config(model_args)
    kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype or "auto",
        "quantization_config": quantization,
    }
    return {name: value for name, value in kwargs.items() if value is not None}


def check_files(corpus: CorpusArguments, model_args: ModelConfig) -> None:
    """Raise UserError for a start that cannot work: no checkpoint there, no usable configuration or mixture."""
    mixture_entries(corpus)
    if starts_from_checkpoint(corpus, model_args):
        model_source(model_args)
    elif not isinstance(corpus.from_scratch, dict) or not {"model_type", "architecture"} & corpus.from_scratch.keys():
        raise UserError(
            "from_scratch needs a mapping with model_type, e.g. {model_type: qwen3, hidden_size: 64}, or with one of "
            f"the paper's models, e.g. {{architecture: 1b}}: {', '.join(ARCHITECTURES)}"
        )


def starts_from_checkpoint(corpus: CorpusArguments, model_args: ModelConfig) -> bool:
    """A checkpoint that is named wins over a configuration for training from scratch."""
    return bool(model_args.model_name_or_path) or corpus.from_scratch is None


def new_tokenizer(corpus: CorpusArguments, sources: list[Source]) -> PreTrainedTokenizerBase:
    """The tokenizer that was asked for, or one trained on the corpus (the first `TOKENIZER_ROWS` of a stream)."""
    if corpus.tokenizer_name_or_path:
        return AutoTokenizer.from_pretrained(corpus.tokenizer_name_or_path)
    texts = (text for source in sources for text in _texts(source))
    return train_tokenizer(texts, corpus.tokenizer_kind, corpus.tokenizer_vocab_size)


def _texts(source: Source) -> Iterator[str]:
    columns = column_names(source.rows)
    names = [name for name in ("text", "prompt", "completion") if name in columns]
    if not names:
        raise UserError(
            f"tokenizer_name_or_path is missing: a tokenizer can be trained on text or prompt and completion, "
            f"not on the columns {columns}"
        )
    rows = source.rows if isinstance(source.rows, Dataset) else islice(source.rows, TOKENIZER_ROWS)
    return (row[name] for row in rows for name in names)


def new_model(settings: Any, tokenizer: PreTrainedTokenizerBase, dtype: str | None):
    """A randomly initialised causal language model that fits `tokenizer` (its special tokens, and its vocabulary).

    `architecture` in `settings` names one of `modeling.architectures`, with a vocabulary of its own;
    `scaled_down: true` beside it makes the small model of its rule, for a trial on a laptop.
    """
    special = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    name, small = settings.get("architecture"), settings.get("scaled_down", False)
    settings = {key: value for key, value in settings.items() if key not in ("architecture", "scaled_down")}
    try:
        if name is None:
            config = AutoConfig.for_model(**{"vocab_size": len(tokenizer), **special, **settings})
        else:
            config = paper_config(name, **special, **settings)
            config = scaled_down(config) if small else config
    except ValueError as error:
        raise UserError(f"from_scratch {name or settings.get('model_type')}: {error}") from error
    if config.vocab_size < len(tokenizer):
        raise UserError(
            f"from_scratch vocab_size={config.vocab_size} is below the tokenizer's {len(tokenizer)} tokens"
        )
    return AutoModelForCausalLM.from_config(config, dtype=dtype or "float32")


def build_trainer(corpus: CorpusArguments, args: ShapedConfig, model_args: ModelConfig) -> ShapedTrainer:
    """Load data, tokenizer and model, and put them into a `ShapedTrainer`; a mixture or stream into its subclass."""
    check_files(corpus, model_args)
    check_data_options(corpus, args)
    overlap = Overlap(corpus.decontaminate, corpus.hub_mirror) if corpus.decontaminate else None
    sources, dropped = load_sources(corpus, overlap)
    eval_rows = None
    if corpus.dataset_test_split:
        eval_rows = training_rows(mixture_entries(corpus)[0][0], corpus.dataset_test_split)
        eval_rows = eval_rows.select(range(min(corpus.max_eval_samples or len(eval_rows), len(eval_rows))))
    elif args.eval_strategy != "no":
        raise UserError(f"eval_strategy={str(args.eval_strategy)!r} needs dataset_test_split: name a split or a file")
    if starts_from_checkpoint(corpus, model_args):
        tokenizer, model = None, model_source(model_args)
        args.model_init_kwargs = {**model_init_kwargs(model_args), **(args.model_init_kwargs or {})}
    else:
        set_seed(args.seed)
        tokenizer = new_tokenizer(corpus, sources)
        model = new_model(corpus.from_scratch, tokenizer, model_args.dtype)
    given = {
        "eval_dataset": eval_rows,
        "processing_class": tokenizer,
        "peft_config": get_peft_config(model_args),
        "callbacks": [ThroughputCallback()],
    }
    if overlap is not None:
        given["callbacks"].append(ReportCallback(overlap, dropped))
    if streams(corpus):
        trainer = StreamingTrainer(model, args, sources=sources, **given)
    else:
        trainer = ShapedTrainer(model, args, train_dataset=sources[0].rows, **given)
    if corpus.train_tokens is not None:
        # the trainer knows how many processes share a batch
        args.max_steps = budget_steps(corpus.train_tokens, trainer.get_total_train_batch_size(args), args.max_length)
    return trainer


def streams(corpus: CorpusArguments) -> bool:
    """Whether the data is a `PackedStream`, not a data set that TRL prepares as a whole."""
    return corpus.mixture is not None or corpus.streaming


def check_data_options(corpus: CorpusArguments, args: ShapedConfig) -> None:
    """Raise UserError for options of the data that contradict others; set `max_steps` from a token budget."""
    if streams(corpus):
        check_streaming(args)
    if corpus.train_tokens is not None:
        if args.max_steps > 0:
            raise UserError(f"train_tokens={corpus.train_tokens} beside max_steps={args.max_steps}: give one of them")
        if not args.packing or args.max_length is None:
            raise UserError(f"train_tokens={corpus.train_tokens} needs packing: true and max_length")
        sequences = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        args.max_steps = budget_steps(corpus.train_tokens, sequences, args.max_length)
    elif corpus.streaming and args.max_steps <= 0:
        raise UserError("streaming and mixture have no end: give train_tokens or max_steps")


def train(
    corpus: CorpusArguments,
    args: ShapedConfig,
    model_args: ModelConfig,
    benchmarks: BenchmarkArguments | None = None,
) -> None:
    """Train, evaluate at the end where there is an evaluation set, and save the model to `output_dir`.

    A run that finds its own checkpoint in `output_dir` continues from it.
    """
    if already_finished(args):
        return
    trainer = build_trainer(corpus, args, model_args)
    add_benchmarks(trainer, benchmarks, corpus.hub_mirror)
    continue_training(trainer)
    if trainer.eval_dataset is not None and not trained_and_evaluated(trainer):
        trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card(dataset_name=corpus.dataset_name or None)
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=corpus.dataset_name or None)


def already_finished(args: TrainingArguments) -> bool:
    """Whether `output_dir` holds the saved model of this run's last step; says so."""
    saved = any(Path(args.output_dir).glob("*.safetensors"))
    checkpoint = args.resume_from_checkpoint or last_checkpoint(args.output_dir)
    if not saved or checkpoint is None or not _is_last(checkpoint):
        return False
    print(f"{args.output_dir}: this run is finished; nothing to do")
    return True


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The last checkpoint that was written to its end; one that a killed run left half-written is passed over.

    The Trainer writes its state last. A stream's positions are there for every process or it is not complete.
    """
    folders = Path(output_dir).glob("checkpoint-*")
    steps = {int(folder.name.partition("-")[2]): folder for folder in folders if folder.name[11:].isdigit()}
    for _, folder in sorted(steps.items(), reverse=True):
        if _complete(folder):
            return str(folder)
    return None


def _complete(folder: Path) -> bool:
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not there yet, or cut off
        return False
    first = position_file(folder, 0)
    if not first.is_file():
        return True
    world = json.loads(first.read_text(encoding="utf-8"))["world"]
    return all(position_file(folder, rank).is_file() for rank in range(world))


def continue_training(trainer: Trainer) -> None:
    """Train from the last checkpoint of `output_dir`, or from the start.

    A checkpoint of the last step is only loaded: the Trainer would take one step more.
    """
    checkpoint = trainer.args.resume_from_checkpoint or last_checkpoint(trainer.args.output_dir)
    if checkpoint is not None and _is_last(checkpoint):
        trainer._load_from_checkpoint(checkpoint)
        trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    else:
        trainer.train(resume_from_checkpoint=checkpoint)


def _is_last(checkpoint: str) -> bool:
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    return state.global_step >= state.max_steps


def trained_and_evaluated(trainer: ShapedTrainer) -> bool:
    """Whether the last step's evaluation already stands in the log."""
    last = trainer.state.global_step
    return any("eval_loss" in row and row["step"] == last for row in trainer.state.log_history)
