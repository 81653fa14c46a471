"""Options of `RLVRTrainer`, beside TRL's `GRPOConfig`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from trl import GRPOConfig

from shaped_trl.training.config import default_bf16

logger = logging.getLogger(__name__)


@dataclass
class RLVRConfig(GRPOConfig):
    """`GRPOConfig` with clip-higher and dynamic sampling of DAPO (arXiv 2503.14476), and no KL term.

    Clip-higher acts only when a generation batch is spent over several optimizer steps (`steps_per_generation` above
    `gradient_accumulation_steps`, or `num_iterations` above 1). Otherwise every step is strictly on-policy: the
    probability ratio is 1 and no clipping bound is ever reached, as in arXiv 2512.22955. Both are valid; the
    configuration says which one it is (`strictly_on_policy`) and logs it.
    """

    epsilon_high: float | None = field(
        default=0.28, metadata={"help": "Upper clipping bound; above epsilon (0.2) it is clip-higher."}
    )
    dynamic_sampling: bool = field(
        default=True,
        metadata={"help": "Refill the generation batch until every group has both right and wrong answers."},
    )
    max_sampling_rounds: int = field(
        default=10,
        metadata={"help": "Rounds of dynamic sampling at most; then the batch is filled with uninformative groups."},
    )

    def __post_init__(self):
        self.bf16 = default_bf16(self.bf16, self.fp16)  # type: ignore[has-type]
        super().__post_init__()
        if self.max_sampling_rounds < 1:
            raise ValueError(f"max_sampling_rounds={self.max_sampling_rounds} must be at least 1")
        if self.dynamic_sampling and self.world_size > 1:
            raise ValueError(
                f"dynamic_sampling=True runs on one process, not on {self.world_size}: set dynamic_sampling: false"
            )
        self._check_save_steps()
        if self.strictly_on_policy:
            logger.warning(
                "strictly on-policy: every generation batch is spent in one optimizer step, so the probability ratio "
                "is 1 and epsilon/epsilon_high never act; raise steps_per_generation for clipping to act"
            )

    @property
    def generation_period_steps(self) -> float:
        """Optimizer steps for which one generation batch serves."""
        return self.steps_per_generation * self.num_iterations / self.gradient_accumulation_steps

    @property
    def strictly_on_policy(self) -> bool:
        return self.gradient_accumulation_steps % (self.steps_per_generation * self.num_iterations) == 0

    def _check_save_steps(self) -> None:
        # TRL regenerates a half-used generation batch on resume: a checkpoint inside a period is no exact one
        period = self.generation_period_steps
        if self.save_strategy == "steps" and self.save_steps >= 1 and self.save_steps % max(period, 1):
            raise ValueError(
                f"save_steps={self.save_steps} falls inside a generation batch, which lasts {period:g} optimizer "
                f"steps (steps_per_generation x num_iterations / gradient_accumulation_steps): use a multiple of it"
            )
