"""The reward shape that a model was trained with, in its config.json.

transformers keeps fields of a configuration that it does not know. A model that is trained further,
by RL for example, therefore still says from which prior it comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from shaped_kernels import RewardShape
from transformers import PreTrainedConfig

FIELD = "reward_shape"
SCHEDULED = "scheduled"


def note_shape(config: PreTrainedConfig, shape: RewardShape, scheduled: Iterable[str] = ()) -> None:
    """Write the shape of the loss into the configuration that is saved with the model.

    Args:
        scheduled: the fields of the shape that change during training.
    """
    setattr(config, FIELD, {**asdict(shape), SCHEDULED: sorted(scheduled)})


def shape_in_words(config: PreTrainedConfig) -> str | None:
    """The noted shape as a phrase; None if none is noted, or if it is not a valid one.

    The configuration may be another person's, so nothing of it is shown but numbers, and names that
    `RewardShape` knows.
    """
    noted = getattr(config, FIELD, None)
    if not isinstance(noted, dict):
        return None
    names = [field.name for field in fields(RewardShape)]
    try:
        shape = RewardShape(**{name: noted[name] for name in names if name in noted})
        scheduled = _scheduled(noted, names)
    except (TypeError, ValueError):
        return None
    return _phrase(shape, scheduled)


def _scheduled(noted: dict[str, Any], names: list[str]) -> list[str]:
    given = noted.get(SCHEDULED, [])
    return [name for name in names if name in given] if isinstance(given, list) else []


def _phrase(shape: RewardShape, scheduled: list[str]) -> str:
    default = asdict(RewardShape())
    other = {name: value for name, value in asdict(shape).items() if value != default[name]}
    if "beta" in other or "beta" in scheduled:
        other.setdefault("positive", shape.positive)
    words = [f"{name} scheduled" for name in scheduled]
    words += [f"{name} = {value}" for name, value in other.items() if name not in scheduled]
    return ", ".join(words) if words else "cross-entropy"
