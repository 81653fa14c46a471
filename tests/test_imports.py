"""The directions of imports are the architecture.

`LAYERS` says for the large packages which rooms (files and folders) lie on which floor. A room
imports from lower floors only, inside functions too. In every other folder imports form no circle.
`python tests/helpers/import_graph.py` prints the rooms of all folders.
"""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from import_graph import PACKAGES, circles, entries, folders, import_graph, modules, rooms
from places import ROOT

FORBIDDEN = {
    "shaped_eval": {"shaped_trl", "shaped_kernels", "trl"},
    "shaped_kernels": {"shaped_trl", "shaped_eval", "trl", "transformers", "shaped_kernels"},
    "shaped_trl": set(),
}
# from the ground up; what stands in one line does not import each other
LAYERS = {
    "shaped_eval": [
        "errors provenance lazy",
        "__init__ untrusted",
        "records sources",
        "grading",
        "statistics benchmarks",
        "config metrics reporting",
        "backends hub report view",
        "sampling publish",
        "sample grade",
        "checkpoints evaluate",
    ],
    "shaped_eval.grading": [
        "literals sandbox",
        "base prose",
        "extract",
        "gym math text",
        "graders",
        "worker",
        "nursery",
        "pool",
        "code",
        "__init__",
    ],
    "shaped_trl": [
        "__init__ usage modeling recipes vllm_worker",
        "run_record",
        "data launch",
        "hub",
        "training",
        "rlvr",
        "options",
        "help study",
        "commands",
        "cli",
    ],
    "shaped_trl.study": [
        "checks contrasts record_fields",
        "definition",
        "arm_checks contents late records",
        "plan",
        "contrasts_loading power",
        "state",
        "finished loading registration running",
        "reporting",
        "report",
        "runner",
    ],
}
MOST_ROOMS = 24
GRAPH = import_graph()


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_no_package_above_it(package):
    files = list(PACKAGES[package].rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & FORBIDDEN[package], path


@pytest.mark.parametrize("folder", LAYERS)
def test_a_room_imports_from_lower_floors_only(folder):
    floor = {room: i for i, names in enumerate(LAYERS[folder]) for room in names.split()}
    found = rooms(folder, GRAPH)
    assert set(found) | {"__init__"} == set(floor) | {"__init__"}
    wrong = [
        f"{room} imports {other}"
        for room, others in found.items()
        for other in others
        if floor.get(other, len(floor)) >= floor[room]
    ]
    assert not wrong


def test_no_files_import_each_other_in_a_circle():
    assert circles(GRAPH) == []


@pytest.mark.parametrize("folder", folders())
def test_no_rooms_of_a_folder_import_each_other_in_a_circle(folder):
    assert circles(rooms(folder, GRAPH)) == []


def test_a_circle_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert circles(graph) == [["a", "b", "c"]]


def test_no_folder_is_too_full():
    """A reader takes in a folder at a glance."""
    sources = {path.parent for path in modules().values()} | {ROOT / "speed"}
    counts = {str(folder.relative_to(ROOT)): len(entries(folder)) for folder in sorted(sources)}
    for folder, count in counts.items():
        print(f"{count:3} {folder}")
    assert {folder for folder, count in counts.items() if count > MOST_ROOMS} == set()


# Looked for, and not needed: of PyTorch's builds for GPUs, and of frameworks that call the loss.
NOT_DECLARED = {"triton", "torchtitan", "spmd_types"}
SOURCES = [*PACKAGES.values(), ROOT / "speed", ROOT / "quoted"]


@pytest.mark.parametrize(
    ("places", "extras"), [(SOURCES, []), ([ROOT / "tests", ROOT / "examples"], ["dev", "vllm"])]
)
def test_every_package_that_is_imported_is_declared(places, extras):
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = settings["project"]["optional-dependencies"]
    groups = [optional[name] for name in extras or optional if extras or name != "dev"]
    extra_lines = [line for group in [*groups, optional["tasks"]] for line in group]
    lines = [*dependencies(settings), *extra_lines]
    declared = {normal(re.split(r"[^\w.-]", line)[0]) for line in lines}
    files = [path for place in places for path in place.rglob("*.py")]
    names = {name for path in files for name in imported(path)}
    names -= sys.stdlib_module_names | NOT_DECLARED | {*PACKAGES, "speed", "quoted"}
    names -= {path.stem for path in (ROOT / "tests").rglob("*.py")}
    names -= {path.stem for path in (ROOT / "kernels" / "benchmarks").glob("*.py")}
    providers = packages_distributions()
    missing = {
        name
        for name in names
        if not {normal(each) for each in providers.get(name, [name])} & declared
    }
    assert not missing


def dependencies(settings: dict) -> list[str]:
    """Of shaped-trl, as pyproject.toml lists them."""
    return settings["tool"]["hatch"]["metadata"]["hooks"]["custom"]["dependencies"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_kernels_is_no_package():
    """transformers imports a package called `kernels` where it finds one."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_no_file_is_over_400_lines():
    for folder in ("shaped_trl", "eval_suite", "kernels", "speed", "examples", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path
