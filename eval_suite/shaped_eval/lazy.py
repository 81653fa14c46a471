"""Names of a package that are imported when they are first used (PEP 562).

An import of the package itself then costs nothing. The sandbox's fork server, which must not import
what a package exports, is not affected either.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

DISTRIBUTION = "shaped-trl"
UNKNOWN_VERSION = "0+unknown"  # of a checkout that is on the path but not installed


def version() -> str:
    """The version of the installed distribution."""
    from importlib import metadata  # takes longer to import than all the rest here

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return UNKNOWN_VERSION


def lazy_exports(
    package: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        exports: each public name, and the module that defines it. `__version__` is added.
    """

    def load(name: str) -> Any:
        if name == "__version__":
            return version()
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(exports[name]), name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *exports, "__version__"})

    return load, names
