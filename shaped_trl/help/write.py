"""Write the help pages anew, after an option or its help text has changed:

python -m shaped_trl.help.write
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from functools import partial

from shaped_trl.help.groups import GROUPS, INHERITED
from shaped_trl.help.intro import INTRO
from shaped_trl.help.show import HEADING, OPTION, PAGES, TEXT
from shaped_trl.options import eval_options, rlvr_options, sample_options, train_options
from shaped_trl.recipes import Parser

OPTIONS: dict[str, Callable[[], list[type]]] = {
    "train": train_options,
    "rlvr": rlvr_options,
    "rlvr-async": partial(rlvr_options, asynchronous=True),
    "eval": eval_options,
    "sample": sample_options,
}
CONFIG = "YAML file of options, or the name of a shipped recipe."
MOST_CHOICES = 6  # of which all are listed


class Page:
    """The help page of one command, made from its parser."""

    def __init__(self, command: str):
        self.command = command
        self.classes = OPTIONS[command]()
        parser = Parser(command, self.classes).parser
        # `--no_x`, the twin of a flag that is on by default, comes second and is left out
        self.actions = {action.dest: action for action in reversed(parser._actions)}
        self.own = dict(_own_fields(self.classes))

    def text(self) -> str:
        """The page that is committed."""
        lines = [INTRO[self.command]]
        for heading, names in self.groups():
            lines += self._section(heading, names)
        return "\n".join(lines) + "\n"

    def rest(self) -> str:
        """The options that the page leaves to `--help all`: those of TRL and transformers."""
        listed = {name for _, names in self.groups() for name in names}
        lines: list[str] = []
        for heading, names in _declared_elsewhere(self.classes):
            left = [name for name in names if name in self.actions and name not in listed]
            listed.update(left)
            lines += self._section(heading, left) if left else []
        return "\n".join(lines) + "\n" if lines else ""

    def groups(self) -> Iterator[tuple[str, list[str]]]:
        """Headings and the names of their options.

        Raises:
            ValueError: an option of ours belongs to no group.
        """
        listed = {name for group in GROUPS[self.command] for name in group.names.split()}
        covered = set(listed)
        for group in GROUPS[self.command]:
            more = [name for name, owner in self.own.items() if owner in group.classes]
            names = [*group.names.split(), *(name for name in more if name not in listed)]
            covered.update(names)
            yield group.heading, names
        if missing := sorted(self.own.keys() - covered):
            raise ValueError(f"{self.command}: no group of shaped_trl/help/groups.py has {missing}")

    def _section(self, heading: str, names: Iterable[str]) -> list[str]:
        lines = [f"{HEADING}{heading}"]
        for name in names:
            if name == "config":
                lines += [f"{OPTION}config RECIPE", f"{TEXT}{CONFIG}"]
                continue
            action = self.actions[name]
            shown = "" if name in self.own else INHERITED.get(name, "")
            lines.append(f"{OPTION}{name} {_value(action)}{_default(action)}")
            lines.append(TEXT + (shown or _one_line(action.help)))
        return [*lines, ""]


def _own_fields(option_classes: Iterable[type]) -> Iterator[tuple[str, str]]:
    """Name of each option that this project declares, and the class that declares it."""
    for option_class in option_classes:
        options = {field.name for field in fields(option_class) if field.init}
        for base in reversed(option_class.__mro__):
            if base.__module__.startswith("shaped_"):
                for name in inspect.get_annotations(base):
                    if name in options:
                        yield name, base.__name__


def _declared_elsewhere(option_classes: Iterable[type]) -> Iterator[tuple[str, list[str]]]:
    for option_class in option_classes:
        for base in option_class.__mro__:
            package = base.__module__.partition(".")[0]
            if package in ("trl", "transformers"):
                yield f"{base.__name__} ({package})", list(inspect.get_annotations(base))


def _value(action: argparse.Action) -> str:
    """What follows the option's name."""
    if action.metavar:
        return str(action.metavar)
    if action.choices and len(list(action.choices)) <= MOST_CHOICES:
        return "{" + ",".join(map(str, action.choices)) + "}"
    word = {"int": "INT", "float": "FLOAT", "string_to_bool": "BOOL"}
    name = word.get(getattr(action.type, "__name__", ""), "TEXT")
    return f"{name} ..." if action.nargs == "+" else name


def _default(action: argparse.Action) -> str:
    if action.default in (None, "", []):
        return ""
    shown = getattr(action.default, "value", action.default)
    return f" [{str(shown).lower() if isinstance(shown, bool) else shown}]"


def _one_line(text: str | None) -> str:
    return " ".join((text or "").replace("%%", "%").split())


def main() -> int:
    for command in OPTIONS:
        (PAGES / f"{command}.txt").write_text(Page(command).text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
