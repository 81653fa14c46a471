"""Code of the user's own is found by its path, or what is wrong is named in one line."""

import math
import sys

import pytest
from shaped_eval.errors import UserError
from shaped_eval.untrusted.own_code import installed, is_path, load_own


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with modules of the user's; the path of imports is put back afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_parts").mkdir()
    (tmp_path / "own_parts" / "code.py").write_text("def f(): return 5\nnumber = 5\n")
    (tmp_path / "own_parts" / "raises.py").write_text("\n1 / 0\n")
    (tmp_path / "own_parts" / "needs.py").write_text("import not_installed_anywhere\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "own_parts"]:
        del sys.modules[name]


@pytest.mark.parametrize("path", ["own_parts.code:f", "own_parts.code.f"])
def test_a_function_of_the_current_folder(folder, path):
    assert load_own("option", path)() == 5


def test_a_function_of_an_installed_package(folder):
    assert load_own("option", "math:sqrt") is math.sqrt


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("own_parts.nowhere:f", "there is no module 'own_parts.nowhere' in the current folder"),
        ("nowhere_at_all.code:f", "there is no module 'nowhere_at_all' in the current folder"),
        ("own_parts.code:g", "code.py does not define 'g'"),
        ("own_parts.code:number", "is of type int: name a function or a class"),
        ("own_parts.raises:f", "raises.py:2: ZeroDivisionError: division by zero"),
        ("own_parts.needs:f", "needs.py:1: ModuleNotFoundError: No module named 'not_installed"),
        ("own_parts/code.py:f", "is not a path to Python code: write package.module:name"),
        ("code", "is not a path to Python code"),
        ("", "is not a path to Python code"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(folder, path, reason):
    with pytest.raises(UserError) as error:
        load_own("option", path)
    message = str(error.value)
    assert message.startswith(f"option={path!r}")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["a.b:c", "a:b"])
def test_paths(name):
    assert is_path(name)


@pytest.mark.parametrize("name", ["math", "a.b.c", "a:", ":b", "a:b:c", "a/b:c", "a; b:c", "a.:b"])
def test_other_names_are_no_paths(name):
    assert not is_path(name)


def test_installed_packages_offer_names():
    assert installed("console_scripts")["pytest"].value.partition(":")[0] in sys.modules
    assert installed("shaped_trl.nothing_of_this_name") == {}
