"""The directions of imports are the architecture."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from places import ROOT

FORBIDDEN = {
    "eval_suite/shaped_eval": {"shaped_trl", "shaped_kernels", "trl"},
    "kernels/torch-ext/shaped_kernels": {
        "shaped_trl",
        "shaped_eval",
        "trl",
        "transformers",
        "shaped_kernels",
    },
    "shaped_trl": set(),
}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_import_directions(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & FORBIDDEN[package], path


# Looked for, and not needed: of PyTorch's builds for GPUs, and of frameworks that call the loss.
NOT_DECLARED = {"triton", "torchtitan", "spmd_types"}


@pytest.mark.parametrize(
    ("folders", "extras"), [(list(FORBIDDEN), []), (["tests", "examples"], ["dev"])]
)
def test_every_package_that_is_imported_is_declared(folders, extras):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    groups = [optional[name] for name in extras or optional if extras or name != "dev"]
    lines = [
        *project["dependencies"],
        *(line for group in [*groups, optional["tasks"]] for line in group),
    ]
    declared = {normal(re.split(r"[^\w.-]", line)[0]) for line in lines}
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    names = (
        {name for path in files for name in imported(path)} - sys.stdlib_module_names - NOT_DECLARED
    )
    names -= {path.stem for path in (ROOT / "tests").rglob("*.py")} | {
        "shaped_trl",
        "shaped_eval",
        "shaped_kernels",
    }
    names -= {path.stem for path in (ROOT / "kernels" / "benchmarks").glob("*.py")}
    providers = packages_distributions()
    missing = {
        name
        for name in names
        if not {normal(each) for each in providers.get(name, [name])} & declared
    }
    assert not missing


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_kernels_is_no_package():
    """transformers imports a package called `kernels` where it finds one."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_no_file_is_over_400_lines():
    for folder in ("shaped_trl", "eval_suite", "kernels", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path
