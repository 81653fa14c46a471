"""Reads a text that a data set holds as base64 of zlib of a pickle, without unpickling it.

A pickle is a program for a small machine, which can import modules, call what they define, and
claim memory by a few bytes. So it is not run: its instructions are listed, and must be those with
which Python writes one text and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import pickletools
import zlib

# per row; the largest tests of LiveCodeBench have tens of MB
MOST_COMPRESSED_BYTES = 128 * 2**20
MOST_BYTES = 256 * 2**20
_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_FRAMING = ("PROTO", "FRAME")
_REMEMBER = ("MEMOIZE", "BINPUT", "LONG_BINPUT")


def packed_text(
    packed: str,
    most_compressed: int = MOST_COMPRESSED_BYTES,
    most: int = MOST_BYTES,
) -> str:
    """The text that `packed` holds.

    Args:
        packed: base64 of a zlib stream of a pickle of one text.
        most_compressed: the most characters that `packed` may have.
        most: the most bytes that the pickle may have.

    Raises:
        ValueError: it is anything else, or is larger.
    """
    if len(packed) > most_compressed:
        raise ValueError(f"it has {len(packed):,} characters, and may have {most_compressed:,}")
    try:
        compressed = base64.b64decode(packed, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"it is not base64 ({error})") from error
    return pickled_text(_inflated(compressed, most))


def _inflated(compressed: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(compressed, most)
    except zlib.error as error:
        raise ValueError(f"it is not a zlib stream ({error})") from error
    if stream.unconsumed_tail:
        raise ValueError(f"it has more than {most:,} bytes when it is decompressed")
    if not stream.eof or stream.unused_data:
        raise ValueError("the zlib stream is cut off, or something follows it")
    return data


def pickled_text(data: bytes) -> str:
    """The text that a pickle of one text holds. The pickle is read, and never run.

    Raises:
        ValueError: it is a pickle of anything else, or not a pickle.
    """
    texts: list[str] = []
    try:
        for instruction, argument, position in pickletools.genops(data):
            name = instruction.name
            if name in _TEXTS and not texts:
                texts.append(str(argument))
            elif name == "STOP" and texts and position == len(data) - 1:
                return texts[0]
            elif name not in (_REMEMBER if texts else _FRAMING):
                raise ValueError(f"its pickle is not that of one text: it has {name}")
    except (ValueError, IndexError, MemoryError, OverflowError) as error:
        raise ValueError(str(error) or "its pickle cannot be read") from error
    raise ValueError("its pickle is not that of one text")
