"""Which system calls the filter allows, and which values are literals on the channel."""

from __future__ import annotations

import json
import math
import struct
from collections import deque

import pytest
from shaped_eval.grading.sandbox import filters
from shaped_eval.grading.sandbox.wire import BadReply, _nesting, pack, unpack


@pytest.mark.parametrize("machine", filters.MACHINES)
def test_the_filter_lets_through_what_it_says_on_both_machines(machine):
    """A BPF machine in Python runs the program; its numbers come from the kernel's headers."""
    column, audit = filters.MACHINES[machine]
    allow, refuse, no_tty, kill = 0x7FFF0000, 0x50001, 0x50019, 0x80000000

    def call(x86: int, arm: int, *arguments: int, audit: int = audit) -> int:
        return _run(filters.instructions(machine), (x86, arm)[column], audit, arguments)

    assert call(0, 63) == call(1, 64) == call(231, 94) == allow  # read, write, exit_group
    forbidden = (
        (56, 220),
        (435, 435),
        (59, 221),
        (41, 198),
        (62, 129),
        (101, 117),
        (165, 40),
        (268, 53),
        (425, 425),
    )
    # clone, clone3, execve, socket, kill, ptrace, mount…
    assert {call(*numbers) for numbers in forbidden} == {refuse}
    assert call(16, 29) == no_tty
    assert call(72, 25, 3, 1) == call(72, 25, 3, 1030) == allow  # fcntl: F_GETFD, F_DUPFD_CLOEXEC
    assert (
        call(72, 25, 3, 8) == call(72, 25, 3, 10) == call(72, 25, 3, 1024) == refuse
    )  # F_SETOWN, F_SETSIG, F_SETLEASE
    assert call(302, 261, 0, 7) == allow
    assert call(302, 261, 1, 7) == refuse  # prlimit64 of another process
    read_only, truncated, both, odd = 0, 0o1000, 0o1001, 3
    assert call(257, 56, 0, 0, read_only) == call(257, 56, 0, 0, both) == allow
    assert (
        call(257, 56, 0, 0, truncated)
        == call(257, 56, 0, 0, odd)
        == call(257, 56, 0, 0, odd | 0o1000)
        == refuse
    )
    assert call(0, 63, audit=0x40000003) == kill  # 32-bit calls
    assert call(0x40000000, 9999) == refuse  # x32


def _run(
    program: list[filters.Instruction], number: int, audit: int, arguments: tuple[int, ...]
) -> int:
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    word, at = 0, 0
    while True:
        code, when, otherwise, operand = program[at]
        if code == 0x20:
            (word,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            word &= operand
        elif code == 0x15:
            at += when if word == operand else otherwise
        else:
            return operand
        at += 1


@pytest.mark.parametrize(
    "data",
    [
        {"x": 1},
        {"i": "5; import os"},
        {"d": [[[], 1]]},
        {"d": 5},
        {"s": [[1]]},
        {"t": 5},
        {"c": ["1"]},
        {"b": "x"},
        {},
    ],
)
def test_what_no_literal_packs_to_is_refused(data):
    with pytest.raises(BadReply):
        unpack(data, None)


def test_deep_nesting_is_refused_and_not_followed():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(BadReply):
        unpack(nested, None)
    while nested:  # freed layer by layer, because the interpreter frees it recursively
        nested = nested.pop()


@pytest.mark.parametrize("value", ['"', "\\", '\\"', "[" * 3_000, '["\\\\"', "é\ud800{"])
def test_nesting_is_counted_outside_of_texts(value):
    deep = "[" * 1_001 + json.dumps([value, {value: value}]) + "]" * 1_001
    assert _nesting(deep) == 1_003
    assert _nesting(json.dumps([[value, value]] * 1_000)) == 2
    assert _nesting(json.dumps([value]) + "[" * 5_000) == 5_000


def test_packing_leaves_what_it_does_not_know_to_the_caller():
    assert pack([deque([1])], lambda value: {"o": [0, type(value).__name__]}) == [
        {"o": [0, "deque"]}
    ]
    assert math.isnan(unpack(pack(float("nan"), None), None))
