"""`--help` and `--help all` of the commands that take a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the words after a command ask for its help: there are none, or one is --help."""
    return not argv or "-h" in argv or "--help" in argv


def print_help(command: str, argv: Sequence[str]) -> int:
    """Print what a command is for, and its options.

    `--help all` also prints the options of TRL and transformers that the page leaves out, and
    imports both for that.
    """
    from shaped_trl.help.show import print_page, read_page

    page = read_page(command)
    if any(pair in (("--help", "all"), ("-h", "all")) for pair in pairwise(argv)):
        from shaped_trl.help.write import Page

        page += Page(command).rest()
    print_page(page)
    return 0
