"""`shaped-trl train`: from a resolved recipe to a trained checkpoint."""

from __future__ import annotations

import logging

from shaped_eval.errors import UserError
from trl import ModelConfig

from shaped_trl.data.budget import budget_steps
from shaped_trl.data.corpora import CorpusArguments
from shaped_trl.data.decontamination import Overlap, ReportCallback
from shaped_trl.data.mixtures import SOURCE, evaluation_rows, load_sources, mixture_entries
from shaped_trl.hub.facts import corpus_facts
from shaped_trl.modeling.architectures import ARCHITECTURES
from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.evaluation import BenchmarkArguments, add_benchmarks
from shaped_trl.training.resuming import (
    already_finished,
    continue_training,
    full_disk_explained,
    save_for_good,
    trained_and_evaluated,
)
from shaped_trl.training.starting_point import (
    checkpoint_config,
    new_adapter,
    starts_from_checkpoint,
    tokenizer_and_model,
    trusts_code,
)
from shaped_trl.training.streaming import StreamingTrainer, check_streaming
from shaped_trl.training.throughput import ThroughputCallback
from shaped_trl.training.trainer import ShapedTrainer

logger = logging.getLogger(__name__)


def check_files(
    corpus: CorpusArguments, model_args: ModelConfig, trust_remote_code: bool = False
) -> None:
    """Check the checkpoint's configuration, `from_scratch` and the mixture before a run.

    Raises:
        UserError: one of them is missing or cannot be used.
    """
    mixture_entries(corpus)
    if starts_from_checkpoint(corpus, model_args):
        checkpoint_config(model_args, trust_remote_code)
    elif (
        not isinstance(corpus.from_scratch, dict)
        or not {"model_type", "architecture"} & corpus.from_scratch.keys()
    ):
        raise UserError(
            "from_scratch needs a mapping with model_type, e.g. {model_type: qwen3, hidden_size: "
            "64}, "
            "or with one of the paper's models, e.g. {architecture: 1b}: "
            f"{', '.join(ARCHITECTURES)}"
        )


def build_trainer(
    corpus: CorpusArguments,
    args: ShapedConfig,
    model_args: ModelConfig,
    make_model=tokenizer_and_model,
) -> ShapedTrainer:
    """Load data, tokenizer and model into a `ShapedTrainer`.

    Mixtures and streams need its subclass `StreamingTrainer`.
    """
    check_files(corpus, model_args, trusts_code(args))
    check_data_options(corpus, args)
    overlap = Overlap(corpus.decontaminate, corpus.hub_mirror) if corpus.decontaminate else None
    sources, dropped = load_sources(corpus, overlap)
    eval_rows = evaluation_rows(corpus)
    if eval_rows is not None:
        if SOURCE in eval_rows.column_names and args.eval_packing is None:
            args.eval_packing = False  # TRL's packing would drop the column with the source
    elif args.eval_strategy != "no":
        raise UserError(
            f"eval_strategy={str(args.eval_strategy)!r} needs num_heldout or dataset_test_split"
        )
    tokenizer, model = make_model(corpus, args, model_args, sources)
    given = {
        "eval_dataset": eval_rows,
        "processing_class": tokenizer,
        "peft_config": new_adapter(model_args),
        "callbacks": [ThroughputCallback()],
    }
    if overlap is not None:
        given["callbacks"].append(ReportCallback(overlap, dropped))
    if streams(corpus):
        trainer = StreamingTrainer(model, args, sources=sources, **given)
    else:
        trainer = ShapedTrainer(model, args, train_dataset=sources[0].rows, **given)
    if corpus.train_tokens is not None:
        # Only the trainer knows how many processes share a batch.
        args.max_steps = budget_steps(
            corpus.train_tokens, trainer.get_total_train_batch_size(args), args.max_length
        )
    if args.max_steps > 0 and (misfit := learning_rate_misfit(args, args.max_steps)):
        logger.warning(misfit)
    return trainer


def learning_rate_misfit(args: ShapedConfig, steps: int) -> str | None:
    """A warning if warm-up and decay do not fit into the run, which transformers does not check."""
    decay = dict(args.lr_scheduler_kwargs or {}).get("num_decay_steps") or 0
    warmup = args.get_warmup_steps(steps)
    if warmup + decay <= steps:
        return None
    return (
        f"warm-up of {warmup:,} and num_decay_steps of {decay:,} do not fit into {steps:,} steps: "
        "the learning rate will not follow its schedule to the end"
    )


def streams(corpus: CorpusArguments) -> bool:
    """Whether the data is read as a `PackedStream` instead of being prepared as a whole by TRL."""
    return corpus.mixture is not None or corpus.streaming


def check_data_options(corpus: CorpusArguments, args: ShapedConfig) -> None:
    """Check the options of the data, and set `max_steps` from a token budget.

    Raises:
        UserError: two options contradict each other, or one that is needed is missing.
    """
    if streams(corpus):
        check_streaming(args)
    if corpus.train_tokens is not None:
        if args.max_steps > 0:
            raise UserError(
                f"train_tokens={corpus.train_tokens} and max_steps={args.max_steps} both set the "
                "length of the run: give one of them"
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
    evaluate_at_end: bool = True,
) -> None:
    """Train, evaluate at the end if there is an evaluation set, and save to `output_dir`.

    A run that finds its own checkpoint in `output_dir` continues from it.

    Args:
        evaluate_at_end: False leaves out the evaluation of the last step.
    """
    if already_finished(args):
        return
    with full_disk_explained(args.output_dir):
        trainer = build_trainer(corpus, args, model_args)
        trainer.data_facts = corpus_facts(corpus, ask_hub=args.push_to_hub)
        add_benchmarks(trainer, benchmarks, corpus.hub_mirror)
        continue_training(trainer)
        has_rows = evaluate_at_end and trainer.eval_dataset is not None
        if has_rows and not trained_and_evaluated(trainer):
            trainer.evaluate()
        save_for_good(trainer)
