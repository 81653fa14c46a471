"""Fingerprints of expressions with variables: their values at points chosen by their symbols.

Two expressions that agree to 12 digits at two points, one positive and one negative in each symbol,
are the same function, except with odds of about 1 in 10^20. Votes can therefore be merged by
comparing strings; comparing each pair of answers symbolically takes seconds per problem.
"""

from __future__ import annotations

import hashlib
from typing import Any

from sympy import Expr, Float, I, Integral, Limit, N, Product, Sum, ceiling, floor
from sympy.core.relational import Relational

DIGITS = 12
SPARE_DIGITS = 6  # so that rounding to DIGITS hardly ever separates two forms of one value
MAX_OPERATIONS = 300
# sympy cannot evaluate or print every object that its parser makes
EVALUATION_FAULTS = (TypeError, ValueError, AttributeError, NotImplementedError, ArithmeticError)
# step functions, whose equal values say little, and expressions whose evaluation takes a limit
NO_POINTS = (floor, ceiling, Sum, Product, Integral, Limit)
_MIRRORED = {">": "<", ">=": "<="}


def fingerprint(expression: Expr) -> str | None:
    """Values of an expression with variables as a string, or None.

    None if the expression is too long, or a value is not a finite number.
    """
    values = point_values(expression)
    return (
        None if values is None else f"f({_names(expression)}) = {', '.join(map(_digits, values))}"
    )


def relation_fingerprint(relation: Relational) -> str | None:
    """The same for an equation or inequality, regardless of common factors and order of sides."""
    operator, left, right = relation.rel_op, relation.lhs, relation.rhs
    if operator in _MIRRORED:
        operator, left, right = _MIRRORED[operator], right, left
    if not isinstance(left, Expr) or not isinstance(right, Expr) or not relation.free_symbols:
        return None
    values = point_values(left - right)
    if values is None or values[0] == 0:
        return None
    scale = values[0] if operator in ("==", "!=") else abs(values[0])
    return (
        f"f({_names(relation)}) {operator} 0, f ~ "
        f"{', '.join(_digits(value / scale) for value in values)}"
    )


def _names(expression: Any) -> str:
    return ",".join(sorted({symbol.name for symbol in expression.free_symbols}))


def point_values(expression: Expr) -> list[Any] | None:
    """Values at the points of its symbols, or None.

    None if there are no symbols, or sympy cannot evaluate a value to a finite number.
    """
    if (
        not expression.free_symbols
        or expression.count_ops() > MAX_OPERATIONS
        or expression.has(*NO_POINTS)
    ):
        return None
    values = []
    for sign in (1, -1):
        point = {
            symbol: sign * _coordinate(f"{symbol.name}{sign}") for symbol in expression.free_symbols
        }
        # the parser leaves the imaginary unit a symbol
        point |= {symbol: I for symbol in point if symbol.name == "i"}
        try:
            value = N(expression, DIGITS + SPARE_DIGITS, subs=point, chop=True)
        except EVALUATION_FAULTS:
            return None
        if not value.is_number or not value.is_finite:
            return None
        values.append(value)
    return values


def _coordinate(name: str) -> Float:
    """A number in 0.5–2 with as many digits as are compared, the same in every process."""
    share = (
        int.from_bytes(hashlib.sha256(name.encode("utf-8", "backslashreplace")).digest()[:8], "big")
        / 2**64
    )
    return Float(0.5 + 1.5 * share, DIGITS + 2 * SPARE_DIGITS)


def _digits(value: Any) -> str:
    real, imaginary = value.as_real_imag()
    if imaginary == 0:
        return str(Float(real, DIGITS))
    return f"{Float(real, DIGITS)} + {Float(imaginary, DIGITS)}i"
