"""Numbers of a command line that depend on a temperature, which an earlier run may have to find."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from shaped_eval.errors import UserError

from shaped_trl.study.definition import Stage

# A number that depends on a temperature T that is not known yet: "{T*0.5}", "{0.5/T}".
_LATE = re.compile(r"\{T\*([^}]+)\}|\{([^}/]+)/T\}")
# The defaults of GRPOTrainer and of `shaped-trl sample`, for recipes that leave these out.
_RL_DEFAULTS = {"temperature": 1.0, "learning_rate": 1e-6, "max_grad_norm": 1.0}
_EVAL_DEFAULTS = {"temperature": 0.7}


def scaled(stage: Stage, recipe: Mapping[str, Any], temperature: float | None) -> dict[str, Any]:
    """Options for sampling at T times the recipe's temperature, with the steps of RL scaled.

    The policy is softmax(z/T). Its gradient in z has a factor 1/T, so a clipping norm divided by T
    clips the same steps. A step of z counts 1/T in the policy, which a learning rate times T undoes
    (with Adam, the update does not depend on the gradient's scale). The policy therefore moves as
    far per step as at the recipe's temperature.
    """
    defaults = _EVAL_DEFAULTS if stage.command == "eval" else _RL_DEFAULTS
    base = {key: _number(key, recipe.get(key, default)) for key, default in defaults.items()}
    late = {
        key: f"{{{value!r}/T}}" if key == "max_grad_norm" else f"{{T*{value!r}}}"
        for key, value in base.items()
    }
    return (
        late
        if temperature is None
        else {key: float(bind(value, temperature)) for key, value in late.items()}
    )


def _number(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(
            f"{key}: {value!r} is not a number, but the temperature of an arm scales it"
        ) from None


def bind(word: str, temperature: float) -> str:
    """The word with "{T*x}" replaced by T·x, and "{x/T}" by x/T."""

    def value(match: re.Match[str]) -> str:
        return argument(
            temperature * float(match[1]) if match[1] else float(match[2]) / temperature
        )

    return _LATE.sub(value, word)


def is_late(word: str) -> bool:
    """Whether a word of a command line depends on a temperature."""
    return _LATE.search(word) is not None


def argument(value: Any) -> str:
    """A value as a word of a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # argparse reads -0.00001 as a number, but -1e-05 as a flag.
        return format(Decimal(repr(value)), "f")
    return str(value)
