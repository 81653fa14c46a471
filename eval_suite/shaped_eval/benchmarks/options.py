"""Options of the tasks that this project generates, as a recipe gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from shaped_eval.errors import UserError

Task = TypeVar("Task")


def options_of(task: type[Task], name: str, values: Mapping[str, Any]) -> Task:
    """An object of the dataclass `task` with some values replaced.

    Args:
        task: all its fields have defaults, which are whole numbers, numbers or tuples of numbers.
        name: of the task, for error messages.
        values: field → value, as a recipe gives them.

    Raises:
        UserError: a field does not exist, a value is of another kind than the default, or the task
            itself refuses it.
    """
    defaults = {field.name: field.default for field in fields(task)}  # type: ignore[arg-type]
    given = {}
    for key, value in values.items():
        default = defaults.get(key, MISSING)
        if default is MISSING:
            raise UserError(f"{key}: no such option of {name}; choose from {', '.join(defaults)}")
        if isinstance(default, tuple):
            fits, kind = (
                isinstance(value, list | tuple) and all(map(_is_number, value)),
                "a list of numbers",
            )
            value = tuple(value) if fits else value
        elif isinstance(default, float):
            fits, kind = _is_number(value), "a number"
        else:
            fits, kind = type(value) is int, "a whole number"
        if not fits:
            raise UserError(f"{key}={value!r}: give {kind}")
        given[key] = value
    return task(**given)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
