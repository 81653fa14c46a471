"""`shaped-trl train --dry_run`: print what a recipe would do, without training or writing."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from datasets import disable_progress_bars
from shaped_eval.errors import UserError
from transformers import PreTrainedConfig, Qwen3Config, Qwen3ForCausalLM
from trl import ModelConfig

from shaped_trl.data.budget import budget_steps, parse_tokens
from shaped_trl.data.corpora import CorpusArguments
from shaped_trl.data.mixtures import holds_out, mixture_entries, source_name
from shaped_trl.modeling.architectures import parameter_counts
from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.memory import step_memory
from shaped_trl.training.run import (
    build_trainer,
    check_data_options,
    check_files,
    learning_rate_misfit,
)
from shaped_trl.training.starting_point import (
    checkpoint_config,
    load_tokenizer,
    new_config,
    rate_of_scratch,
    starts_from_checkpoint,
    tokenizer_of_run,
    trusts_code,
)

SHOWN_CHARACTERS = 1_000
# Raised if a data set or a tokenizer is not available: the rest of the plan is still useful.
NOT_AVAILABLE = (UserError, OSError)


class _NoTokenizer(UserError):
    """The run would not start: there is data and a model, but no tokenizer for them."""


@dataclass
class DryRunArguments:
    """Options for a look at a run before it starts."""

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Print parameters, tokens, steps, memory and the first batch. Nothing is "
            "trained or written."
        },
    )
    devices: int | None = field(
        default=None,
        metadata={
            "help": "Number of devices that --dry_run computes the memory for. By default it is "
            "the number that the command would run on."
        },
    )

    def __post_init__(self):
        if self.devices is not None and self.devices < 1:
            raise ValueError(f"devices={self.devices} must be at least 1")
        if self.devices is not None and not self.dry_run:
            raise ValueError(
                f"devices={self.devices} is for --dry_run: accelerate launch chooses those of a run"
            )


def dry_run(
    corpus: CorpusArguments, args: ShapedConfig, model_args: ModelConfig, devices: int | None
) -> Iterator[str]:
    """The plan of a run, line by line.

    Data or a checkpoint that is not available here is named in a line.

    Raises:
        UserError: the run itself would refuse an option; or, after the rest of the plan, its
            tokenizer is missing.
    """
    if starts_from_checkpoint(corpus, model_args):
        # Only the mixture is checked, since an earlier run may still have to make the checkpoint.
        mixture_entries(corpus)
    else:
        check_files(corpus, model_args, trusts_code(args))
    devices = devices or args.world_size
    steps, sequences = _steps(corpus, args, devices)
    check_data_options(corpus, args)
    yield from _model_lines(corpus, args, model_args, devices)
    yield from _data_lines(corpus, args, devices, sequences, steps)
    yield from _batch_lines(corpus, args, model_args)


def _steps(corpus: CorpusArguments, args: ShapedConfig, devices: int) -> tuple[int | None, int]:
    """Optimizer steps (None if the length of the data decides), and sequences per step."""
    sequences = args.per_device_train_batch_size * args.gradient_accumulation_steps * devices
    if corpus.train_tokens is not None and args.max_length is not None:
        return budget_steps(corpus.train_tokens, sequences, args.max_length), sequences
    return (args.max_steps if args.max_steps > 0 else None), sequences


def _model_lines(
    corpus: CorpusArguments, args: ShapedConfig, model_args: ModelConfig, devices: int
) -> Iterator[str]:
    try:
        config = _config(corpus, args, model_args)
    except NOT_AVAILABLE as error:
        if not starts_from_checkpoint(corpus, model_args):
            raise
        yield f"model        not available: {_one_line(error)}"
        return
    if starts_from_checkpoint(corpus, model_args) and (
        warning := rate_of_scratch(config, args, model_args)
    ):
        yield f"warning      {warning}"
    counts, text = parameter_counts(config), config.get_text_config()
    yield f"model        {config.model_type}, {counts.total:,} parameters"
    yield (
        f"             {counts.active + counts.head:,} compute for one token, "
        f"{counts.head:,} of them in the head"
    )
    # Without a GPU in this machine the options do not say whether the run will use autocast.
    autocast = not args.use_cpu and (args.bf16 or args.fp16 or not torch.accelerator.is_available())
    scratch = corpus.from_scratch if isinstance(corpus.from_scratch, dict) else {}
    attention = model_args.attn_implementation or scratch.get("attn_implementation") or ""
    given = {
        "sequences": args.per_device_train_batch_size,
        "length": args.max_length or text.max_position_embeddings,
        "devices": devices,
        "weight_bytes": 2 if model_args.dtype in ("bfloat16", "float16") else 4,
        "autocast": autocast,
        "checkpointing": args.gradient_checkpointing,
        "adapters": model_args.use_peft,
        "flash": "flash" in attention,
    }
    yield (
        f"memory       GiB a device, estimated for {_count(devices, 'device')}"
        f"{' with autocast' if autocast else ''}"
    )
    yield "                               states  copies  activations   mask   loss  total"
    kinds = {"one device": False} if devices == 1 else {"DDP": False, "FSDP2 or ZeRO-3": True}
    for name, sharded in kinds.items():
        memory = step_memory(text, sharded=sharded, **given)
        parts = (
            memory.states,
            memory.copies,
            memory.activations,
            memory.mask,
            memory.loss,
            memory.total,
        )
        cells = [
            f"{part / 2**30:{width}.2f}"
            for part, width in zip(parts, (9, 8, 13, 7, 7, 7), strict=True)
        ]
        yield f"             {name:15}{''.join(cells)}"


def _config(
    corpus: CorpusArguments, args: ShapedConfig, model_args: ModelConfig
) -> PreTrainedConfig:
    if starts_from_checkpoint(corpus, model_args):
        return checkpoint_config(model_args, trusts_code(args), **(args.model_init_kwargs or {}))
    assert isinstance(corpus.from_scratch, dict)  # `check_files` has made sure of it
    vocabulary = corpus.tokenizer_vocab_size  # the upper limit of a tokenizer still to be trained
    if (
        corpus.tokenizer_name_or_path
        and not {"architecture", "vocab_size"} & corpus.from_scratch.keys()
    ):
        vocabulary = len(
            load_tokenizer(corpus.tokenizer_name_or_path, trust_remote_code=trusts_code(args))
        )
    return new_config(corpus.from_scratch, vocabulary=vocabulary)


def _data_lines(
    corpus, args: ShapedConfig, devices: int, sequences: int, steps: int | None
) -> Iterator[str]:
    for options, weight in mixture_entries(corpus):
        how = ", streamed" if options.streaming else ""
        if holds_out(options):
            how += f", the first {options.num_heldout:,} rows held out"
        yield (
            f"data         {weight:6.1%}  {source_name(options)} "
            f"({options.dataset_train_split}{how})"
        )
    rows = args.per_device_train_batch_size
    per_device = f"{_count(devices, 'device')} × {rows} × {args.gradient_accumulation_steps}"
    step = f"{sequences:,} sequences ({per_device})"
    if args.packing and args.max_length:
        step += f" of {args.max_length:,} tokens = {sequences * args.max_length:,} tokens"
    yield f"step         {step}"
    if steps is None:
        yield f"steps        as many as {args.num_train_epochs:g} epochs of the data make"
        return
    total = (
        f", {steps * sequences * args.max_length:,} tokens"
        if args.packing and args.max_length
        else ""
    )
    budget = (
        f" of a budget of {parse_tokens(corpus.train_tokens):,}"
        if corpus.train_tokens is not None
        else ""
    )
    yield f"steps        {steps:,}{total}{budget}"
    kind = args.lr_scheduler_type.value
    warmup = args.get_warmup_steps(steps)
    yield (
        f"learning     {args.learning_rate:g}, {kind}, {warmup:,} steps of warm-up, "
        f"{args.lr_scheduler_kwargs or ''}"
    )
    if misfit := learning_rate_misfit(args, steps):
        yield f"             {misfit}"
    schedule = args.reward_schedule()
    shape = schedule.at(1, steps) if schedule else args.reward_shape()
    yield f"shape        {shape}"
    if schedule:
        yield f"             at the last step {schedule.at(steps, steps)}"


def _batch_lines(
    corpus: CorpusArguments, args: ShapedConfig, model_args: ModelConfig
) -> Iterator[str]:
    """The first micro-batch, from the run's own trainer with a tiny model."""
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        quiet = copy.copy(args)
        quiet.output_dir = folder
        quiet.router_bias_rate = 0.0
        quiet.report_to = []
        quiet.eval_strategy = "no"
        quiet.dataloader_num_workers = 0
        quiet.dataloader_prefetch_factor = None
        quiet.dataloader_pin_memory = False
        quiet.model_init_kwargs = None
        quiet.use_liger_kernel = False
        source = copy.copy(corpus)
        source.train_tokens = None  # `check_data_options` has turned it into `max_steps`
        plain = copy.copy(model_args)
        plain.use_peft = False
        try:
            trainer = build_trainer(source, quiet, plain, make_model=_stand_in)
            batch = next(iter(trainer.get_train_dataloader()))
        except _NoTokenizer:
            raise
        except NOT_AVAILABLE as error:
            yield f"first batch  not available: {_one_line(error)}"
            return
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    # Padding is not shown.
    length = int(batch["attention_mask"][0].sum()) if "attention_mask" in batch else len(ids)
    shape = " × ".join(map(str, batch["input_ids"].shape))
    targets = (labels[:length] != -100).double().mean()
    yield f"first batch  {shape} tokens, {targets:.1%} of the first row's are targets; it reads:"
    positions = batch["position_ids"][0] if "position_ids" in batch else torch.arange(len(ids))
    starts = (positions[:length] == 0).nonzero().flatten().tolist()
    left = SHOWN_CHARACTERS
    for start, end in pairwise([*starts, length]):
        text = trainer.processing_class.decode(ids[start:end])
        yield f"── document of {_count(end - start, 'token')}"
        yield text[:left] + ("…" if len(text) > left else "")
        left -= len(text)
        if left <= 0 and end < length:
            yield f"── and more, to {_count(length, 'token')}"
            return


def _stand_in(
    corpus: CorpusArguments, args: ShapedConfig, model_args: ModelConfig, sources
) -> tuple[Any, Any]:
    """The run's tokenizer and a tiny model of width 2, since batches do not depend on the model."""
    if starts_from_checkpoint(corpus, model_args):
        checkpoint_config(model_args, trusts_code(args))  # it may still have to be made
    try:
        tokenizer = tokenizer_of_run(corpus, args, model_args, sources)
    except UserError as error:
        raise _NoTokenizer(str(error)) from error
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, Qwen3ForCausalLM(config)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
