"""Programs with one mutation: a constant, an operator or a comparison, of the function that is
asked for."""

from __future__ import annotations

import ast
import copy
import random
import signal
from collections.abc import Iterator

_SWAPS: dict[type, type] = {
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
for _one, _other in (
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Add),
    (ast.Lt, ast.GtE),
    (ast.Gt, ast.LtE),
    (ast.Eq, ast.NotEq),
    (ast.In, ast.NotIn),
    (ast.Is, ast.IsNot),
    (ast.And, ast.Or),
    (ast.BitAnd, ast.BitOr),
    (ast.BitXor, ast.BitAnd),
    (ast.LShift, ast.RShift),
):
    _SWAPS.setdefault(_one, _other)
    _SWAPS.setdefault(_other, _one)
_NAMES = dict(
    pair.split("/")
    for pair in [
        "min/max",
        "any/all",
        "sorted/list",
        "set/list",
        "upper/lower",
        "nlargest/nsmallest",
    ]
)
_NAMES |= {other: one for one, other in _NAMES.items() if other != "list"}
_CALLS = (ast.Call, ast.Name, ast.Return)
_MUTABLE = (ast.BinOp, ast.Compare, ast.BoolOp, ast.Constant, ast.AugAssign, *_CALLS)


def mutants(program: str, entry_point: str, preamble: str = "") -> Iterator[str]:
    """Variants of `program`, shuffled but the same each time. What `preamble` defines is left as it
    is.

    Programs of calls alone have none of these: last come another function's name, arguments in
    another order, the result in a list.
    """
    tree = ast.parse(program)
    given = {
        node.name for node in ast.parse(preamble).body if isinstance(node, ast.FunctionDef)
    } - {entry_point}
    functions = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name not in given
    ]
    sites = [
        (index, variant)
        for index, node in enumerate(_nodes(functions))
        for variant in range(2 if isinstance(node, ast.Constant) else 1)
    ]
    random.Random(program).shuffle(sites)
    sites.sort(key=lambda site: isinstance(_nodes(functions)[site[0]], _CALLS))
    for index, variant in sites:
        other = copy.deepcopy(tree)
        functions = [
            node
            for node in other.body
            if isinstance(node, ast.FunctionDef) and node.name not in given
        ]
        if _mutate(_nodes(functions)[index], variant):
            yield ast.unparse(ast.fix_missing_locations(other))


def really_wrong(
    program: str, tests: str, preamble: str, entry_point: str, limit_s: float = 1.0
) -> bool:
    """Do the tests, run in one process with the program, say that it is wrong? Exceptions count;
    time does not.

    For programs that are trusted: this is how it was done before there was a sandbox.
    """

    def expire(signum, frame):
        raise _Expired

    old = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        own: dict = {"__name__": "program"}
        exec(program, own)
        namespace: dict = {}
        exec(preamble, namespace)
        namespace |= {"__name__": "tests", entry_point: own[entry_point]}
        exec(tests, namespace)
    except _Expired:
        return False
    except BaseException:  # exit() among them
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    return False


class _Expired(BaseException):
    pass


def _nodes(functions: list[ast.FunctionDef]) -> list[ast.AST]:
    """What can be mutated: not the docstrings, and no annotation."""
    return [
        node
        for function in functions
        for statement in function.body
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        for node in ast.walk(statement)
        if isinstance(node, _MUTABLE)
    ]


def _mutate(node: ast.AST, variant: int) -> bool:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            node.value = not node.value
        elif isinstance(node.value, int | float):
            node.value += 1 if variant == 0 else -1
        elif isinstance(node.value, str):
            node.value = node.value + "x" if variant == 0 else node.value[1:]
        else:
            return False
        return True
    if isinstance(node, ast.Call):
        node.args = node.args[1::-1] + node.args[2:]
        return len(node.args) > 1
    if isinstance(node, ast.Name):
        node.id, old = _NAMES.get(node.id, node.id), node.id
        return node.id != old
    if isinstance(node, ast.Return):
        node.value = ast.List([node.value], ast.Load()) if node.value else node.value
        return node.value is not None
    if isinstance(node, ast.Compare):
        swap = _SWAPS.get(type(node.ops[0]))
        node.ops = [swap(), *node.ops[1:]] if swap else node.ops
        return swap is not None
    swap = _SWAPS.get(type(node.op))  # type: ignore[attr-defined]
    if swap:
        node.op = swap()  # type: ignore[attr-defined]
    return swap is not None
