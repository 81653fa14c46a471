"""The process that holds the code under test: it runs the code, then answers calls.

Nothing here is trusted. The code can change this module as it likes, but only gains other replies,
which it could have given anyway.
"""

from __future__ import annotations

import itertools
import random
import re
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

from shaped_eval.grading.sandbox.selection import MODULE, NOT_PARSED, choose
from shaped_eval.grading.sandbox.wire import (
    REQUEST_BYTES,
    BadReply,
    Gone,
    pack,
    recv_frame,
    send_frame,
    unpack,
)

MESSAGE_CHARACTERS = 300
ITERATED_ITEMS = 100_000
_DESCRIBED = 80


def serve(channel: int) -> None:
    """Receive the programs, run the selected one, then answer calls until the channel closes."""
    random.seed(0)  # so that a verdict can be repeated
    objects: list[Any] = []  # returned objects that are not literals; the index stands for them
    try:
        namespace = _load(channel, objects)
        while namespace is not None:
            _answer(channel, recv_frame(channel, largest=REQUEST_BYTES), namespace, objects)
    except Gone:
        return


def _load(channel: int, objects: list[Any]) -> dict[str, Any] | None:
    message = recv_frame(channel, largest=REQUEST_BYTES)
    warnings.simplefilter("ignore")
    module = types.ModuleType(MODULE)
    sys.modules[MODULE] = module
    try:
        exec(_code(message), module.__dict__)
        if message["setup"]:
            exec(message["setup"], module.__dict__)
    except BaseException as error:  # whatever the code raises, including SystemExit, is its result
        send_frame(channel, raised(error))
        return None
    found = {
        name: _describe(module.__dict__[name], objects)
        for name in message["names"]
        if name in module.__dict__
    }
    send_frame(channel, {"found": found})
    return module.__dict__


def _code(message: dict[str, Any]) -> types.CodeType:
    """The first of the programs that compiles.

    Programs in the form ``{"text", "function"}`` are reduced by `choose`.
    """
    programs = message["programs"]
    if programs and isinstance(programs[0], dict):
        texts = [program["text"] for program in programs]
        used = {*message["names"], *re.findall(r"\w+", message["setup"] or "")}
        programs = [choose(texts, programs[0]["function"], list(used))]
    return first_compiled(programs, MODULE)


def first_compiled(programs: list[Any], name: str) -> types.CodeType:
    """The first of `programs`, texts or syntax trees, that compiles.

    Raises:
        SyntaxError: none does. Other errors of `compile` are possible.
    """
    first: BaseException | None = None
    for program in programs:
        try:
            return compile(program, name, "exec", dont_inherit=True)
        except NOT_PARSED as error:
            first = first or error
    assert first is not None
    raise first


def _describe(value: Any, objects: list[Any]) -> Any:
    return {"callable": True} if callable(value) else {"value": _pack(value, objects)}


def _answer(
    channel: int, message: dict[str, Any], namespace: dict[str, Any], objects: list[Any]
) -> None:
    reply: dict[str, Any]
    try:
        if "iterate" in message:
            items = itertools.islice(iter(objects[message["iterate"]]), ITERATED_ITEMS)
            reply = {"value": _pack(list(items), objects)}
        else:
            arguments, options = unpack(message["arguments"], lambda content: objects[content[0]])
            reply = {"value": _pack(namespace[message["call"]](*arguments, **options), objects)}
    except BaseException as error:
        reply = raised(error)
    try:
        send_frame(channel, reply)
    except BadReply as error:
        send_frame(channel, raised(error))


def raised(error: BaseException) -> dict[str, Any]:
    """The reply that says what the code has raised."""
    try:
        text = str(error)[:MESSAGE_CHARACTERS]
    except BaseException:
        text = ""
    return {"raised": type(error).__name__[:_DESCRIBED], "message": text}


def _pack(value: Any, objects: list[Any]) -> Any:
    return pack(value, lambda found: _pack_other(found, objects))


# The exact value of an instance of a subclass, by the builtin type's own method.
_EXACT: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex.__complex__),
    (str, str.__str__),
    (bytes, lambda value: b"".join([value])),
    (bytearray, lambda value: b"".join([value])),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: {key: dict.__getitem__(value, key) for key in dict.__iter__(value)}),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
)


def _pack_other(value: Any, objects: list[Any]) -> Any:
    """Pack objects that equal a literal as that literal, and any other as a number for it.

    Examples of the former are a Counter, a named tuple, and numpy's numbers.
    """
    kind = type(value)
    for base, exact in _EXACT:
        if issubclass(kind, base):
            return _pack(exact(value), objects)
    if kind.__module__ == "numpy" and kind.__name__ != "ndarray" and hasattr(kind, "item"):
        return _pack(value.item(), objects)
    objects.append(value)
    return {"o": [len(objects) - 1, kind.__name__[:_DESCRIBED]]}
