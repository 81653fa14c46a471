"""Parses formulas and arithmetic in untrusted text with a grammar of its own.

sympy's own parsers evaluate the text as Python. Here Python's grammar only parses it, and its
elements must be listed: numbers, names, operators, and calls of a few functions. The sympy objects
are built from that tree one by one. Text that contains anything else, or too much, is refused. A
period at the end is ignored.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import Any

import sympy

MOST_CHARACTERS = 2_000
MOST_NODES = 400
MOST_LEVELS = 60
MOST_DIGITS = 40  # of a written integer
MOST_CALLS = 4  # nested calls; sympy takes a second for four, and minutes for ten
LARGEST_EXPONENT = 1_000  # of a number
LARGEST_DEGREE = 50  # of a product such as x**20*sin(x)**30, which sympy may expand
LARGEST_POWER_BITS = 20_000  # of a power of numbers
MOST_NAME_CHARACTERS = 20

_CONSTANTS = {"pi": sympy.pi, "E": sympy.E, "I": sympy.I}
_OF_ONE = (
    "Abs sign sqrt cbrt exp erf sin cos tan cot sec csc asin acos atan acot asec acsc"
    " sinh cosh tanh coth sech csch asinh acosh atanh acoth asech acsch"
)
# each function with the numbers of arguments that it can take
_FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "abs": (sympy.Abs, (1,)),
    "ln": (sympy.log, (1,)),
    "log": (sympy.log, (1, 2)),
    "Rational": (lambda numerator, denominator: numerator / denominator, (2,)),
} | {name: (getattr(sympy, name), (1,)) for name in _OF_ONE.split()}
_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
    ast.Pow: lambda base, exponent: _power(base, exponent),
}
_SIGNS: dict[type, Callable[[Any], Any]] = {
    ast.UAdd: lambda value: value,
    ast.USub: lambda value: -value,
}


class NoFormula(ValueError):
    """The text contains something outside the grammar, or too much; the message says what."""


def formula(text: str, symbols: dict[str, sympy.Symbol] | None = None) -> sympy.Expr:
    """The formula that `text` denotes in Python's syntax.

    Names in `symbols` become those symbols, other names become new ones.

    Raises:
        NoFormula: the text is not a formula.
    """
    made = _formula(_tree(text), symbols or {})
    if _degree(made) > LARGEST_DEGREE:
        raise NoFormula(f"a degree of more than {LARGEST_DEGREE}")
    return made


def arithmetic(text: str) -> str:
    """Arithmetic with integers, ``+ - * /`` and parentheses, rewritten from its parsed form.

    ``//`` is not allowed.

    Raises:
        NoFormula: the text contains anything else.
    """
    tree = _tree(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.UnaryOp):
            allowed = type(node.op) in {*_SIGNS, *_OPERATIONS} - {ast.Pow}
        else:
            allowed = isinstance(node, ast.operator | ast.unaryop) or (
                isinstance(node, ast.Constant)
                and type(node.value) is int
                and _number(node.value) is not None
            )
        if not allowed:
            raise NoFormula(f"{type(node).__name__} is not arithmetic")
    return ast.unparse(tree)


def _tree(text: str) -> ast.expr:
    if len(text) > MOST_CHARACTERS:
        raise NoFormula(f"more than {MOST_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip().removesuffix("."), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NoFormula("no expression") from error
    level = [tree]
    nodes = 0
    for _ in range(MOST_LEVELS):
        nodes += len(level)
        children = (ast.iter_child_nodes(node) for node in level)
        level = [child for each in children for child in each]  # type: ignore[misc]
        if not level:
            break
    if level or nodes > MOST_NODES:
        raise NoFormula("too large an expression")
    if _calls(tree) > MOST_CALLS:
        raise NoFormula(f"more than {MOST_CALLS} functions one within the other")
    return tree


def _calls(node: ast.AST) -> int:
    """The depth of nested calls."""
    return isinstance(node, ast.Call) + max(map(_calls, ast.iter_child_nodes(node)), default=0)


def _degree(formula: Any) -> float:
    """An upper bound of how many symbols and functions are multiplied in the expanded formula."""
    if formula.is_Add:
        return max(map(_degree, formula.args))
    if formula.is_Pow and formula.exp.is_Number:
        return float(abs(formula.exp)) * _degree(formula.base)
    return max(float(formula.is_Symbol or formula.is_Function), sum(map(_degree, formula.args)))


def _formula(node: ast.expr, symbols: dict[str, sympy.Symbol]) -> Any:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](
            _formula(node.left, symbols), _formula(node.right, symbols)
        )
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
        return _SIGNS[type(node.op)](_formula(node.operand, symbols))
    if isinstance(node, ast.Constant):
        return _number(node.value)
    if isinstance(node, ast.Name):
        return _symbol(node.id, symbols)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        function, counts = _FUNCTIONS.get(node.func.id, (None, ()))
        if function is not None and len(node.args) in counts:
            return function(*(_formula(argument, symbols) for argument in node.args))
        raise NoFormula(f"a call of {node.func.id[:MOST_NAME_CHARACTERS]}")
    raise NoFormula(f"{type(node).__name__} is not allowed in a formula")


def _symbol(name: str, symbols: dict[str, sympy.Symbol]) -> sympy.Expr:
    if name in symbols:
        return symbols[name]
    if name in _FUNCTIONS or len(name) > MOST_NAME_CHARACTERS:
        raise NoFormula(f"{name[:MOST_NAME_CHARACTERS]} is not the name of a quantity")
    return _CONSTANTS.get(name) or sympy.Symbol(name)


def _number(value: Any) -> sympy.Number:
    if type(value) is int and value.bit_length() <= MOST_DIGITS * math.log2(10):
        return sympy.Integer(value)
    if type(value) is float and math.isfinite(value):
        return sympy.Float(repr(value))
    raise NoFormula(f"a constant of type {type(value).__name__}, or too large a number")


def _power(base: Any, exponent: Any) -> Any:
    if exponent.is_Number:
        if abs(exponent) > LARGEST_EXPONENT:
            raise NoFormula("too large an exponent")
        if base.is_Rational and _bits(base) * abs(exponent) > LARGEST_POWER_BITS:
            raise NoFormula("too large a power")
    return base**exponent


def _bits(number: Any) -> int:
    return max(int(number.p).bit_length(), int(number.q).bit_length())
