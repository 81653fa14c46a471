"""The length limit of completions as a function of the global step: `{0: 8192, 700: 16384}`.

A limit applies to the generation batches that begin at its step or later; a resumed run has the
limit of its step.
"""

from __future__ import annotations

import logging
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import yaml
from shaped_eval.errors import UserError
from transformers import PreTrainedConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LengthSchedule:
    """At most `lengths[i]` tokens from optimizer step `steps[i]` on; the first step is 0. It is
    called with a step."""

    steps: tuple[int, ...]
    lengths: tuple[int, ...]

    def __call__(self, step: int) -> int:
        """The longest completion, in tokens, of a generation batch that begins after `step`
        optimizer steps."""
        return self.lengths[bisect_right(self.steps, step) - 1]

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @classmethod
    def parse(cls, settings: Any) -> LengthSchedule:
        """From a mapping of steps to lengths, or YAML text of one.

        Raises:
            ValueError: it is not such a mapping, it lacks step 0, or a step or length is not a
                whole number in range.
        """
        if isinstance(settings, str):
            try:
                # {0:8192} as well
                settings = yaml.safe_load(re.sub(r"(\d):(?=\d)", r"\1: ", settings))
            except yaml.YAMLError as error:
                raise ValueError(
                    f"completion_length_schedule is not YAML: {' '.join(str(error).split())}"
                ) from error
        if not isinstance(settings, dict) or not settings:
            raise ValueError(
                f"completion_length_schedule={settings!r} must map steps to lengths, such as "
                "{0: 8192, 700: 16384}"
            )
        # JSON has texts for keys
        stages = {
            int(step) if str(step).isdigit() else step: length for step, length in settings.items()
        }
        for step, length in stages.items():
            if not isinstance(step, int) or isinstance(step, bool) or step < 0:
                raise ValueError(
                    f"completion_length_schedule: step {step!r} must be a whole number from 0 on"
                )
            if not isinstance(length, int) or isinstance(length, bool) or length < 1:
                raise ValueError(
                    f"completion_length_schedule: length {length!r} at step {step} must be at "
                    "least 1"
                )
        if 0 not in stages:
            raise ValueError(f"completion_length_schedule={settings!r} has no length for step 0")
        ordered = sorted(stages.items())
        return cls(tuple(step for step, _ in ordered), tuple(length for _, length in ordered))

    def as_dict(self) -> dict[int, int]:
        return dict(zip(self.steps, self.lengths, strict=True))

    @classmethod
    def constant(cls, length: int) -> LengthSchedule:
        return cls((0,), (length,))


def check_context(
    longest: int, prompt: int | None, config: PreTrainedConfig, engine_limit: int | None = None
) -> None:
    """Check that prompt and longest completion fit the context, before anything is generated.

    Args:
        longest: tokens of the longest completion, of any stage.
        prompt: tokens of the longest prompt; None where that is not known, which counts as 1.
        config: the model's. Beyond its positions a rotary embedding extrapolates: a warning says
            so.
        engine_limit: vLLM's `max_model_len`, where it generates; its default is the model's number
            of positions.

    Raises:
        UserError: the engine would refuse such a completion or cut it off.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    needed = longest + (prompt or 1)
    before = "a prompt" if prompt is None else f"{prompt:,} of the prompt"
    needs = f"{longest:,} tokens of a completion after {before}"
    if engine_limit is not None:
        if needed > engine_limit:
            raise UserError(
                f"{needs} do not fit vllm_max_model_length={engine_limit:,}: raise it to "
                f"{needed:,} or more"
            )
    elif positions is not None and needed > positions:
        beyond = f"{needs} do not fit the model's max_position_embeddings={positions:,}"
        if getattr(text, "rope_parameters", None) is None:  # a table of positions has an end
            raise UserError(f"{beyond}: lower completion_length_schedule or max_completion_length")
        logger.warning(f"{beyond}: raise that through model_init_kwargs, or lower the length")
