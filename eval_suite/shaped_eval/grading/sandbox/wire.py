"""The protocol between the tests and the code under test: literals as tagged JSON in frames.

It uses only the standard library, because the process that runs the code has nothing else. What
comes from that process is untrusted until `unpack` has turned it into exact builtin types: no
object of the code's own ever reaches the tests.

A frame is 4 bytes of length, then JSON. A list is a JSON list; other containers, and numbers that
JSON does not have, are objects with one key, which names the type.
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
REQUEST_BYTES = 64 * 2**20  # to the code; the tests may send back several replies at once
MOST_NESTED = 1_000  # Python's default limit of recursion, which the tests may have raised
LARGEST_TASK = 256 * 2**20  # from the trusted side
CALLED = {"called": True}  # sent by the tests' process before the first call of the code
_LENGTH = struct.Struct(">I")
_SMALL_INT = 2**63
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


class Gone(Exception):
    """The other side closed the channel, or died."""


class GoneAfterCall(Gone):
    """The tests' process died after it had called the code, whose replies may be the cause."""


class BadReply(Exception):
    """The other side sent something that is not a literal, or too much."""


def send_frame(
    channel: int, message: Any, deadline_s: float | None = None, largest: int = FRAME_BYTES
) -> None:
    """Send JSON to a descriptor.

    With `deadline_s` (monotonic time) the descriptor is non-blocking, without it blocking.

    Raises:
        BadReply: the message has more than `largest` bytes.
        Gone: the other side has closed the channel.
        TimeoutError: the deadline has passed.
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
    """The next message from a descriptor; see `send_frame`.

    Raises:
        Gone: end of file.
        TimeoutError: there is no complete message by the deadline.
        BadReply: the message is not JSON, or is too large.
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
    """How deep a JSON text is nested; for other texts, how deep the parser would go.

    Linear in the text, and without recursion.
    """
    if text.count("[") + text.count("{") <= MOST_NESTED:
        return 0
    # the text outside of quotes
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
    """`value` as JSON; `other` converts an object that is of none of the literal types."""
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
    """The value of `pack`'s JSON, of exact builtin types; `other` converts what is tagged ``o``.

    Raises:
        BadReply: the data is anything other than what `pack` makes.
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
