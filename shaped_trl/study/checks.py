"""Checks of the values in a study file.

Each raises a UserError that names the key, its value and what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.rows import shortened

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_KINDS = {str: "a name", bool: "true or false"}


def mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {shortened(value)} is not a mapping; write `key: value` lines")
    return dict(value)


def check_keys(
    where: str, value: Mapping[str, Any], allowed: Iterable[str], *, required: Iterable[str] = ()
) -> None:
    for key in value:
        if key not in allowed:
            raise UserError(f"{where}: unknown key {shortened(key)}; allowed: {', '.join(allowed)}")
    for key in required:
        if key not in value:
            raise UserError(f"{where}: the key {key!r} is missing")


def check_kinds(where: str, value: Mapping[str, Any], **kinds: type) -> None:
    for key, kind in kinds.items():
        if value.get(key) is not None and not isinstance(value[key], kind):
            raise UserError(f"{where}{key}: {shortened(value[key])}; give {_KINDS[kind]}")


def named(what: str, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"{what}: {shortened(name)} would name a folder; use only letters, digits, '_', '.' "
            "and '-'"
        )
    return name


def at_least_one(where: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{where}: {shortened(value)}; give a whole number of at least 1")
    return value


def positive(where: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise UserError(f"{where}: {shortened(value)} is not a number above 0")


def share(where: str, value: Any) -> float:
    """A fraction between 0 and 1, both excluded."""
    if not isinstance(value, float) or not 0 < value < 1:
        raise UserError(f"{where}: {shortened(value)}; give a share between 0 and 1, such as 0.05")
    return value
