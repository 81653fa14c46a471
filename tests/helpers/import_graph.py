"""What imports what: python tests/helpers/import_graph.py prints the rooms of each folder, and what they import.

A room is a file or a folder of a package. Imports inside functions count, those for type checkers
(`if TYPE_CHECKING`) do not.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from places import ROOT

PACKAGES = {
    "shaped_trl": ROOT / "shaped_trl",
    "shaped_eval": ROOT / "eval_suite" / "shaped_eval",
    "shaped_kernels": ROOT / "kernels" / "torch-ext" / "shaped_kernels",
}
Graph = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """All modules of the packages by their dotted names."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


def import_graph() -> Graph:
    """Module -> the modules of these packages that it imports."""
    known = modules()
    return {name: set(_imported(name, path, known)) for name, path in known.items()}


def _imported(name: str, path: Path, known: Iterable[str]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _nodes_at_run_time(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if full in known or base in known:
                    yield full if full in known else base


def _nodes_at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield from _nodes_at_run_time(child)


def folders() -> list[str]:
    """Every package that holds others, by its dotted name."""
    return sorted({name for name, path in modules().items() if path.name == "__init__.py"})


def rooms(folder: str, graph: Graph) -> Graph:
    """The files and folders of a package -> those beside them that they import.

    A package's own ``__init__`` is a room by that name.
    """
    found: Graph = defaultdict(set)
    for name, imports in graph.items():
        if name == folder or name.startswith(f"{folder}."):
            room = _room(folder, name)
            beside = {each for each in imports if each == folder or each.startswith(f"{folder}.")}
            found[room] |= {_room(folder, each) for each in beside} - {room}
    return found


def _room(folder: str, name: str) -> str:
    return name[len(folder) + 1 :].split(".")[0] or "__init__"


def circles(graph: Graph) -> list[list[str]]:
    """Sets of nodes that reach each other (Tarjan's strongly connected components of two or more)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in order:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == order[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    for node in graph:
        if node not in order:
            visit(node)
    return found


def entries(folder: Path) -> list[str]:
    """Files and folders that a reader finds there."""
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def main() -> None:
    graph = import_graph()
    known = modules()
    for folder in folders():
        print(f"{folder}: {len(entries(known[folder].parent))} files and folders")
        for room, imports in sorted(rooms(folder, graph).items()):
            print(f"    {room:24} {' '.join(sorted(imports))}")


if __name__ == "__main__":
    main()
