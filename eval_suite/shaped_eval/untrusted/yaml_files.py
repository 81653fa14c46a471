"""YAML files with one mapping, such as a recipe. They build no objects and hide no keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from shaped_eval.errors import UserError


class _Loader(yaml.SafeLoader):
    """Refuses a mapping with the same key twice. PyYAML itself would keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [
            key.value
            for key, _ in node.value
            if isinstance(key, yaml.ScalarNode) and key.value != "<<"
        ]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def read_mapping(path: Path, field: str) -> dict[str, Any]:
    """The mapping of names to values that a YAML file holds.

    Args:
        path: the file, which exists.
        field: the option that named the file.

    Raises:
        UserError: the file is not YAML, has a key twice, or holds something else.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{field}={str(path)!r} is not YAML: {_reason(error)}") from error
    except RecursionError:
        raise UserError(f"{field}={str(path)!r} is nested too deeply") from None
    if not isinstance(settings, dict):
        raise UserError(f"{field}={str(path)!r} must be a mapping of option names to values")
    for name in settings:
        if not isinstance(name, str):
            raise UserError(
                f"{field}={str(path)!r}: YAML reads the key {name!r} as no text: put it in quotes"
            )
    return settings


def _reason(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    """One line: the place in the file, where it is known, and what is wrong there."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    problem = " ".join(str(getattr(error, "problem", error)).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
