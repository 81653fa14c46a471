"""What the tests and the code under test say to each other: literals, as tagged JSON in frames.

The standard library only: the process that runs the code has nothing else. What comes from that
process is hostile until `unpack` has made it of exact builtin types: no object of the code's own
ever reaches the tests.

A frame is 4 bytes of length, then JSON. A list is a JSON list; other containers and numbers JSON
does not have are objects with one key, which names the type.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import select
import struct
import time
from collections.abc import Callable
from typing import Any

FRAME_BYTES = 8 * 2**20  # the largest return value of a canonical solution needs far less
REQUEST_BYTES = 64 * 2**20  # to the code: the tests may send back several replies at once
MOST_NESTED = 1_000  # Python's own limit of recursion, which the tests may have raised
LARGEST_TASK = 256 * 2**20  # from the trusted side
CALLED = {"called": True}  # what the tests' process says before the first call of the code
_LENGTH = struct.Struct(">I")
_SMALL_INT = 2**63
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


class Gone(Exception):
    """The other side closed the channel, or died."""


class GoneAfterCall(Gone):
    """The process of the tests died, and the code had been called: what it returned may be the
    cause."""


class BadReply(Exception):
    """The other side sent what is no literal, or too much of it."""


def send_frame(
    channel: int, message: Any, deadline_s: float | None = None, largest: int = FRAME_BYTES
) -> None:
    """Send JSON to a descriptor: a blocking one without `deadline_s` (monotonic), a non-blocking
    one with it.

    Raises:
        BadReply: more than `largest` bytes. Gone: nobody is there. TimeoutError: at the deadline.
    """
    data = json.dumps(message).encode()
    if len(data) > largest:
        raise BadReply(f"{len(data) >> 20} MiB in one message, where {largest >> 20} are allowed")
    rest = memoryview(_LENGTH.pack(len(data)) + data)
    while rest:
        _wait(channel, select.POLLOUT, deadline_s)
        try:
            rest = rest[os.write(channel, rest) :]
        except BlockingIOError:
            continue
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Gone from error


def recv_frame(channel: int, deadline_s: float | None = None, largest: int = FRAME_BYTES) -> Any:
    """The next message from a descriptor, as `send_frame`.

    Raises:
        Gone: end of file. TimeoutError: nothing whole by the deadline. BadReply: not JSON, or too
            much.
    """
    (length,) = _LENGTH.unpack(_read_exactly(channel, _LENGTH.size, deadline_s))
    if length > largest:
        raise BadReply(f"a message of {length} bytes, where {largest} are allowed")
    try:
        text = _read_exactly(channel, length, deadline_s).decode()
        if _nesting(text) > MOST_NESTED:
            raise BadReply(f"what is nested more than {MOST_NESTED} deep")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"a message that is no JSON ({type(error).__name__})") from error


def _nesting(text: str) -> int:
    """How deep JSON is nested, or what the parser reads of a text that is none; in linear time,
    without recursion."""
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return 0
    # without what stands in quotes
    bare = "".join(text.replace(r"\\", "").replace(r"\"", "").split('"')[::2])
    steps = (_STEPS[character] for character in bare if character in _STEPS)
    return max(itertools.accumulate(steps), default=0)


def _read_exactly(channel: int, size: int, deadline_s: float | None) -> bytes:
    data = bytearray()
    while len(data) < size:
        _wait(channel, select.POLLIN, deadline_s)
        try:
            part = os.read(channel, min(size - len(data), 1 << 18))
        except BlockingIOError:
            continue
        except ConnectionResetError as error:
            raise Gone from error
        if not part:
            raise Gone
        data += part
    return bytes(data)


def _wait(channel: int, event: int, deadline_s: float | None) -> None:
    if deadline_s is not None:
        left_s = deadline_s - time.monotonic()
        poll = select.poll()
        poll.register(channel, event)
        if left_s <= 0 or not poll.poll(1000 * left_s):
            raise TimeoutError


def pack(value: Any, other: Callable[[Any], Any]) -> Any:
    """`value` as JSON; `other` says what stands for an object that is of none of the literal
    types."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -_SMALL_INT < value < _SMALL_INT else {"i": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"f": repr(value)}
    if kind is list:
        return [pack(item, other) for item in value]
    if kind is tuple:
        return {"t": [pack(item, other) for item in value]}
    if kind is dict:
        return {"d": [[pack(key, other), pack(item, other)] for key, item in value.items()]}
    if kind is set:
        return {"s": [pack(item, other) for item in value]}
    if kind is frozenset:
        return {"z": [pack(item, other) for item in value]}
    if kind is bytes:
        return {"b": value.hex()}
    if kind is complex:
        return {"c": [repr(value.real), repr(value.imag)]}
    return other(value)


def unpack(data: Any, other: Callable[[Any], Any]) -> Any:
    """The value of `pack`'s JSON, of exact builtin types; `other` gives the object for a tag ``o``.

    Raises:
        BadReply: anything else than `pack` makes.
    """
    try:
        return _unpack(data, other)
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        raise BadReply(f"a value that is no literal ({type(error).__name__})") from error


def _unpack(data: Any, other: Callable[[Any], Any]) -> Any:
    if isinstance(data, list):
        return [_unpack(item, other) for item in data]
    if not isinstance(data, dict):
        return data
    ((tag, content),) = data.items()
    if tag == "i":
        return int(content, 16)
    if tag == "f":
        return float(content)
    if tag == "t":
        return tuple([_unpack(item, other) for item in content])
    if tag == "d":
        return {_unpack(key, other): _unpack(item, other) for key, item in content}
    if tag == "s":
        return {_unpack(item, other) for item in content}
    if tag == "z":
        return frozenset([_unpack(item, other) for item in content])
    if tag == "b":
        return bytes.fromhex(content)
    if tag == "c":
        return complex(float(content[0]), float(content[1]))
    if tag == "o":
        return other(content)
    raise ValueError(tag)
