r"""Tells a parsed answer from a copy of the question, which leaves the work to the parser.

`vocabulary` refuses the commands of sums, limits, determinants and the like before an answer is
parsed. Here the parsed forms are compared: derivatives have no command of their own, and an
equation or inequality may be left to be solved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from math_verify.grader import take_last_relation
from sympy import (
    Abs,
    Add,
    And,
    Atom,
    Basic,
    Complement,
    Contains,
    Eq,
    FiniteSet,
    Interval,
    MatAdd,
    MatMul,
    MatrixBase,
    Mul,
    Not,
    Or,
    Pow,
    S,
    Set,
    Symbol,
    Tuple,
    UnevaluatedExpr,
    Union,
    binomial,
    exp,
    factorial,
    log,
    preorder_traversal,
)
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.functions.elementary.hyperbolic import HyperbolicFunction, InverseHyperbolicFunction
from sympy.functions.elementary.trigonometric import (
    InverseTrigonometricFunction,
    TrigonometricFunction,
)
from sympy.logic.boolalg import BooleanAtom

# What an answer may consist of; whatever else it has must also be in gold. Atoms are numbers,
# constants, symbols, unknown functions such as f(x), and whether an interval is open.
_ATOMS = (Atom, BooleanAtom, AppliedUndef)
_ARITHMETIC = (Add, Mul, Pow, UnevaluatedExpr, factorial, binomial, Abs)
_FUNCTIONS = (
    exp,
    log,
    TrigonometricFunction,
    InverseTrigonometricFunction,
    HyperbolicFunction,
    InverseHyperbolicFunction,
)
_CONTAINERS = (Tuple, FiniteSet, Interval, Union, Complement, MatrixBase, MatAdd, MatMul)
_NUMBER_SETS = (
    *(type(S.EmptySet), type(S.Naturals), type(S.Naturals0), type(S.Integers)),
    *(type(S.Rationals), type(S.Reals), type(S.Complexes)),
)
_STATEMENTS = (Relational, And, Or, Not, Contains)
_FINISHED = (*_ATOMS, *_ARITHMETIC, *_FUNCTIONS, *_CONTAINERS, *_NUMBER_SETS, *_STATEMENTS)


def is_unfinished(answer: Any, gold: Any) -> bool:
    """Whether a parsed answer leaves something to be worked out that gold does not.

    That is an operation which is neither arithmetic nor a function, such as a derivative; or an
    unsolved equation or inequality (``2x + 1 < 7``), where gold is a set or a solved equation.
    """
    if not _operations(_stated(answer, gold)) <= _operations(gold):
        return True
    states_values = isinstance(gold, Set) or (isinstance(gold, Eq) and len(gold.free_symbols) == 1)
    unsolved = [relation for relation in _relations(answer) if not _is_solved(relation)]
    if isinstance(gold, Eq):
        unsolved = [relation for relation in unsolved if not _is_moved(relation)]
    return states_values and all(map(_is_solved, _relations(gold))) and bool(unsolved)


def _stated(answer: Any, gold: Any) -> Any:
    """The last right-hand side of an equation or chain, if gold is not one: what it states."""
    if isinstance(answer, Relational | And) and not isinstance(gold, Relational | And | Set):
        last = take_last_relation(answer)
        return last.rhs if isinstance(last, Eq) else answer
    return answer


def _operations(expression: Any) -> set[type]:
    return {type(node) for node in _nodes(expression) if not isinstance(node, _FINISHED)}


def _relations(expression: Any) -> list[Relational]:
    return [node for node in _nodes(expression) if isinstance(node, Relational)]


def _nodes(expression: Any) -> Iterator[Any]:
    """The nodes of an expression's tree; none of a text that could not be parsed."""
    is_parsed = isinstance(expression, Basic | MatrixBase)
    return preorder_traversal(expression) if is_parsed else iter(())


def _is_solved(relation: Relational) -> bool:
    """Whether one side is a name that the other does not have, or no name occurs at all."""
    sides = (relation.lhs, relation.rhs)
    return not relation.free_symbols or any(
        _is_name(name) and not name.free_symbols & value.free_symbols
        for name, value in (sides, sides[::-1])
    )


def _is_moved(relation: Relational) -> bool:
    """Whether this is y − 4 = 0, the general form of a line's equation y = 4."""
    for zero, terms in ((relation.lhs, relation.rhs), (relation.rhs, relation.lhs)):
        if isinstance(relation, Eq) and zero == 0 and isinstance(terms, Add):
            names = [term for term in terms.args if not term.is_number]
            return len(names) == 1 and isinstance(names[0], Symbol)
    return False


def _is_name(side: Any) -> bool:
    """Whether this is a symbol, f(x), or made of these alone: the parser reads AB as a product."""
    return isinstance(side, Symbol | AppliedUndef) or (
        isinstance(side, Mul | Add | Tuple) and all(map(_is_name, side.args))
    )
