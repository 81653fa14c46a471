"""Packed texts are read without being unpickled, and hostile ones are refused."""

from __future__ import annotations

import base64
import io
import pickle
import pickletools
import struct
import tracemalloc
import zlib

import pytest
from shaped_eval.untrusted.pickles import packed_text, pickled_text


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("text", ["", "[]", "é😀\n" * 300, "x" * 100_000])
def test_a_pickled_text_is_read_as_pickle_reads_it(text, protocol):
    data = pickle.dumps(text, protocol=protocol)
    assert packed_text(packed(data)) == pickle.loads(data) == text


class Call:
    def __reduce__(self):
        return print, ("run",)


def written(*values, protocol=4) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol)
    for value in values:
        pickler.dump(value)
    return file.getvalue()


TEXT = b"\x8c\x01a"  # SHORT_BINUNICODE
HOSTILE = {
    "a call": written(Call()),
    "a call by a name of protocol 0": b"cos\nsystem\n(S'true'\ntR.",
    "a name alone": b"cbuiltins\neval\n.",
    "a name from the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "an instance of protocol 0": b"(S'true'\nios\nsystem\n.",
    "an object of protocol 1": b"(cos\nsystem\nS'true'\no.",
    "an extension's code": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pname\n.",
    "a state": b"\x80\x04" + TEXT + b"}b.",
    "a list": written(["a"]),
    "a dict": written({"a": 1}),
    "bytes": written(b"a"),
    "a bytearray": written(bytearray(b"a"), protocol=5),
    "a whole number": written(1),
    "a huge whole number": b"\x80\x04\x8b" + struct.pack("<i", 10**6) + b"\xff" * 10**6 + b".",
    "a huge whole number in digits": b"I" + b"9" * 10**6 + b"\n.",
    "a huge long in digits": b"L" + b"9" * 10**6 + b"L\n.",
    "nothing": b"",
    "no text": b"\x80\x04N.",
    "two texts": b"\x80\x04" + TEXT + TEXT + b".",
    "a text without an end": b"\x80\x04" + TEXT,
    "something after the end": b"\x80\x04" + TEXT + b".more",
    "a second pickle": written("a", "b"),
    "a text that is shorter than it says": b"\x80\x04X\xff\xff\xff\x00abc.",
    "a text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc.",
    "a text of -1 bytes": b"\x80\x04\x8d" + struct.pack("<q", -1) + b"abc.",
    "a text that is not UTF-8": b"\x80\x04\x8c\x01\xff.",
    "the memo read": b"\x80\x04" + TEXT + b"\x94h\x00.",
    "the memo read before": b"\x80\x04h\x00.",
    "the memo doubled": b"\x80\x04" + TEXT + b"\x94" + b"h\x00h\x00\x86\x94" * 30 + b".",
    "a mark": b"\x80\x04(" + TEXT + b".",
    "a text popped": b"\x80\x04" + TEXT + b"0.",
    "an unknown instruction": b"\x80\x04\xff.",
    "an unknown escape of protocol 0": b"V\\u12\n.",
    "not a pickle": b"[1, 2]",
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_of_anything_else_is_refused_and_nothing_of_it_runs(data, capsys):
    with pytest.raises(ValueError, match=r"\w"):
        packed_text(packed(data))
    assert capsys.readouterr().out == ""


def test_the_memo_of_an_index_of_two_billions_takes_no_memory():
    """CPython's unpickler makes room for every index up to the one that is named."""
    data = b"\x80\x04" + TEXT + b"r" + struct.pack("<I", 2**31) + b"."
    tracemalloc.start()
    assert pickled_text(data) == "a"
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_zlib_bomb_is_stopped_at_the_limit():
    bomb = zlib.compress(b"\x80\x04" + b"\0" * 200 * 2**20)
    assert len(bomb) < 2**20
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 1,000,000 bytes"):
        packed_text(base64.b64encode(bomb).decode(), most=1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_the_packed_text_may_not_be_too_long():
    text = packed(pickle.dumps("a" * 1000))
    assert packed_text(text, most_compressed=len(text)) == "a" * 1000
    with pytest.raises(ValueError, match="may have 10"):
        packed_text(text, most_compressed=10)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not base64!", "not base64"),
        ("é", "not base64"),
        (base64.b64encode(b"plain").decode(), "not a zlib stream"),
        (base64.b64encode(zlib.compress(pickle.dumps("a"))[:-3]).decode(), "cut off"),
        (base64.b64encode(zlib.compress(pickle.dumps("a")) + b"more").decode(), "follows it"),
    ],
)
def test_other_texts_are_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        packed_text(text)


def test_the_list_of_instructions_that_are_admitted_makes_no_object():
    """None of them takes anything from the stack, except the last one."""
    from shaped_eval.untrusted import pickles

    admitted = {*pickles._TEXTS, *pickles._FRAMING, *pickles._REMEMBER}
    for each in pickletools.opcodes:
        if each.name in admitted:
            assert each.stack_before == ([] if each.name != "MEMOIZE" else [pickletools.anyobject])
