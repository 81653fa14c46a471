"""`shaped-trl train`: one resolved recipe → data, tokenizer, model → ShapedTrainer → a
checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

from datasets import Dataset
from shaped_eval.errors import UserError
from shaped_eval.untrusted.pretrained import check_model_folder, needs_code, read_pretrained
from shaped_eval.untrusted.weights import check_weights
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)
from transformers.distributed import DistributedConfig
from trl import ModelConfig, get_peft_config, get_quantization_config

from shaped_trl.data.budget import budget_steps
from shaped_trl.data.corpora import CorpusArguments, column_names
from shaped_trl.data.decontamination import Overlap, ReportCallback
from shaped_trl.data.mixtures import SOURCE, Source, evaluation_rows, load_sources, mixture_entries
from shaped_trl.data.tokenizers import train_tokenizer
from shaped_trl.hub.facts import corpus_facts
from shaped_trl.modeling.architectures import ARCHITECTURES, paper_config, scaled_down
from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.engines import parallel_size
from shaped_trl.training.evaluation import BenchmarkArguments, add_benchmarks
from shaped_trl.training.resuming import (
    already_finished,
    continue_training,
    full_disk_explained,
    save_for_good,
    trained_and_evaluated,
)
from shaped_trl.training.streaming import StreamingTrainer, check_streaming
from shaped_trl.training.throughput import ThroughputCallback
from shaped_trl.training.trainer import ShapedTrainer

logger = logging.getLogger(__name__)

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
    check_model_folder(name, "model_name_or_path")
    return name


def trusts_code(args: TrainingArguments) -> bool:
    """Whether Python code of the model's repository may run: `trust_remote_code` of TRL's
    configurations."""
    return bool((args.model_init_kwargs or {}).get("trust_remote_code", args.trust_remote_code))


def checkpoint_config(
    model_args: ModelConfig, trust_remote_code: bool = False, **changes: Any
) -> PreTrainedConfig:
    """The configuration of the checkpoint to start from; no weights are read.

    Raises:
        UserError: it is not there, cannot be read, needs code of its own that may not run, or is no
            causal language model.
    """
    name, field = model_source(model_args), "model_name_or_path"
    changes = {
        key: value
        for key, value in changes.items()
        if key not in ("dtype", "revision", "trust_remote_code")
    }
    options = {
        "revision": model_args.model_revision,
        "trust_remote_code": trust_remote_code,
        **changes,
    }
    config = read_pretrained(AutoConfig, name, field, **options)
    if AutoModelForCausalLM.__name__ in (getattr(config, "auto_map", None) or {}):
        if trust_remote_code:
            return config
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise needs_code(name, field)
    masked = any("MaskedLM" in name for name in config.architectures or [])
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or (
        masked and not getattr(config, "is_decoder", False)
    ):
        raise UserError(
            f"model_name_or_path={name!r} is of type {config.model_type!r}, which is no causal language model of "
            "transformers: give one that AutoModelForCausalLM loads"
        )
    return config


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


def check_files(
    corpus: CorpusArguments, model_args: ModelConfig, trust_remote_code: bool = False
) -> None:
    """Raise UserError for a start that cannot work: no checkpoint there, no usable configuration or
    mixture."""
    mixture_entries(corpus)
    if starts_from_checkpoint(corpus, model_args):
        checkpoint_config(model_args, trust_remote_code)
    elif (
        not isinstance(corpus.from_scratch, dict)
        or not {"model_type", "architecture"} & corpus.from_scratch.keys()
    ):
        raise UserError(
            "from_scratch needs a mapping with model_type, e.g. {model_type: qwen3, hidden_size: 64}, or with one of "
            f"the paper's models, e.g. {{architecture: 1b}}: {', '.join(ARCHITECTURES)}"
        )


def starts_from_checkpoint(corpus: CorpusArguments, model_args: ModelConfig) -> bool:
    """A checkpoint that is named wins over a configuration for training from scratch."""
    return bool(model_args.model_name_or_path) or corpus.from_scratch is None


def new_tokenizer(
    corpus: CorpusArguments, sources: list[Source], trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer that was asked for, or one trained on the corpus (the first `TOKENIZER_ROWS` of
    a stream)."""
    if corpus.tokenizer_name_or_path:
        return load_tokenizer(corpus.tokenizer_name_or_path, trust_remote_code=trust_remote_code)
    texts = (text for source in sources for text in _texts(source))
    return train_tokenizer(texts, corpus.tokenizer_kind, corpus.tokenizer_vocab_size)


def load_tokenizer(
    name: str, field: str = "tokenizer_name_or_path", **options: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id.

    Raises:
        UserError: there is none, one that needs code of its own (`read_pretrained`), or one without
            a vocabulary, as transformers makes of a model's folder without files.
    """
    tokenizer = read_pretrained(AutoTokenizer, name, field, **options)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(
            f"{field}={name!r} has no tokenizer files: save the model's tokenizer beside it"
        )
    return tokenizer


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


def new_config(
    settings: dict[str, Any], vocabulary: int, **special: int | None
) -> PreTrainedConfig:
    """The configuration of a model from scratch.

    `architecture` in `settings` names one of `modeling.architectures`, with a vocabulary of its
    own;
    `scaled_down: true` beside it makes the small model of its rule, for a trial on a laptop.
        Without it `settings`
    are those of a configuration of transformers, the vocabulary of the tokenizer by default.

    Raises:
        UserError: no such model, or settings that it refuses.
    """
    name, small = settings.get("architecture"), settings.get("scaled_down", False)
    settings = {
        key: value for key, value in settings.items() if key not in ("architecture", "scaled_down")
    }
    try:
        if name is None:
            return AutoConfig.for_model(**{"vocab_size": vocabulary, **special, **settings})
        config = paper_config(name, **special, **settings)
        return scaled_down(config) if small else config
    except ValueError as error:
        raise UserError(f"from_scratch {name or settings.get('model_type')}: {error}") from error


def new_model(
    settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase, model_args: ModelConfig
):
    """A randomly initialised causal language model that fits `tokenizer` (its special tokens, and
    its vocabulary).

    Raises:
        UserError: as `new_config` does; a vocabulary below the tokenizer's.
    """
    special = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = new_config(settings, len(tokenizer), **special)
    if config.vocab_size < len(tokenizer):
        raise UserError(
            f"from_scratch vocab_size={config.vocab_size} is below the tokenizer's {len(tokenizer)} tokens"
        )
    attention = model_args.attn_implementation or settings.get("attn_implementation")
    try:
        return AutoModelForCausalLM.from_config(
            config, dtype=model_args.dtype or "float32", attn_implementation=attention
        )
    # an attention that is unknown, or whose package is not there
    except (ValueError, ImportError) as error:
        raise UserError(
            f"attn_implementation={attention!r}: {' '.join(str(error).split())}"
        ) from error


def tokenizer_and_model(
    corpus: CorpusArguments, args: ShapedConfig, model_args: ModelConfig, sources: list[Source]
):
    """What the trainer gets: both made anew, or a checkpoint's name, of which it loads both."""
    if starts_from_checkpoint(corpus, model_args):
        trusted = trusts_code(args)
        config = checkpoint_config(model_args, trusted, **(args.model_init_kwargs or {}))
        args.model_init_kwargs = {**model_init_kwargs(model_args), **(args.model_init_kwargs or {})}
        if (size := parallel_size(args, "tp")) > 1:
            args.model_init_kwargs["distributed_config"] = DistributedConfig(tp_size=size)
        name = model_source(model_args)
        check_weights(name, "model_name_or_path")
        if corpus.tokenizer_name_or_path:
            tokenizer = load_tokenizer(corpus.tokenizer_name_or_path, trust_remote_code=trusted)
        else:
            options = {"revision": model_args.model_revision, "trust_remote_code": trusted}
            tokenizer = load_tokenizer(name, "model_name_or_path", **options)
        check_fit(config, args, tokenizer)
        return tokenizer, name
    if (size := parallel_size(args, "tp")) > 1:
        raise UserError(
            f"parallelism_config_tp_size={size} is not for from_scratch: a model is divided while a checkpoint is "
            "loaded; use accelerate_config: fsdp2, or save a model first and give --model_name_or_path"
        )
    set_seed(args.seed)
    tokenizer = new_tokenizer(corpus, sources, trusts_code(args))
    assert isinstance(corpus.from_scratch, dict)  # by `check_files`
    model = new_model(corpus.from_scratch, tokenizer, model_args)
    check_fit(model.config, args, tokenizer)
    return tokenizer, model


def check_fit(
    config: PreTrainedConfig, args: ShapedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Raise UserError for tokens or positions without an embedding; warn of positions beyond the
    model's own."""
    text = config.get_text_config()
    if text.vocab_size < len(tokenizer):
        raise UserError(
            f"the model's vocab_size={text.vocab_size} is below the tokenizer's {len(tokenizer)} tokens"
        )
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None or args.max_length is None or args.max_length <= positions:
        return
    beyond = (
        f"max_length={args.max_length} is beyond the model's max_position_embeddings={positions}"
    )
    if getattr(text, "rope_parameters", None) is None:  # a table of positions ends there
        raise UserError(f"{beyond}: lower it")
    logger.warning(
        f"{beyond}: raise that through model_init_kwargs (or from_scratch), or lower max_length"
    )


def build_trainer(
    corpus: CorpusArguments,
    args: ShapedConfig,
    model_args: ModelConfig,
    make_model=tokenizer_and_model,
) -> ShapedTrainer:
    """Load data, tokenizer and model, and put them into a `ShapedTrainer`; a mixture or stream into
    its subclass."""
    check_files(corpus, model_args, trusts_code(args))
    check_data_options(corpus, args)
    overlap = Overlap(corpus.decontaminate, corpus.hub_mirror) if corpus.decontaminate else None
    sources, dropped = load_sources(corpus, overlap)
    eval_rows = evaluation_rows(corpus)
    if eval_rows is not None:
        if SOURCE in eval_rows.column_names and args.eval_packing is None:
            args.eval_packing = False  # TRL packs without other columns
    elif args.eval_strategy != "no":
        raise UserError(
            f"eval_strategy={str(args.eval_strategy)!r} needs num_heldout or dataset_test_split"
        )
    tokenizer, model = make_model(corpus, args, model_args, sources)
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
        args.max_steps = budget_steps(
            corpus.train_tokens, trainer.get_total_train_batch_size(args), args.max_length
        )
    if args.max_steps > 0 and (misfit := learning_rate_misfit(args, args.max_steps)):
        logger.warning(misfit)
    return trainer


def learning_rate_misfit(args: ShapedConfig, steps: int) -> str | None:
    """One line where warm-up and decay do not fit into the run, which transformers accepts
    silently."""
    decay = dict(args.lr_scheduler_kwargs or {}).get("num_decay_steps") or 0
    warmup = args.get_warmup_steps(steps)
    if warmup + decay <= steps:
        return None
    return (
        f"warm-up of {warmup:,} and num_decay_steps of {decay:,} do not fit into {steps:,} steps: the learning rate "
        "will not go where the schedule says"
    )


def streams(corpus: CorpusArguments) -> bool:
    """Whether the data is a `PackedStream`, not a data set that TRL prepares as a whole."""
    return corpus.mixture is not None or corpus.streaming


def check_data_options(corpus: CorpusArguments, args: ShapedConfig) -> None:
    """Raise UserError for options of the data that contradict others; set `max_steps` from a token
    budget."""
    if streams(corpus):
        check_streaming(args)
    if corpus.train_tokens is not None:
        if args.max_steps > 0:
            raise UserError(
                f"train_tokens={corpus.train_tokens} beside max_steps={args.max_steps}: give one of them"
            )
        if not args.packing or args.max_length is None:
            raise UserError(
                f"train_tokens={corpus.train_tokens} needs packing: true and max_length"
            )
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
    """Train, evaluate at the end where there is an evaluation set, and save the model to
    `output_dir`.

    A run that finds its own checkpoint in `output_dir` continues from it.
    """
    if already_finished(args):
        return
    with full_disk_explained(args.output_dir):
        trainer = build_trainer(corpus, args, model_args)
        trainer.data_facts = corpus_facts(corpus, ask_hub=args.push_to_hub)
        add_benchmarks(trainer, benchmarks, corpus.hub_mirror)
        continue_training(trainer)
        if trainer.eval_dataset is not None and not trained_and_evaluated(trainer):
            trainer.evaluate()
        save_for_good(trainer)
