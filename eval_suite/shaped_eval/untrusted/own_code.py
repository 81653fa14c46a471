"""Python code of the user's own: rewards, graders and backends that are named by their path.

A path is ``package.module:name``; for rewards, as in TRL's command line, ``package.module.name`` as
well. Code is loaded only from a path that the user typed, on the command line or in his own recipe,
never from one that stands in a data file. A package that is installed may also offer graders and
backends under plain names, by entry points (`installed`).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import one_line


def is_path(name: str) -> bool:
    """Whether a name has the form ``package.module:name``."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in [*module.split("."), attribute])


def installed(group: str) -> dict[str, metadata.EntryPoint]:
    """The entry points of a group, by name: what other installed packages offer."""
    return {point.name: point for point in metadata.entry_points(group=group)}


def load_own(option: str, path: str) -> Callable[..., Any]:
    """The function or class at a path that the user typed.

    The module may lie in the current folder, which comes before the installed packages, as with
    ``python -m`` and in TRL's command line.

    Args:
        option: the option that the path was given to, for messages.
        path: ``package.module:name`` or ``package.module.name``.

    Raises:
        UserError: the path, its module or the name in it is wrong, or the module cannot be
            imported: which of these.
    """
    module_name, colon, name = path.partition(":")
    if not colon:
        module_name, _, name = path.rpartition(".")
    if not is_path(f"{module_name}:{name}"):
        raise UserError(
            f"{option}={path!r} is not a path to Python code: write package.module:name"
        )
    module = _imported(option, path, module_name)
    if not hasattr(module, name):
        where = getattr(module, "__file__", None) or module_name
        raise UserError(f"{option}={path!r}: {where} does not define {name!r}")
    found = getattr(module, name)
    if not callable(found):
        raise UserError(
            f"{option}={path!r} is of type {type(found).__name__}: name a function or a class"
        )
    return found


def _imported(option: str, path: str, name: str) -> ModuleType:
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if f"{name}.".startswith(f"{missing}."):
            raise UserError(
                f"{option}={path!r}: there is no module {missing!r} in the current folder or among "
                "the installed packages"
            ) from error
        raise UserError(_failure(option, path, error)) from error
    except Exception as error:  # whatever a module of the user's raises is named in one line
        raise UserError(_failure(option, path, error)) from error


def _failure(option: str, path: str, error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = one_line(f"{type(error).__name__}: {error}")
    return f"{option}={path!r}: importing it failed at {last.filename}:{last.lineno}: {said}"
