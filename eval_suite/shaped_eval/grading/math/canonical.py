"""A string for a parsed answer, such that equal answers usually have equal strings.

Constants are compared by value (a fraction, or else 12 significant digits), containers by their
elements, and ``x = 7`` as 7. Expressions with variables are compared by their values at two points
(`fingerprint`).
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from math_verify.grader import get_pct_val, is_assignment_relation, take_last_relation
from sympy import (
    Abs,
    And,
    Complement,
    Derivative,
    Eq,
    Expr,
    FiniteSet,
    Float,
    I,
    Interval,
    MatrixBase,
    N,
    Number,
    Rational,
    Set,
    Symbol,
    Tuple,
    Union,
    degree,
)
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from shaped_eval.grading.literals import LARGEST_DENOMINATOR, SIGNIFICANT_DIGITS, simplest
from shaped_eval.grading.math.fingerprint import (
    EVALUATION_FAULTS,
    NO_POINTS,
    fingerprint,
    relation_fingerprint,
)

CONTRADICTION = 1e-3  # relative; looser than rounding, so that 25π = 78.54 is not one


def constant_value(expression: Any) -> Any:
    """The value of an expression without variables as a sympy number, or None.

    It has 15 digits; a complex value is a sum. An assignment counts as its last right-hand side.
    The result is None also if the value is not finite.
    """
    if is_assignment_relation(expression):
        expression = take_last_relation(expression).rhs
    if not isinstance(expression, Expr) or expression.free_symbols:
        return None
    percent = get_pct_val(expression)
    if percent is not None:
        expression = percent / 100
    try:
        value = (
            expression if isinstance(expression, Number) else N(expression, SIGNIFICANT_DIGITS + 3)
        )
    except EVALUATION_FAULTS:
        return None
    return value if value.is_number and value.is_finite else None


def is_contradiction(expression: Any) -> bool:
    """Whether this is an equation, or a chain, that equates two different constants (``3 = 7``)."""
    relations = expression.args if isinstance(expression, And) else (expression,)
    for relation in relations:
        if isinstance(relation, Eq):
            left, right = constant_value(relation.lhs), constant_value(relation.rhs)
            if (
                left is not None
                and right is not None
                and abs(left - right) > CONTRADICTION * abs(right)
            ):
                return True
    return False


def names_another_quantity(expression: Any) -> bool:
    """Whether an equation for one unknown states its multiple, sum, inverse or root (``2x = 10``).

    ``x = 10`` does not, and neither does ``x^2 + y^2 = 10``, which names the quantity in question.
    """
    if not isinstance(expression, Eq) or len(expression.lhs.free_symbols) != 1:
        return False
    (unknown,), left = expression.lhs.free_symbols, expression.lhs
    if left == unknown or not isinstance(left, Expr) or expression.rhs == left:
        return False
    linear = (
        each.is_polynomial(unknown) and degree(each, unknown) == 1
        for each in (left, 1 / left, left**2)
    )
    return any(linear)


def same_function(a: Any, b: Any) -> bool:
    """Whether two expressions with the same variables are equal at three points.

    They are compared to 9 digits, or to 6 if they contain decimals. Variables are positive there,
    as those of science and counting mostly are, and also negative if an absolute value is taken.
    The result is False for step functions and for expressions that need a limit, because equal
    values would say little or take long.
    """
    points = _values_at_points(a, b)
    return bool(points) and all(
        abs(x - y) <= allowed * max(abs(x), abs(y)) for x, y, allowed in points
    )


def same_equation(a: Eq, b: Eq) -> bool:
    """Whether the two equations are multiples of each other, at the same points."""
    if not all(isinstance(side, Expr) for side in (a.lhs, a.rhs, b.lhs, b.rhs)):
        return False
    points = _values_at_points(a.lhs - a.rhs, b.lhs - b.rhs)
    if not points or any(0 in (x, y) for x, y, _ in points):
        return False
    first = points[0][0] / points[0][1]
    return all(abs(x / y - first) <= 2 * allowed * abs(first) for x, y, allowed in points)


def _values_at_points(a: Any, b: Any) -> list[tuple[complex, complex, float]]:
    """Values of both and the relative tolerance; empty if they cannot be compared."""
    if not (isinstance(a, Expr) and isinstance(b, Expr)) or a.has(*NO_POINTS) or b.has(*NO_POINTS):
        return []
    a, b = _without_functions(a), _without_functions(b)
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if not symbols or {str(s) for s in a.free_symbols} - {"i"} != {
        str(s) for s in b.free_symbols
    } - {"i"}:
        return []
    tolerance = 1e-6 if a.has(Float) or b.has(Float) else 1e-9
    signs = (1, -1) if a.has(Abs) or b.has(Abs) else (1,)
    points = []
    for start in (sign * size for size in (0.7, 1.3, 2.9) for sign in signs):
        # one value for each name, whatever assumptions its symbols have
        names = dict.fromkeys(str(symbol) for symbol in symbols)
        values: dict[str, Any] = {
            name: start * (1 + index * (math.sqrt(5) - 2)) for index, name in enumerate(names)
        }
        values["i"] = I  # math-verify leaves the imaginary unit a symbol
        point = {symbol: values[str(symbol)] for symbol in symbols}
        try:
            left, right = (complex(N(each.subs(point), SIGNIFICANT_DIGITS + 3)) for each in (a, b))
        except (*EVALUATION_FAULTS, RecursionError):
            return []
        if not math.isfinite(abs(left)) or not math.isfinite(abs(right)) or left == right == 0:
            return []
        points.append((left, right, tolerance))
    return points


def _without_functions(expression: Expr) -> Expr:
    """The expression with unknown functions and derivatives, such as x(t), as variables."""
    return expression.xreplace(
        {each: Symbol(str(each)) for each in expression.atoms(AppliedUndef, Derivative)}
    )


def canonical(expression: Any) -> str:
    """The canonical string of a parsed answer: a sympy object, or text that could not be parsed."""
    try:
        return _canonical(expression)
    except EVALUATION_FAULTS:
        return repr(type(expression).__name__)


def _canonical(expression: Any) -> str:
    if isinstance(expression, str):
        return " ".join(expression.split())
    if isinstance(expression, Interval):
        left, right = "(" if expression.left_open else "[", ")" if expression.right_open else "]"
        return f"{left}{_canonical(expression.start)},{_canonical(expression.end)}{right}"
    if isinstance(expression, Tuple):
        return f"({','.join(map(_canonical, expression.args))})"
    if isinstance(expression, FiniteSet):
        return f"{{{','.join(sorted(map(_canonical, expression.args)))}}}"
    if isinstance(expression, Union):
        return " U ".join(sorted(map(_canonical, expression.args)))
    if isinstance(expression, MatrixBase):
        return f"[{';'.join(','.join(map(_canonical, row)) for row in expression.tolist())}]"
    if is_assignment_relation(expression) and not is_contradiction(expression):
        return _canonical(take_last_relation(expression).rhs)
    if isinstance(expression, Relational):
        relation = relation_fingerprint(expression)
        return (
            relation
            or f"{_canonical(expression.lhs)}{expression.rel_op}{_canonical(expression.rhs)}"
        )
    if isinstance(expression, And):
        return " and ".join(sorted(map(_canonical, expression.args)))
    if isinstance(expression, Complement):
        return " - ".join(map(_canonical, expression.args))
    value = None if isinstance(expression, Set) else constant_value(expression)
    if value is not None:
        return _constant(value)
    return (fingerprint(expression) if isinstance(expression, Expr) else None) or str(expression)


def _constant(value: Any) -> str:
    if isinstance(value, Rational):
        return str(value)
    if not value.is_real:
        real, imaginary = value.as_real_imag()
        return f"{_constant(real)}+{_constant(imaginary)}i"
    digits = str(Float(value, SIGNIFICANT_DIGITS))
    simple = simplest(Fraction(digits))
    return str(simple) if simple.denominator <= LARGEST_DENOMINATOR else digits
