"""The directions of imports are the architecture."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "eval_suite": {"shaped_trl", "shaped_kernels", "trl"},
    "kernels/torch-ext/shaped_kernels": {"shaped_trl", "eval_suite", "trl", "transformers", "shaped_kernels"},
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


def test_kernels_is_no_package():
    """transformers imports a package called `kernels` where it finds one."""
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_no_file_is_over_400_lines():
    for folder in ("shaped_trl", "eval_suite", "kernels", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path
