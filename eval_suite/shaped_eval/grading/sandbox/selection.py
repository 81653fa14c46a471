"""Selects what is run of an answer's code: the requested function and what it needs.

An answer contains more than its function. The model's own checks may be wrong, a call may wait for
input, a last function may be cut off, a sentence may stand between two definitions. None of this
says anything about the function, so:

- `assert` statements at the top level are left out, and so is every other statement there that
neither sets nor changes what the function uses. The remaining statements are tried, and execution
continues if they raise.
- Definitions stay. One that the function does not use may fail.
- Of several definitions of the function in one program, the first that is more than a stub counts,
because what a model writes after its answer is not a second attempt. Python itself would take the
last.
- If the code has a syntax error, the statements without one are kept.

All of this runs in the confined process. The text is parsed there and nowhere else.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

MODULE = "solution"
NOT_PARSED = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
_MOST_PARSES = 1_000  # attempts to parse pieces of one program
_MOST_JOINED = 40  # pieces, or lines, in one attempt
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
# functions through which code can use names that it does not mention
_ANY_NAME = {"globals", "locals", "vars", "eval", "exec"}
_GOES_ON = re.compile(r"(?:else|elif|except|finally)\b|[)\]}]")
_UNFINISHED = re.compile(
    r"was never closed|unterminated triple-quoted|expected an indented block|unexpected EOF"
)


def choose(programs: Sequence[str], function: str, names: Sequence[str]) -> ast.Module:
    """The statements to run: those of the first of `programs` that makes `function`.

    Args:
        programs: best first.
        function: the requested function; "" if it has no name.
        names: other names of the program that are used.

    Raises:
        SyntaxError: none of them is Python, nor has a part that makes `function`. Other errors of
            `ast.parse` are possible.
    """
    fallback: ast.Module | None = None
    first_error: BaseException | None = None
    for text in programs:
        try:
            tree = _parsed(text)
        except NOT_PARSED as error:
            first_error = first_error or error
            continue
        if _makes(tree, function):
            return selected(tree, function, names)
        fallback = fallback or tree
    for text in programs:
        tree = ast.Module(list(_without_errors(text, function)), [])
        if function and _makes(tree, function):
            return selected(tree, function, names)
        if not function and fallback is None and tree.body:
            fallback = tree
    if fallback is None:
        assert first_error is not None
        raise first_error
    return selected(fallback, function, names)


def selected(tree: ast.Module, function: str, names: Sequence[str]) -> ast.Module:
    """The part of `tree` that makes `function` and `names`; see the module's docstring."""
    body = _first_definition(tree.body, function)
    variables = {
        name
        for each in body
        if not isinstance(each, _DEFINITIONS + _IMPORTS)
        for name in _set_by(each)
    }
    variables |= {
        name
        for each in body
        for node in ast.walk(each)
        if isinstance(node, ast.Global)
        for name in node.names
    }
    uses = {id(each): _mentioned(each) for each in body}
    through = _through_definitions(body, uses)
    imported = {name for each in body if isinstance(each, _IMPORTS) for name in _set_by(each)}
    own = variables | {each.name for each in body if isinstance(each, _DEFINITIONS)}
    needed = {function, *names}
    kept: set[int] = set()
    grows = True
    while grows:
        everything = bool(needed & _ANY_NAME)
        grows = False
        for each in body:
            if id(each) in kept or not _is_needed(
                each, needed, variables, through[id(each)], everything
            ):
                continue
            kept.add(id(each))
            needed |= uses[id(each)]
            grows = True
    chosen: list[ast.stmt] = []
    for each in body:
        # such as sys.setrecursionlimit(…)
        about_imports = through[id(each)] & imported and not through[id(each)] & own
        if _is_from_the_future(each) or (isinstance(each, _DEFINITIONS) and id(each) in kept):
            chosen.append(each)
        elif not isinstance(each, ast.Assert) and (
            id(each) in kept or about_imports or isinstance(each, _DEFINITIONS + _IMPORTS)
        ):
            chosen.append(_tried(each))
    return ast.fix_missing_locations(ast.Module(chosen, []))


def _is_needed(
    statement: ast.stmt, needed: set[str], variables: set[str], through: set[str], everything: bool
) -> bool:
    """Whether the statement sets one of `needed`, or may change one of them that is a variable."""
    if _set_by(statement) & needed:
        return True
    if isinstance(statement, _DEFINITIONS + _IMPORTS + (ast.Assert,)):
        return False
    return everything or bool(through & variables & needed)


def _first_definition(body: list[ast.stmt], function: str) -> list[ast.stmt]:
    """`body` with a single definition of `function`.

    It is the first one that returns something, or else is not a stub, or else the last one.
    """
    found = [each for each in body if isinstance(each, _DEFINITIONS) and each.name == function]
    if len(found) < 2:
        return body
    whole = [each for each in found if not _is_stub(each)]
    counts = next((each for each in whole if _returns(each)), (whole or found[-1:])[0])
    return [each for each in body if each is counts or each not in found]


def _is_stub(statement: ast.stmt) -> bool:
    """Whether a function has no code but ``pass``, ``...`` or ``raise NotImplementedError``.

    A docstring and imports do not count as code.
    """
    if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return False
    return all(
        isinstance(each, (ast.Pass, *_IMPORTS))
        or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        or (isinstance(each, ast.Raise) and "NotImplementedError" in _mentioned(each))
        for each in statement.body
    )


def _returns(statement: ast.stmt) -> bool:
    return any(
        isinstance(node, (ast.Yield, ast.YieldFrom))
        or (isinstance(node, ast.Return) and node.value is not None)
        for node in ast.walk(statement)
    )


def _makes(tree: ast.Module, function: str) -> bool:
    """Whether some statement sets `function` to more than a stub."""
    return not function or any(
        function in _set_by(each) and not _is_stub(each) for each in tree.body
    )


def _set_by(statement: ast.stmt) -> set[str]:
    """The module's names that a statement sets, or of which it sets an attribute or an item."""
    if isinstance(statement, _DEFINITIONS):
        return {statement.name}
    found = _bound(statement)
    for node in _in_this_scope(statement):
        if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
            root: ast.AST = node
            while isinstance(root, (ast.Attribute, ast.Subscript)):
                root = root.value
            found |= {root.id} if isinstance(root, ast.Name) else set()
    return found


def _bound(statement: ast.AST) -> set[str]:
    """The names that a statement binds in its own scope."""
    found: set[str] = set()
    for node in _in_this_scope(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, _IMPORTS):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, (*_DEFINITIONS, ast.ExceptHandler)) and node.name:
            found.add(node.name)
    return found


def _in_this_scope(statement: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a statement, except those inside definitions."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*_DEFINITIONS, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)


def _mentioned(statement: ast.AST) -> set[str]:
    """The names that a statement uses from the module; not a function's own variables."""
    found: set[str] = set()
    waiting: list[tuple[ast.AST, frozenset[str]]] = [(statement, frozenset())]
    while waiting:
        node, local = waiting.pop()
        if isinstance(node, ast.Name) and node.id not in local:
            found.add(node.id)
        elif isinstance(node, ast.Global):
            found.update(node.names)
        inside: list[ast.AST] = []
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside = [*node.body] if isinstance(node.body, list) else [node.body]
            own = {
                argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)
            }
            own = own.union(*map(_bound, inside))
            shared = {
                name
                for each in inside
                for part in ast.walk(each)
                if isinstance(part, ast.Global)
                for name in part.names
            }
            waiting += [(each, local | (own - shared)) for each in inside]
        seen = set(map(id, inside))
        waiting += [(each, local) for each in ast.iter_child_nodes(node) if id(each) not in seen]
    return found


def _through_definitions(body: list[ast.stmt], uses: dict[int, set[str]]) -> dict[int, set[str]]:
    """For each statement the names that it mentions, directly or through definitions."""
    defined: dict[str, set[str]] = {}
    for each in body:
        if isinstance(each, _DEFINITIONS):
            defined.setdefault(each.name, set()).update(uses[id(each)])
    found = {}
    for each in body:
        reached = set()
        waiting = list(uses[id(each)])
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += defined.get(name, ())
        found[id(each)] = reached
    return found


def _is_from_the_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _tried(statement: ast.stmt) -> ast.Try:
    """The statement in a ``try``, so that the program continues whatever it raises.

    That includes ``SystemExit``.
    """
    handler = ast.ExceptHandler(type=None, name=None, body=[ast.Pass()])
    return ast.copy_location(
        ast.Try(body=[statement], handlers=[handler], orelse=[], finalbody=[]), statement
    )


def _parsed(text: str) -> ast.Module:
    tree = ast.parse(text)
    # only compiling finds a return outside of a function
    compile(tree, MODULE, "exec", dont_inherit=True)
    return tree


def _without_errors(text: str, function: str) -> Iterator[ast.stmt]:
    """Yield the statements at the left margin that are Python, each with its body.

    If the text ends in a definition of `function`, its lines up to the error are included.
    """
    lines = text.split("\n")
    starts = [i for i, line in enumerate(lines) if line[:1].strip() and not _GOES_ON.match(line)]
    starts = [
        i
        for place, i in enumerate(starts)
        if not (place and lines[starts[place - 1]].startswith("@"))
    ]
    ends = [*starts[1:], len(lines)]
    parses = index = 0
    while index < len(starts) and parses < _MOST_PARSES:
        for last in range(index, min(index + _MOST_JOINED, len(starts))):
            parses += 1
            try:
                found = _parsed("\n".join(lines[starts[index] : ends[last]]))
            except NOT_PARSED as error:
                if not _UNFINISHED.search(str(error)):
                    break
            else:
                yield from found.body
                index = last
                break
        index += 1
    if starts and re.match(rf"(?:async )?def {re.escape(function)}\b", lines[starts[-1]]):
        yield from _up_to_the_error(lines[starts[-1] :])


def _up_to_the_error(lines: list[str]) -> Iterator[ast.stmt]:
    """Yield the statements of the longest start of `lines` that is Python.

    Yields nothing if all lines are Python, because they have been yielded already.
    """
    for count in range(len(lines), max(0, len(lines) - _MOST_JOINED), -1):
        try:
            found = _parsed("\n".join(lines[:count]))
        except NOT_PARSED:
            continue
        if count < len(lines):
            yield from found.body
        return
