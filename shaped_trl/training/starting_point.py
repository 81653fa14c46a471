"""The model and the tokenizer that a run starts from: loaded from a checkpoint, or made anew."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from peft import PeftConfig, PeftModel
from shaped_eval.errors import UserError
from shaped_eval.untrusted.pretrained import (
    check_model_folder,
    is_adapter,
    needs_code,
    read_adapter,
    read_pretrained,
    refuse_adapter,
)
from shaped_eval.untrusted.weights import check_weights
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)
from transformers.distributed import DistributedConfig
from trl import ModelConfig, get_peft_config
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from shaped_trl.data.corpora import CorpusArguments, column_names
from shaped_trl.data.mixtures import Source
from shaped_trl.data.tokenizers import train_tokenizer
from shaped_trl.modeling.architectures import paper_config, scaled_down
from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.engines import parallel_size

logger = logging.getLogger(__name__)

# A tokenizer that is trained on a stream sees this many rows of each source.
TOKENIZER_ROWS = 100_000


def model_source(model_args: ModelConfig) -> str:
    """The checkpoint to start from. Nothing is loaded.

    Raises:
        UserError: the name is missing, or looks like a local folder but has no config.json.
    """
    name = model_args.model_name_or_path
    if not name:
        raise UserError(
            "model_name_or_path is missing: give the folder of a model or its id on the Hub"
        )
    check_model_folder(name, "model_name_or_path")
    return name


def trusts_code(args: TrainingArguments) -> bool:
    """Whether Python code from the model's repository may run (TRL's `trust_remote_code`)."""
    return bool((args.model_init_kwargs or {}).get("trust_remote_code", args.trust_remote_code))


def checkpoint_config(
    model_args: ModelConfig, trust_remote_code: bool = False, **changes: Any
) -> PreTrainedConfig:
    """The configuration of the checkpoint to start from. No weights are read.

    `changes` are further keyword arguments of `from_pretrained`, such as `model_init_kwargs`.

    Raises:
        UserError: the configuration cannot be found or read, needs code of its own that may not
            run, or does not describe a causal language model.
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
            f"model_name_or_path={name!r} is of type {config.model_type!r}, which is not a causal "
            "language model of transformers: give one that AutoModelForCausalLM loads"
        )
    return config


def model_init_kwargs(model_args: ModelConfig) -> dict:
    """The keyword arguments for `from_pretrained`, from TRL's ModelConfig.

    Raises:
        UserError: the model is to be quantized.
    """
    for name in ("load_in_4bit", "load_in_8bit"):
        if getattr(model_args, name):
            raise UserError(
                f"{name}=True (QLoRA) is not supported: neither the loss nor RL was tested on "
                "quantized weights; use --use_peft with --dtype bfloat16, which holds the frozen "
                "model in 2 bytes a parameter"
            )
    kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype or "auto",
    }
    return {name: value for name, value in kwargs.items() if value is not None}


# Models below this width are toys that were trained from scratch here, and bear high rates.
PRETRAINED_WIDTH = 256
HIGHEST_RATE = 1e-4


def rate_of_scratch(
    config: PreTrainedConfig, args: TrainingArguments, model_args: ModelConfig
) -> str | None:
    """A warning if all weights of a pretrained model are trained at a rate for new models."""
    width = getattr(config.get_text_config(), "hidden_size", 0)
    if model_args.use_peft or args.learning_rate <= HIGHEST_RATE or width < PRETRAINED_WIDTH:
        return None
    return (
        f"learning_rate={args.learning_rate:g} is a rate for training from scratch: above "
        f"{HIGHEST_RATE:g} a pretrained model may lose what it has learned; 1e-5 is common"
    )


def starts_from_checkpoint(corpus: CorpusArguments, model_args: ModelConfig) -> bool:
    """Whether the run starts from a checkpoint, which takes precedence over `from_scratch`."""
    return bool(model_args.model_name_or_path) or corpus.from_scratch is None


def tokenizer_and_model(
    corpus: CorpusArguments, args: ShapedConfig, model_args: ModelConfig, sources: list[Source]
):
    """The tokenizer, and a new model or the name of a checkpoint, which the trainer then loads."""
    if starts_from_checkpoint(corpus, model_args):
        trusted = trusts_code(args)
        config = checkpoint_config(model_args, trusted, **(args.model_init_kwargs or {}))
        args.save_as(config)
        args.model_init_kwargs = {**model_init_kwargs(model_args), **(args.model_init_kwargs or {})}
        if (size := parallel_size(args, "tp")) > 1:
            args.model_init_kwargs["distributed_config"] = DistributedConfig(tp_size=size)
        name = model_source(model_args)
        check_weights(name, "model_name_or_path")
        tokenizer = tokenizer_of_run(corpus, args, model_args, sources)
        check_fit(config, args, tokenizer)
        if warning := rate_of_scratch(config, args, model_args):
            logger.warning(warning)
        return tokenizer, model_or_name(name, args, model_args)
    if (size := parallel_size(args, "tp")) > 1:
        raise UserError(
            f"parallelism_config_tp_size={size} does not work with from_scratch: a model is "
            "divided while a checkpoint is loaded; use accelerate_config: fsdp2, or save a model "
            "first and give --model_name_or_path"
        )
    set_seed(args.seed)
    tokenizer = tokenizer_of_run(corpus, args, model_args, sources)
    assert isinstance(corpus.from_scratch, dict)  # `check_files` has made sure of it
    model = new_model(corpus.from_scratch, tokenizer, model_args)
    check_fit(model.config, args, tokenizer)
    return tokenizer, model


def model_or_name(
    name: str, args: Any, model_args: ModelConfig
) -> str | PreTrainedModel | PeftModel:
    """What a trainer is given: the name of a checkpoint, or the model of an adapter's folder.

    With `use_peft` the adapter itself is trained on, and `lora_r` and the like have no effect.
    Otherwise it is merged into its base model, all of whose weights are then trained.

    Raises:
        UserError: as `read_adapter`; or the adapter's model would have to be divided (`tp`).
    """
    if not is_adapter(name):
        return name
    field = "model_name_or_path"
    if parallel_size(args, "tp") > 1:
        refuse_adapter(name, field, "parallelism_config_tp_size")
    # TRL applies these only where it loads the model itself.
    options, args.model_init_kwargs = args.model_init_kwargs or {}, None
    if model_args.use_peft:
        return read_adapter(name, field, trainable=True, **options)
    return read_pretrained(AutoModelForCausalLM, name, field, **options)


def new_adapter(model_args: ModelConfig) -> PeftConfig | None:
    """The configuration of the adapter that the trainer makes; None if it makes none."""
    name = model_args.model_name_or_path
    return None if name and is_adapter(name) else get_peft_config(model_args)


def tokenizer_of_run(
    corpus: CorpusArguments, args: ShapedConfig, model_args: ModelConfig, sources: list[Source]
) -> PreTrainedTokenizerBase:
    """The tokenizer that the options name, that of the checkpoint, or one trained on the corpus.

    Raises:
        UserError: it is missing, or `assistant_only_loss` cannot use its chat template.
    """
    trusted = trusts_code(args)
    if corpus.tokenizer_name_or_path or not starts_from_checkpoint(corpus, model_args):
        tokenizer = new_tokenizer(corpus, sources, trusted)
    else:
        options = {"revision": model_args.model_revision, "trust_remote_code": trusted}
        name = model_source(model_args)
        tokenizer = load_tokenizer(name, "model_name_or_path", **options)
    if args.assistant_only_loss:
        check_assistant_template(tokenizer)
    return tokenizer


def check_assistant_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that the chat template can tell which tokens are the assistant's.

    TRL knows the templates of some models, and puts markers into them.

    Raises:
        UserError: there is no template, or one without markers that TRL does not know.
    """
    remedy = (
        "use a template with {% generation %} markers around the assistant's words, or rows with "
        "prompt and completion, whose loss is on the completion alone"
    )
    if not tokenizer.chat_template:
        raise UserError(f"assistant_only_loss=True needs a chat template: {remedy}")
    if has_generation_markers(tokenizer.chat_template):
        return
    try:
        get_training_chat_template(tokenizer)
    except ValueError as error:
        raise UserError(
            "assistant_only_loss=True needs a chat template that marks the assistant's tokens, "
            f"which this tokenizer's does not: {remedy}"
        ) from error


def load_tokenizer(
    name: str, field: str = "tokenizer_name_or_path", **options: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or Hub id.

    Raises:
        UserError: there is no tokenizer, it needs code of its own that may not run
            (`read_pretrained`), or it has no vocabulary, which is what transformers makes of a
            model folder without tokenizer files.
    """
    tokenizer = read_pretrained(AutoTokenizer, name, field, **options)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(
            f"{field}={name!r} has no tokenizer files: save the model's tokenizer beside it"
        )
    return tokenizer


def new_tokenizer(
    corpus: CorpusArguments, sources: list[Source], trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer named in the options, or a new one trained on the corpus.

    A stream contributes the first `TOKENIZER_ROWS` rows of each source.
    """
    if corpus.tokenizer_name_or_path:
        return load_tokenizer(corpus.tokenizer_name_or_path, trust_remote_code=trust_remote_code)
    texts = (text for source in sources for text in _texts(source))
    return train_tokenizer(texts, corpus.tokenizer_kind, corpus.tokenizer_vocab_size)


def _texts(source: Source) -> Iterator[str]:
    columns = column_names(source.rows)
    names = [name for name in ("text", "prompt", "completion") if name in columns]
    if not names:
        raise UserError(
            "tokenizer_name_or_path is missing: a tokenizer can be trained on text or prompt and "
            f"completion, not on the columns {columns}"
        )
    rows = source.rows if isinstance(source.rows, Dataset) else islice(source.rows, TOKENIZER_ROWS)
    return (row[name] for row in rows for name in names)


def new_model(
    settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase, model_args: ModelConfig
):
    """A randomly initialised causal language model with the tokenizer's special tokens.

    Its vocabulary is the tokenizer's unless `settings` give another size.

    Raises:
        UserError: as in `new_config`; or the vocabulary is smaller than the tokenizer's.
    """
    special = {
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = new_config(settings, len(tokenizer), **special)
    if config.vocab_size < len(tokenizer):
        raise UserError(
            f"from_scratch vocab_size={config.vocab_size} is below the tokenizer's "
            f"{len(tokenizer)} tokens"
        )
    attention = model_args.attn_implementation or settings.get("attn_implementation")
    try:
        return AutoModelForCausalLM.from_config(
            config, dtype=model_args.dtype or "float32", attn_implementation=attention
        )
    # The attention implementation is unknown, or its package is not installed.
    except (ValueError, ImportError) as error:
        raise UserError(
            f"attn_implementation={attention!r}: {' '.join(str(error).split())}"
        ) from error


def new_config(
    settings: dict[str, Any], vocabulary: int, **special: int | None
) -> PreTrainedConfig:
    """The configuration of a model from scratch.

    `architecture` in `settings` names one of `modeling.architectures`, which has its own
    vocabulary; `scaled_down: true` beside it gives a small model by the same rules, for a trial on
    a laptop. Without `architecture`, `settings` are the fields of a transformers configuration, and
    `vocab_size` is the tokenizer's by default.

    Raises:
        UserError: the architecture is unknown, or it refuses a setting.
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
    except (ValueError, StrictDataclassError) as error:
        raise UserError(f"from_scratch {name or settings.get('model_type')}: {error}") from error


def check_fit(
    config: PreTrainedConfig, args: ShapedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Check that the model has an embedding for every token and position.

    A rotary model may be trained beyond its own number of positions; this only logs a warning.

    Raises:
            UserError: the vocabulary or the table of positions is too small.
    """
    text = config.get_text_config()
    if text.vocab_size < len(tokenizer):
        raise UserError(
            f"the model's vocab_size={text.vocab_size} is below the tokenizer's "
            f"{len(tokenizer)} tokens"
        )
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None or args.max_length is None or args.max_length <= positions:
        return
    beyond = (
        f"max_length={args.max_length} is beyond the model's max_position_embeddings={positions}"
    )
    if getattr(text, "rope_parameters", None) is None:  # learned positions end with their table
        raise UserError(f"{beyond}: lower it")
    logger.warning(
        f"{beyond}: raise max_position_embeddings through model_init_kwargs (or from_scratch), "
        "or lower max_length"
    )
