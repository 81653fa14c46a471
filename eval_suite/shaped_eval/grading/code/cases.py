"""The tests of a problem of LiveCodeBench: pairs of texts, as its data set holds them.

A test is an object with ``input``, ``output`` and ``testtype``, which is ``stdin`` for a program
that reads and prints, and ``functional`` for a method. The tests are JSON, or the base64 of the
zlib stream of a pickle of JSON, which `untrusted.pickles` reads without unpickling it.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from shaped_eval.untrusted.pickles import packed_text
from shaped_eval.untrusted.texts import encodable

MOST_CASES = 10_000  # of one problem
_KINDS = ("stdin", "functional")


class Case(NamedTuple):
    """One test: what the program gets, and what it must give."""

    given: str
    expected: str


def cases_of(public: str, private: str, is_function: bool) -> list[Case]:
    """The public tests of a problem, which its text shows, and then the private ones.

    Args:
        public: JSON.
        private: JSON, or the packed form of it.
        is_function: whether they are tests of a method.

    Raises:
        ValueError: they are neither, or are too large or too many, or are not tests of this kind.
    """
    kind = _KINDS[is_function]
    found = [*_tests(public, "public"), *_tests(_unpacked(private), "private")]
    if not 0 < len(found) <= MOST_CASES:
        raise ValueError(f"it has {len(found):,} tests, where 1 to {MOST_CASES:,} are allowed")
    cases = [_case(test, kind) for test in found]
    if is_function:
        for case in cases:
            literals_of(case)
    return cases


def literals_of(case: Case) -> tuple[list[Any], Any]:
    """The arguments and the result of a test of a method: each line of the input is an argument.

    Raises:
        ValueError: they are not JSON.
    """
    return [_json(line) for line in case.given.split("\n")], _json(case.expected)


def _unpacked(private: str) -> str:
    if private.lstrip()[:1] == "[":  # which is not in the alphabet of base64
        return private
    try:
        return packed_text(private)
    except ValueError as error:
        raise ValueError(f"its private tests cannot be decoded: {error}") from error


def _tests(text: str, which: str) -> list[Any]:
    try:
        tests = _json(text)
    except ValueError as error:
        raise ValueError(f"its {which} tests are not JSON: {error}") from error
    if not isinstance(tests, list):
        raise ValueError(f"its {which} tests are not a list")
    return tests


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _case(test: Any, kind: str) -> Case:
    if not isinstance(test, dict):
        raise ValueError("one of its tests is not an object")
    given, expected = test.get("input"), test.get("output")
    if not isinstance(given, str) or not isinstance(expected, str) or test.get("testtype") != kind:
        raise ValueError(f"one of its tests lacks a text input or output, or is not of type {kind}")
    return Case(encodable(given), encodable(expected))
