"""What can be imported from the packages themselves, and at what price."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ["shaped_trl", "shaped_eval", "shaped_kernels"]


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_there(name):
    package = importlib.import_module(name)
    for public in package.__all__:
        assert getattr(package, public) is not None
    assert set(package.__all__) <= set(dir(package))
    assert (Path(package.__file__).parent / "py.typed").is_file()


def test_they_are_the_names_of_the_readme():
    from shaped_eval import evaluate_model, pass_at_k, run_tests
    from shaped_eval.statistics import pass_at_k as original
    from transformers import Trainer

    from shaped_trl import RewardShape as Shape
    from shaped_trl import RLVRConfig, RLVRTrainer, ShapedConfig, ShapedTrainer, shape_lm_head
    from shaped_trl import shaped_linear_loss as loss

    assert issubclass(ShapedTrainer, Trainer)
    assert issubclass(RLVRTrainer, Trainer)
    assert {"beta", "lambda_tail"} <= set(ShapedConfig.__dataclass_fields__)
    assert "dynamic_sampling" in RLVRConfig.__dataclass_fields__
    assert Shape(beta=-0.25).beta == -0.25
    assert pass_at_k is original
    assert all(map(callable, (evaluate_model, run_tests, shape_lm_head, loss)))


def test_an_import_of_a_package_imports_nothing_heavy():
    done = python(
        "import sys, shaped_trl, shaped_eval; "
        "heavy = {'torch', 'transformers', 'trl', 'numpy', 'yaml', 'importlib.metadata'}; "
        "print(sorted(heavy & set(sys.modules)), 'ShapedTrainer' in dir(shaped_trl))"
    )
    assert done.stdout == "[] True\n", done.stderr


@pytest.mark.parametrize("name", ["shaped_trl", "shaped_eval"])
def test_an_unknown_name_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"'{name}' has no attribute 'nothing'"):
        importlib.import_module(name).nothing  # noqa: B018
    with pytest.raises(ImportError, match="nothing"):
        exec(f"from {name} import nothing")


@pytest.mark.parametrize("name", ["shaped_trl", "shaped_eval"])
def test_type_checkers_see_the_same_names_from_the_same_modules(name):
    """The imports under TYPE_CHECKING, against what is imported at run time."""
    package = importlib.import_module(name)
    tree = ast.parse(Path(package.__file__).read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in ("typing", "shaped_eval.lazy")
        for alias in node.names
    }
    assert sorted([*seen, "__version__"]) == sorted(package.__all__)
    for public, module in seen.items():
        assert getattr(importlib.import_module(module), public) is getattr(package, public)


def test_the_version_is_that_of_the_distribution(capsys):
    from importlib.metadata import version

    from shaped_trl.cli import main

    for name in PACKAGES:
        assert importlib.import_module(name).__version__ == version("shaped-trl")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"shaped-trl {version('shaped-trl')}\n"


def test_a_checkout_that_is_not_installed_has_a_version_too(monkeypatch):
    from shaped_eval import lazy

    monkeypatch.setattr(lazy, "DISTRIBUTION", "shaped-trl-that-nobody-installed")
    assert importlib.import_module("shaped_trl").__version__ == lazy.UNKNOWN_VERSION
