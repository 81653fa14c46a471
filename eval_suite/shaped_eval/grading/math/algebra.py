"""Resets the state that sympy keeps between formulas, so that no answer affects another's grade.

sympy shares objects between formulas, through its caches and as constants, and records on each what
it has found out about it. If it is interrupted, as by too deep a recursion, such a record can be a
wrong "unknown" that would persist.
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

from shaped_eval.grading.math.parsing import parse_gold

# the caches of parsed formulas; other caches of math-verify hold compiled patterns
_PARSED: tuple[functools._lru_cache_wrapper[Any], ...] = (
    math_verify.parser.parse_latex_cached,
    math_verify.parser.parse_expr_cached,
    parse_gold,
)
_PARAMETERS = dict(vars(global_parameters))


@functools.cache
def remember() -> list[tuple[sympy.Basic, dict[str, bool | None], dict[str, bool | None]]]:
    """The sympy objects that exist at the first call, each with its assumptions and their copy."""
    _clear()
    gc.collect()
    return [
        (found, found._assumptions, dict(found._assumptions))
        for found in gc.get_objects()
        if issubclass(type(found), sympy.Basic) and hasattr(found, "_assumptions")
    ]


def forget() -> None:
    """Restore the state at the call of `remember`, if a formula has been parsed since."""
    if not any(cache.cache_info().currsize for cache in _PARSED):
        return
    _clear()
    for found, assumptions, copy in remember():
        if found._assumptions is not assumptions or len(assumptions) != len(copy):
            assumptions.clear()
            assumptions.update(copy)
            found._assumptions = assumptions
    vars(global_parameters).update(_PARAMETERS)
    random.seed(0)
    seed(0)


def _clear() -> None:
    for cache in _PARSED:
        cache.cache_clear()
    clear_cache()
