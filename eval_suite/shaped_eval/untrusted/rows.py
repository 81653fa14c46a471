"""Checks, field by field, rows and records of files that are foreign or may be damaged."""

from __future__ import annotations

import json
import re
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import encodable

Row = TypeVar("Row")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # as JSON writes one
# Whole numbers in rows are counts and positions. Up to this one, floats are exact.
MOST = 2**53


class _Field(NamedTuple):
    required: bool
    fits: Callable[[Any], bool]
    words: str


def parse_object(text: str | bytes) -> dict[str, Any]:
    """The JSON object that `text` holds. Lone surrogates, which UTF-8 cannot encode, become U+FFFD.

    Raises:
        ValueError: it is not an object, is not UTF-8, nests too deeply, or has a number with
            thousands of digits.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"{shortened(value)} is not an object with fields")
    has_surrogates = _SURROGATE.search(
        text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    )
    return _encodable(value) if has_surrogates else value


def _encodable(value: Any) -> Any:
    """A JSON value whose texts can be encoded as UTF-8."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list):
        return [_encodable(each) for each in value]
    return (
        {encodable(key): _encodable(each) for key, each in value.items()}
        if isinstance(value, dict)
        else value
    )


def read_object(
    path: str | Path, check: Callable[[dict[str, Any]], None] = lambda value: None
) -> dict[str, Any]:
    """The JSON object in the file.

    Args:
        check: raises ValueError for an object that is not acceptable.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file does not hold such an object.
    """
    try:
        value = parse_object(Path(path).read_bytes())
        check(value)
    except (ValueError, IsADirectoryError) as error:
        raise UserError(
            f"{str(path)!r} cannot be read ({error}): it is damaged; use another folder"
        ) from error
    return value


def row_of(row_type: Callable[..., Row], values: Mapping[str, Any]) -> Row:
    """A row as `row_type`, a dataclass.

    Raises:
        ValueError: a field is missing, unknown, or of another type than in the dataclass. The
            message names the field.
    """
    known = _fields(row_type)
    for name, field in known.items():
        if name in values:
            check_field(name, values[name], field.fits, field.words)
        elif field.required:
            raise ValueError(f"it has no {name}")
    for name in values:
        if name not in known:
            raise ValueError(f"it has an unknown field {shortened(name)}")
    return row_type(**values)


def check_field(name: str, value: Any, fits: Callable[[Any], bool], words: str) -> None:
    """Raise ValueError if `value` does not satisfy `fits`, which `words` describes."""
    if not fits(value):
        raise ValueError(f"{name}={shortened(value)} must be {words}")


def shortened(value: Any, most: int = 80) -> str:
    """``repr(value)``, cut after `most` characters.

    Of a list or an object only the beginning is written, since YAML can repeat a list within lists
    until nothing would hold it.
    """
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxother, brief.maxlong = 3, 2 * most, 2 * most, 2 * most
    brief.maxlist = brief.maxtuple = brief.maxdict = brief.maxset = most // 3
    try:
        text = brief.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a very large number"
    return text if len(text) <= most else f"{text[:most]}…"


def is_count(value: Any) -> bool:
    """Whether `value` is a whole number from 0; True and 1.0 are not."""
    return type(value) is int and 0 <= value <= MOST


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


@cache
def _fields(row_type: Any) -> dict[str, _Field]:
    hints = typing.get_type_hints(row_type)
    return {
        field.name: _Field(
            field.default is MISSING and field.default_factory is MISSING,
            *_rule(hints[field.name]),
        )
        for field in fields(row_type)
    }


def _rule(hint: Any) -> tuple[Callable[[Any], bool], str]:
    """A test for values of this type, and the type in words."""
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return (
            lambda value: isinstance(value, str) and value in choices,
            f"one of {', '.join(choices)}",
        )
    if get_origin(hint) in (types.UnionType, typing.Union):
        (inner,) = (each for each in get_args(hint) if each is not type(None))
        fits, words = _rule(inner)
        return lambda value: value is None or fits(value), f"{words}, or null"
    if hint is int:
        return is_count, "a whole number from 0 to 2^53"
    if get_origin(hint) is list:
        return _is_list_of_texts, "a list of texts"
    kind, words = {
        str: (str, "a text"),
        bool: (bool, "true or false"),
        dict: (dict, "an object"),
    }[get_origin(hint) or hint]
    return lambda value: isinstance(value, kind), words
