"""Schedules that change beta, lambda_head and lambda_tail over the optimizer steps.

There is one mapping per scheduled field, in YAML, or in JSON on the command line::

    shape_schedule:
      beta: {kind: linear, start: 0.0, end: -0.25, from_step: 100, to_step: 500}
      lambda_tail: {kind: piecewise, points: [[0, 0.0], [0.5, 0.0], [1.0, -0.1]]}

- ``constant``: always `value`.
- ``linear``, ``cosine``: `start` until `from_step` (default 0), `end` from `to_step` (default 1.0)
  on, and in between a straight line or half a cosine.
- ``piecewise``: straight lines between `points` of [step, value]; outside them, the first or the
  last value.

A step without a decimal point is a number of optimizer steps. A step with a decimal point, from 0.0
to 1.0, is a fraction of the training's steps, as in transformers' `warmup_steps`, and so depends on
`max_steps`.

Steps count from 1, as in the log. The first update, and an evaluation directly after it, have the
shape of step 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from shaped_kernels import RewardShape

SCHEDULABLE = ("beta", "lambda_head", "lambda_tail")
# kind -> required keys, optional keys
_KEYS = {
    "constant": (("value",), ()),
    "linear": (("start", "end"), ("from_step", "to_step")),
    "cosine": (("start", "end"), ("from_step", "to_step")),
    "piecewise": (("points",), ()),
}


@dataclass(frozen=True)
class Curve:
    """A value over steps: (step, value) points joined by lines or half cosines, constant outside.

    A step that is a float is a fraction of the training's steps.
    """

    points: tuple[tuple[int | float, float], ...]
    cosine: bool = False

    def at(self, step: int, max_steps: int) -> float:
        steps = [s * max_steps if isinstance(s, float) else s for s, _ in self.points]
        values = [value for _, value in self.points]
        if step <= steps[0]:
            return values[0]
        for (before, after), (start, end) in zip(pairwise(steps), pairwise(values), strict=True):
            if step < after:
                progress = (step - before) / (after - before)
                if self.cosine:
                    progress = (1 - math.cos(math.pi * progress)) / 2
                return start + progress * (end - start)
        return values[-1]


@dataclass(frozen=True)
class ShapeSchedule:
    """A `RewardShape` for every step.

    It depends on the step alone, so that a resumed run continues it exactly.
    """

    base: RewardShape
    curves: Mapping[str, Curve]

    def at(self, step: int, max_steps: int) -> RewardShape:
        """The shape of update number `step` (from 1) out of `max_steps`; 0 is before training."""
        values: dict[str, Any] = {
            name: curve.at(step, max_steps) for name, curve in self.curves.items()
        }
        return replace(self.base, **values)

    @classmethod
    def parse(cls, settings: Any, base: RewardShape) -> ShapeSchedule:
        """The schedule that `settings` describe, as in the module's docstring.

        `base` gives the fields that are not scheduled.

        Raises:
            ValueError: a field, kind or key is unknown; steps do not ascend; `RewardShape` refuses
                a value; or `base` already sets a scheduled field.
        """
        if not isinstance(settings, dict):
            raise ValueError(
                f"shape_schedule={settings!r} must map {', '.join(SCHEDULABLE)} to schedules"
            )
        curves: dict[str, Curve] = {}
        for name, entry in settings.items():
            if name not in SCHEDULABLE:
                raise ValueError(
                    f"shape_schedule: unknown field {name!r}; choose from {', '.join(SCHEDULABLE)}"
                )
            if getattr(base, name) != 0:
                raise ValueError(
                    f"{name}={getattr(base, name)!r} and a shape_schedule for {name} are both "
                    "given: "
                    "leave one out"
                )
            try:
                curves[name] = _curve(entry)
                # The values between two points lie between the values of these points, and the
                # allowed ranges are intervals, so that checking the points is enough.
                for _, value in curves[name].points:
                    replace(base, **{name: value})  # type: ignore[arg-type]
            except ValueError as error:
                raise ValueError(f"shape_schedule {name}: {error}") from error
        return cls(base, curves)


def from_json(text: str) -> Any:
    """The settings in the JSON that the command line passes as `--shape_schedule`.

    Raises:
        ValueError: the text is not JSON.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        example = '{"beta": {"kind": "linear", "start": 0.0, "end": -0.25}}'
        raise ValueError(
            f"shape_schedule={text!r} is not JSON ({error}); write it as '{example}'"
        ) from error


def _curve(entry: Any) -> Curve:
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ValueError(f"{entry!r} needs a kind: one of {', '.join(_KEYS)}")
    needed, optional = _KEYS[kind]
    given = entry.keys() - {"kind"}
    if given - {*needed, *optional} or set(needed) - given:
        extra = f", and may have {' and '.join(optional)}" if optional else ""
        raise ValueError(
            f"kind={kind!r} needs {' and '.join(needed)}{extra}; it has "
            f"{', '.join(map(str, entry))}"
        )
    if kind == "constant":
        points = [(0, entry["value"])]
    elif kind == "piecewise":
        points = _points(entry["points"])
    else:
        points = [
            (entry.get("from_step", 0), entry["start"]),
            (entry.get("to_step", 1.0), entry["end"]),
        ]
    _check_steps([step for step, _ in points])
    return Curve(tuple(points), cosine=kind == "cosine")


def _points(points: Any) -> list[tuple[Any, Any]]:
    pairs = isinstance(points, list) and all(
        isinstance(point, list | tuple) and len(point) == 2 for point in points
    )
    if not pairs or not points:
        raise ValueError(f"points={points!r} must be a list of [step, value]")
    return [tuple(point) for point in points]


def _check_steps(steps: list[Any]) -> None:
    for step in steps:
        count = isinstance(step, int) and not isinstance(step, bool) and step >= 0
        fraction = isinstance(step, float) and 0 <= step <= 1
        if not count and not fraction:
            raise ValueError(
                f"step {step!r} is neither a whole number of at least 0 nor a fraction of the "
                "training "
                "from 0.0 to 1.0"
            )
    counts = any(isinstance(step, int) and step > 0 for step in steps)
    if counts and any(isinstance(step, float) and 0 < step < 1 for step in steps):
        raise ValueError(
            f"steps {steps} mix numbers of steps and fractions of the training: use one of the two"
        )
    # 1.0 is the end of the training, and comes after any number of steps.
    order = [math.inf if isinstance(step, float) and step == 1 else step for step in steps]
    if any(after <= before for before, after in pairwise(order)):
        raise ValueError(f"steps {steps} must ascend")
