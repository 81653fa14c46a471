"""`RLVRTrainer`: TRL's GRPOTrainer with dynamic sampling, a length schedule and a detector of runs
that do not learn.

`DynamicGeneration` makes the batches and counts them, and `Bookkeeping` has the log and what a
checkpoint keeps; here are the arguments and the length of completions.
"""

from __future__ import annotations

import logging
from typing import Any

from accelerate.utils import gather_object
from transformers import TrainingArguments
from trl import GRPOTrainer

from shaped_trl.hub.cards import TrainingCard
from shaped_trl.hub.pushing import HubPushes
from shaped_trl.rlvr.bookkeeping import Bookkeeping, BooksCallback
from shaped_trl.rlvr.card import settings
from shaped_trl.rlvr.checks import check_run, refuse_unsupported
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.engine import vllm_started
from shaped_trl.rlvr.generation import DynamicGeneration
from shaped_trl.rlvr.guard import guard
from shaped_trl.rlvr.log_probs import score_on_cpu
from shaped_trl.rlvr.printing import print_rollouts_visibly
from shaped_trl.rlvr.prompt_stream import PromptStream
from shaped_trl.rlvr.signals import NoLearningSignal
from shaped_trl.training.config import as_config
from shaped_trl.training.interval import ContinuedInterval
from shaped_trl.training.trl_names import check_names
from shaped_trl.training.watch import WatchedLoss

logger = logging.getLogger(__name__)


class RLVRTrainer(
    Bookkeeping, TrainingCard, HubPushes, WatchedLoss, ContinuedInterval, DynamicGeneration
):
    """GRPOTrainer for verifiable rewards (RLVR), with DAPO's dynamic sampling and clip-higher.

    The *first* reward function is the accuracy reward: a group is informative when that reward
    varies over the group, whatever a length penalty beside it does. Uninformative groups are
    discarded and other prompts are tried, up to `max_sampling_rounds` and `max_sampling_tokens`. If
    groups are still missing then, discarded ones fill the batch: their advantage is zero, and their
    tokens do not count in the mean over tokens (loss types that average over rows still count their
    rows). Prompts come from a stream of their own (`PromptStream`), to which `num_train_epochs`
    does not apply. Evaluation is GRPOTrainer's.

    A reward function that raises gives its sample no reward, and is counted. Rows go to
    `output_dir/rl_log.jsonl`: `reward` is over the batch that is trained on, `raw_reward` and
    `completion_length` are over all that was sampled, and the ledger counts what it was spent on.

    Raises:
        ValueError: dynamic sampling with images, tools, a rollout function, environments or a
            streamed data set.
        UserError: the installed TRL is not one that this package was written for. From `train`,
            before the first step: a blind answer passes too often (`audit_reward`; only where the
            accuracy reward is a `VerdictReward`, since other rewards may mean anything).
        NoLearningSignal: from `train`, after a checkpoint, when the detector stopped the run.
    """

    # TRL takes these for the model card: its tags, and the name of the method.
    _tag_names = ["trl", "grpo", "rlvr", "shaped-trl"]
    _name = "RLVR"

    def __init__(self, model, reward_funcs=None, args: TrainingArguments | None = None, **kwargs):
        check_names(GRPOTrainer)
        args = as_config(RLVRConfig, args, model, "GRPO")
        if args.dynamic_sampling:
            refuse_unsupported(kwargs)
        self.lengths = args.length_schedule()
        with vllm_started(args):
            super().__init__(model, guard(reward_funcs), args, **kwargs)
        check_run(self)
        score_on_cpu(self)
        print_rollouts_visibly()
        self.set_length()
        self.sampler = self.make_sampler() if args.dynamic_sampling else None
        self.add_callback(_RLVRCallback(self))
        self.keep_books()
        self.no_signal: str | None = None  # why the detector stopped the run

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.no_signal is not None:
            raise NoLearningSignal(f"stopped at step {self.state.global_step}, {self.no_signal}")
        return result

    # generation

    def _generate_single_turn(self, *args, **kwargs):
        # TRL generates one turn of each prompt here, by vLLM or by the model itself, with the limit
        # that it was built with. The limit of the present step is set just before. An evaluation
        # inside a generation batch must not change it: the loss still needs that batch's length.
        if self.model.training:
            self.set_length()
        return super()._generate_single_turn(*args, **kwargs)

    def set_length(self) -> None:
        """Limit completions to the length of the present step, if there is a schedule of it."""
        if self.args.completion_length_schedule is None:
            return  # so that TRL's `generation_kwargs` may have another limit
        self.max_completion_length = length = self.lengths(self.state.global_step)
        if self.use_vllm:
            self.vllm_generation.max_completion_length = length
        else:
            self.generation_config.max_new_tokens = self.generation_kwargs["max_new_tokens"] = (
                length
            )

    def _generate_and_score_completions(self, inputs):
        # A generation batch is complete only here (see `DynamicGeneration`): its counts go to the
        # ledger and to the detector.
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            assert self.batch_counts is not None
            ledger, has_signal = self.batch_counts
            ledger.trained_tokens = int(output["num_items_in_batch"])
            self.ledger += ledger
            error = self._reward_error() if ledger.rewards_raised else None
            self.signals.batch(ledger, has_signal, error)
        return output

    def _reward_error(self) -> str | None:
        """What the accuracy reward raised last, on any process; called by all of them."""
        errors = gather_object([getattr(self.reward_funcs[0], "error", None)])
        return next((error for error in errors if error), None)

    # what `Bookkeeping` asks for

    @property
    def stream(self) -> PromptStream | None:  # type: ignore[override]
        return None if self.sampler is None else self.sampler.stream

    def settings_in_words(self) -> str:
        return settings(self.args)

    def prompts_state(self) -> dict[str, Any]:
        return {} if self.sampler is None else {"sampler": self.sampler.gather_state()}

    def restore_prompts(self, saved: dict[str, Any]) -> None:
        if self.sampler is not None and "sampler" in saved:
            self.sampler.load_state_dict(saved["sampler"])


class _RLVRCallback(BooksCallback):
    """Sets the first length, and acts on the detector's verdict."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.no_signal = None
        self.trainer.set_length()
        super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        trainer = self.trainer
        if state.global_step % max(args.generation_period_steps, 1):
            return  # a checkpoint here would lose the rest of the generation batch
        reason = trainer.signals.verdict()
        if reason is None:
            return
        if trainer.signals.choice == "warn":
            logger.warning(reason)
            return
        trainer.no_signal = reason
        control.should_log = control.should_save = control.should_training_stop = True
