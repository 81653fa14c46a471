"""Rollouts on the terminal (`log_completions`): a model's text is shown, and cannot control the
terminal."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from shaped_eval.untrusted.texts import visible
from trl.trainer import grpo_trainer

from shaped_trl.training.trl_names import print_prompt_completions_sample


def print_visibly(prompts: list, completions: list, *args: Any, **kwargs: Any) -> None:
    """Print TRL's table of rollouts, with control characters and invisible ones as their code."""
    extra = kwargs.pop("extra", None)
    print_prompt_completions_sample(
        _visible(prompts), _visible(completions), *args, extra=_visible(extra), **kwargs
    )


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {key: _visible(each) for key, each in value.items()}
    return (
        value
        if value is None or not hasattr(value, "__iter__")
        else [_visible(each) for each in value]
    )


def print_rollouts_visibly(module: ModuleType = grpo_trainer) -> None:
    """Have TRL's code in `module` print by `print_visibly`; by default GRPOTrainer."""
    # GRPOTrainer.log calls this function by its name in TRL's module. TRL has no option for it, so
    # the name is set to ours.
    module.print_prompt_completions_sample = print_visibly  # type: ignore[attr-defined]
