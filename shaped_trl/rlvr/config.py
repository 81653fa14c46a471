"""Options of `RLVRTrainer`, beside TRL's `GRPOConfig`, and those that the asynchronous trainer
has as well."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any

from transformers import TrainingArguments
from trl import GRPOConfig

from shaped_trl.rlvr.lengths import LengthSchedule
from shaped_trl.rlvr.prompt_stream import WEIGHTINGS
from shaped_trl.rlvr.signals import CHOICES
from shaped_trl.run_record import MAY_CHANGE
from shaped_trl.training.config import SavingArguments, default_bf16
from shaped_trl.training.watch import WatchArguments

logger = logging.getLogger(__name__)
AUDITS = ("off", "warn", "refuse", "only")


@dataclass
class RLVRArguments(WatchArguments, SavingArguments):
    """The options of both trainers, by which `RLVRConfig` and `AsyncRLVRConfig` extend TRL's."""

    epsilon_high: float | None = field(
        default=0.28,
        metadata={
            "help": "Upper clipping bound of the probability ratio. A value above epsilon is "
            "clip-higher (DAPO)."
        },
    )
    dynamic_sampling: bool = field(
        default=True,
        metadata={
            "help": "Sample more prompts until every group of the batch has right and wrong "
            "answers (DAPO)."
        },
    )
    prompt_weighting: str = field(
        default="uniform",
        metadata={
            "help": "How prompts are chosen: uniform tries each prompt once in every pass. "
            "difficulty prefers prompts of which about half the answers have been right: four of "
            "five prompts are drawn with a weight p(1-p), where p is the share of right answers "
            "so far, and one of five from all prompts alike."
        },
    )
    retire_all_right: int = field(
        default=0,
        metadata={
            "help": "Retire a prompt after this many groups in a row without a wrong answer. 0 "
            "means never."
        },
    )
    retire_all_wrong: int = field(
        default=0,
        metadata={
            "help": "Retire a prompt after this many groups in a row without a right answer. 0 "
            "means never."
        },
    )
    revisit_retired_after: int = field(
        default=0,
        metadata={
            "help": "Bring retired prompts back after this many passes over the prompts. 0 "
            "means never."
        },
    )
    completion_length_schedule: dict | str | None = field(
        default=None,
        metadata={
            "help": "Maximum completion length by optimizer step, in place of "
            "max_completion_length: '{0: 8192, 700: 16384}'."
        },
    )
    on_no_signal: Annotated[str, MAY_CHANGE] = field(
        default="stop",
        metadata={
            "help": "What to do if no group has had a learning signal for no_signal_patience "
            "generation batches: stop (with a checkpoint, naming the cause), warn or "
            "ignore.",
        },
    )
    no_signal_patience: Annotated[int, MAY_CHANGE] = field(
        default=10,
        metadata={
            "help": "Number of generation batches in a row without a learning signal after "
            "which on_no_signal acts.",
        },
    )
    audit_reward: Annotated[str, MAY_CHANGE] = field(
        default="refuse",
        metadata={
            "help": "What to do if blind answers, which are graded before the first step, pass too "
            "often: refuse to train, or warn. They are an empty text, 0, nan, the prompt, the "
            "most frequent gold answer, and others. off skips the audit; only ends after it.",
        },
    )
    audit_threshold: Annotated[float, MAY_CHANGE] = field(
        default=0.3,
        metadata={
            "help": "Share of the prompts on which a blind answer may pass. If there are at most "
            "five different gold answers, the share of the most frequent one is allowed as well, "
            "where it is larger.",
        },
    )
    audit_prompts: Annotated[int, MAY_CHANGE] = field(
        default=64,
        metadata={
            "help": "Number of prompts to audit. They are drawn with the seed.",
        },
    )
    hub_license: Annotated[str | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "Licence of the model, for its card. By default the card states none.",
        },
    )

    def set_length(self) -> None:
        """Make `max_completion_length` the longest of a schedule. Call it before TRL checks it.

        Raises:
            ValueError: there is no limit, or the schedule is not one.
        """
        if self.max_completion_length is None:  # type: ignore[has-type]
            raise ValueError(
                "max_completion_length is needed: completions without a limit would never end"
            )
        if self.completion_length_schedule is not None:
            self.completion_length_schedule = self.length_schedule().as_dict()
            self.max_completion_length = self.length_schedule().longest

    def length_schedule(self) -> LengthSchedule:
        """The length limit by step. Raises ValueError as `LengthSchedule.parse` does."""
        if self.completion_length_schedule is None:
            return LengthSchedule.constant(self.max_completion_length)
        return LengthSchedule.parse(self.completion_length_schedule)

    def check_shared(self) -> None:
        """Raise ValueError if one of these options is out of range, or needs another one."""
        self.check_watch()
        self.check_saving()
        for name, smallest in (
            ("no_signal_patience", 1),
            ("retire_all_right", 0),
            ("retire_all_wrong", 0),
            ("revisit_retired_after", 0),
            ("audit_prompts", 1),
        ):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {smallest}")
        self.need_dynamic_sampling("retire_all_right", "retire_all_wrong")
        for name, choices in (
            ("prompt_weighting", WEIGHTINGS),
            ("audit_reward", AUDITS),
            ("on_no_signal", CHOICES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: choose from {', '.join(choices)}"
                )
        if self.prompt_weighting != "uniform" and not self.dynamic_sampling:
            raise ValueError(
                f"prompt_weighting={self.prompt_weighting!r} needs dynamic_sampling: true"
            )
        if self.revisit_retired_after and not (self.retire_all_right or self.retire_all_wrong):
            raise ValueError(
                f"revisit_retired_after={self.revisit_retired_after} needs retire_all_right or "
                "retire_all_wrong"
            )
        if not 0 <= self.audit_threshold <= 1:
            raise ValueError(
                f"audit_threshold={self.audit_threshold} is not a share: use a number from 0 to 1"
            )
        if self.restore_callback_states_from_checkpoint:  # type: ignore[attr-defined]
            raise ValueError(
                "restore_callback_states_from_checkpoint is not supported: leave it out"
            )

    def need_dynamic_sampling(self, *names: str) -> None:
        """Raise ValueError if an option of these is set without dynamic sampling."""
        for name in names:
            if getattr(self, name) and not self.dynamic_sampling:
                raise ValueError(f"{name}={getattr(self, name)} needs dynamic_sampling: true")


@dataclass
class RLVRConfig(RLVRArguments, GRPOConfig):
    """`GRPOConfig` with clip-higher and dynamic sampling of DAPO (arXiv 2503.14476), and without a
    KL term.

    Its defaults differ from those of `GRPOConfig` in this: `epsilon_high` is 0.28, not `epsilon`;
    `dynamic_sampling` is on; a run without a learning signal stops (`on_no_signal`), and so does
    one whose loss is not finite (`on_bad_loss`); `bf16` is off on a CPU. With `epsilon_high=None,
    dynamic_sampling=False, on_no_signal="ignore", on_bad_loss="ignore"` the trainer computes what
    GRPOTrainer computes, to the last bit (to rounding on a CPU with a vocabulary of at least 49,152
    tokens, see `log_probs.py`).

    Clip-higher acts only when a generation batch serves several optimizer steps
    (`steps_per_generation` above `gradient_accumulation_steps`, or `num_iterations` above 1).
    Otherwise every step is strictly on-policy: the probability ratio is 1 and never reaches a
    clipping bound, as in arXiv 2512.22955. Both are valid; `strictly_on_policy` tells which one a
    configuration is, and a warning is logged if clipping cannot act.
    """

    max_sampling_rounds: int = field(
        default=10,
        metadata={
            "help": "Maximum number of rounds of dynamic sampling for a batch. After them it is "
            "filled up with groups that give no gradient."
        },
    )
    max_sampling_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Stop dynamic sampling once a generation batch has cost this many "
            "completion tokens, discarded ones included."
        },
    )
    keep_leftover_groups: bool = field(
        default=False,
        metadata={
            "help": "If more groups than needed are informative, train on the surplus in the "
            "next generation batch, with the log-probabilities of the policy that "
            "sampled them. By default the surplus is dropped."
        },
    )

    def __post_init__(self):
        self.bf16 = default_bf16(self.bf16, self.fp16)  # type: ignore[has-type]
        if self.steps_per_generation is not None and self.steps_per_generation < 1:
            raise ValueError(f"steps_per_generation={self.steps_per_generation} must be at least 1")
        self.set_length()
        super().__post_init__()
        self._check_ranges()
        self.check_shared()
        self._check_batch()
        self._check_save_steps()
        self._warn()

    @property
    def generation_period_steps(self) -> float:
        """Number of optimizer steps that one generation batch serves."""
        return self.steps_per_generation * self.num_iterations / self.gradient_accumulation_steps

    @property
    def strictly_on_policy(self) -> bool:
        """Whether every completion is trained on by the policy that wrote it."""
        leftovers = self.dynamic_sampling and self.keep_leftover_groups
        return (
            not leftovers
            and self.gradient_accumulation_steps % (self.steps_per_generation * self.num_iterations)
            == 0
        )

    def _check_ranges(self) -> None:
        if self.max_sampling_rounds < 1:
            raise ValueError(f"max_sampling_rounds={self.max_sampling_rounds} must be at least 1")
        if self.max_sampling_tokens is not None and self.max_sampling_tokens < 1:
            raise ValueError(
                f"max_sampling_tokens={self.max_sampling_tokens} must be at least 1, or left out"
            )
        self.need_dynamic_sampling("keep_leftover_groups", "max_sampling_tokens")
        for name in ("max_new_tokens", "max_tokens"):  # of transformers and of vLLM
            if self.completion_length_schedule is not None and name in (
                self.generation_kwargs or {}
            ):
                raise ValueError(
                    f"completion_length_schedule and {name} in generation_kwargs exclude each "
                    "other: give one of them"
                )

    def _check_batch(self) -> None:
        if not self.dynamic_sampling:
            return
        rows = self.per_device_train_batch_size * self.steps_per_generation
        if rows % self.num_generations:
            raise ValueError(
                "dynamic_sampling needs whole groups on every process: per_device_train_batch_size "
                f"x steps_per_generation = {rows} is not a multiple of "
                f"num_generations={self.num_generations}"
            )
        if self.keep_leftover_groups and self.use_vllm:
            raise ValueError(
                "keep_leftover_groups is not supported with use_vllm: leave one of them out"
            )

    def _check_save_steps(self) -> None:
        # TRL does not save a generation batch that is partly used, and generates another one on
        # resume: a run continues exactly only from a checkpoint between two batches.
        if self.save_strategy != "steps":
            return
        period = max(self.generation_period_steps, 1)
        save_steps: float = self.save_steps  # type: ignore[has-type]
        is_chosen = save_steps != TrainingArguments.save_steps
        # the default becomes the next multiple of the period that is a whole number
        if not is_chosen and save_steps % period:
            batch = Fraction(
                self.steps_per_generation * self.num_iterations, self.gradient_accumulation_steps
            )
            self.save_steps = save_steps = math.ceil(save_steps / batch.numerator) * batch.numerator
        if save_steps < 1:  # a share of the run, as the Trainer resolves it
            save_steps = math.ceil(save_steps * self.max_steps) if self.max_steps > 0 else period
        # the Trainer also saves at the end, and a longer run would continue from there
        for name, steps in (("save_steps", save_steps), ("max_steps", max(self.max_steps, 0))):
            if not steps % period:
                continue
            message = (
                f"{name}={steps:g} falls inside a generation batch, which lasts {period:g} "
                "optimizer steps (steps_per_generation x num_iterations / "
                "gradient_accumulation_steps): use a multiple of it"
            )
            if is_chosen:
                raise ValueError(message)
            logger.warning(
                f"{message}, or a longer run that continues from there samples the rest of that "
                "batch anew"
            )

    def _warn(self) -> None:
        if self.strictly_on_policy and self.loss_type not in ("cispo", "sapo", "vespo"):
            logger.warning(
                "strictly on-policy: every generation batch is spent in one optimizer step, so the "
                "probability ratio is 1 and epsilon/epsilon_high never act; raise "
                "steps_per_generation for clipping to act"
            )
        if self.loss_type == "cispo" and (self.epsilon_high or 0) < 1:
            logger.warning(
                f"epsilon_high={self.epsilon_high} with loss_type='cispo' caps the ratio itself: "
                "about 5.0 is common"
            )
        elif self.loss_type in ("sapo", "vespo"):
            logger.warning(
                f"loss_type={self.loss_type!r} does not clip: epsilon and epsilon_high have no "
                "effect"
            )
        warn_of_truncated_sampling(self)


def warn_of_truncated_sampling(args: Any) -> None:
    """Warn of sampling from another distribution than the loss takes."""
    truncated = {"top_p": args.top_p < 1, "top_k": args.top_k > 0, "min_p": bool(args.min_p)}
    truncated["repetition_penalty"] = args.repetition_penalty != 1
    for name in (name for name, bends in truncated.items() if bends):
        logger.warning(
            f"{name}={getattr(args, name)} samples from another distribution than the one "
            "whose probabilities the loss takes: the ratio and the gradient are biased; leave "
            "it out (temperature is accounted for)"
        )
