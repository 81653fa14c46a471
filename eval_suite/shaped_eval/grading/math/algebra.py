"""What sympy keeps from one formula to the next, and how a worker forgets it: no answer changes how
another is graded.

sympy shares objects between formulas, through its caches and as constants, and notes on each what
it has found out about it. Where it is interrupted, as by too deep a recursion, such a note can be a
wrong "unknown", which would stay.
"""

from __future__ import annotations

import functools
import gc
import random
from typing import Any

import math_verify.parser
import sympy
from sympy.core.cache import clear_cache
from sympy.core.parameters import global_parameters
from sympy.core.random import seed

from shaped_eval.grading.math import grader as math

# of parsed formulas; others of math-verify hold compiled patterns
_PARSED: tuple[functools._lru_cache_wrapper[Any], ...] = (
    math_verify.parser.parse_latex_cached,
    math_verify.parser.parse_expr_cached,
    math._parse_gold,
)
_PARAMETERS = dict(vars(global_parameters))


@functools.cache
def remember() -> list[tuple[sympy.Basic, dict[str, bool | None], dict[str, bool | None]]]:
    """The objects that stay, each with its notes and a copy of them; those that are there at the
    first call."""
    _clear()
    gc.collect()
    return [
        (found, found._assumptions, dict(found._assumptions))
        for found in gc.get_objects()
        if issubclass(type(found), sympy.Basic) and hasattr(found, "_assumptions")
    ]


def forget() -> None:
    """Be as at the call of `remember`, if a formula has been parsed since."""
    if not any(cache.cache_info().currsize for cache in _PARSED):
        return
    _clear()
    for found, notes, copy in remember():
        if found._assumptions is not notes or len(notes) != len(copy):
            notes.clear()
            notes.update(copy)
            found._assumptions = notes
    vars(global_parameters).update(_PARAMETERS)
    random.seed(0)
    seed(0)


def _clear() -> None:
    for cache in _PARSED:
        cache.cache_clear()
    clear_cache()
