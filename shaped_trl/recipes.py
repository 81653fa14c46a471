"""Recipes: found by path or shipped name, listed, copied, and resolved with the command line into
options.

A recipe is a flat YAML mapping of option names. Its first comment line is its contract. `shape:
NAME` (or `--shape NAME`) stands for the fields of a preset; a field written beside it wins.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from shaped_eval.errors import UserError

PACKAGED = Path(__file__).parent / "_recipes"
ROOT = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1] / "recipes"
RESOLVED = "resolved.yaml"
SCHEDULE = "shape_schedule"
ACCELERATE = "accelerate"  # the folder of accelerate's configurations, which are no recipes
RESULTS = "results"  # the folder of studies that were run
SHAPE_HELP = (
    "Preset of the shape: cross_entropy; precision or diversity (β in the exponent form, the "
    "paper's Eq. 11); precision_product or diversity_product (in the product form, this project's "
    "variant); tail_penalty; head_reward. The options of the shape override it."
)
# options of which one is given: on the command line it replaces the recipe's other one
_PAIRS = (("benchmarks", "suite"), ("dataset_test_split", "num_heldout"))
ALTERNATIVES = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}


def names() -> list[str]:
    """Names of the shipped recipes: their path below `recipes/` without .yaml."""
    found = [path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.yaml")]
    return sorted(
        str(name) for name in found if name.parts[0] != ACCELERATE and RESULTS not in name.parts
    )


def contract(name: str) -> str:
    """The first comment line of a shipped recipe."""
    return (ROOT / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def find(recipe: str) -> Path:
    """The file of a recipe given by path or shipped name.

    Raises:
        UserError: neither, with the nearest shipped names.
    """
    shipped = ROOT / f"{recipe.removesuffix('.yaml').removeprefix('recipes/')}.yaml"
    for path in (Path(recipe), shipped):
        if path.is_file():
            return path
    close = difflib.get_close_matches(recipe, names(), n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(
        f"config={recipe!r}: no such file or recipe; {hint}`shaped-trl recipes` lists what is shipped"
    )


def copy(name: str, destination: Path) -> Path:
    """Copy a shipped recipe into `destination` (a folder); never over a file that is there."""
    source = find(name)
    target = destination / source.name
    if target.exists():
        raise UserError(f"{target} exists: remove it first, or copy from another folder")
    shutil.copy(source, target)
    return target


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which PyYAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [
            key.value
            for key, _ in node.value
            if isinstance(key, yaml.ScalarNode) and key.value != "<<"
        ]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def load(path: Path) -> dict[str, Any]:
    """The mapping of a YAML recipe, `shape:` not yet expanded.

    Raises:
        UserError: not YAML, a key twice, or not a mapping.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"config={str(path)!r} is not YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(settings, dict):
        raise UserError(f"config={str(path)!r} must be a mapping of option names to values")
    return settings


def expand_shape(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace `shape: NAME` by the preset's fields; fields that stand beside it win."""
    if "shape" not in settings:
        return settings
    from shaped_kernels import RewardShape

    rest = {name: value for name, value in settings.items() if name != "shape"}
    try:
        preset = RewardShape.preset(settings["shape"])
    except ValueError as error:
        raise UserError(str(error)) from error
    return {**asdict(preset), **rest}


class Parser:
    """Options of one command: dataclasses, filled from a recipe and the command line.

    Args:
        command: the command's name, for messages.
        dataclass_types: option classes whose fields are the allowed names.
    """

    def __init__(self, command: str, dataclass_types: Sequence[type]):
        from trl import TrlParser

        self.command = command
        self.parser = TrlParser(list(dataclass_types), allow_abbrev=False, add_help=False)
        self.parser.error = _refuse
        self.names = {action.dest for action in self.parser._actions}
        if "lambda_tail" in self.names:  # the command has the fields that a preset stands for
            self.parser.add_argument("--shape", metavar="PRESET", help=SHAPE_HELP)
            self.names.add("shape")

    def overrides(self, argv: Sequence[str]) -> dict[str, Any]:
        """What the command line says, by option name.

        Raises:
            UserError: an unknown flag or a value of the wrong type.
        """
        # by action, not by name: a flag and its --no_ twin share a name and differ in their default
        before = [(action, action.default, action.required) for action in self.parser._actions]
        for action in self.parser._actions:
            action.default, action.required = argparse.SUPPRESS, False
        given, unknown = self.parser.parse_known_args(list(argv))
        for action, default, required in before:
            action.default, action.required = default, required
        if unknown:
            self._refuse_name(unknown[0].split("=")[0], "flag", "--")
        return vars(given)

    def settings(self, config: str | None, argv: Sequence[str]) -> dict[str, Any]:
        """What the recipe and the command line say, by option name; the latter wins.

        Raises:
            UserError: an unknown key or flag, or a flag's value of the wrong type.
        """
        path = find(config) if config else None
        settings: dict[str, Any] = load(path) if path else {}
        if path and path.name == RESOLVED and "positive" in self.names:
            settings = name_the_form(settings)
        for name, value in settings.pop("env", {}).items():
            os.environ[name] = str(value)
        for name in settings:
            if name not in self.names:
                self._refuse_name(name, f"key of {config}", "")
        given = expand_shape(self.overrides(argv))
        for name, other in ALTERNATIVES.items():
            if given.get(name) and other in settings:
                settings[other] = "" if other in ("benchmarks", "suite") else None
        return {**expand_shape(settings), **given}

    def resolve(self, config: str | None, argv: Sequence[str]) -> tuple[tuple, dict[str, Any]]:
        """Options objects, and the settings (recipe and overrides) they came from.

        Raises:
            UserError: an unknown key or flag, or a value that an option class refuses.
        """
        settings = self.settings(config, argv)
        self.parser.set_defaults_with_config(**settings)
        try:
            parsed = self.parser.parse_args_into_dataclasses(args=[], look_for_args_file=False)
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.command}: {error}") from error
        return tuple(parsed[: len(self.parser.dataclass_types)]), settings

    def _refuse_name(self, name: str, what: str, prefix: str) -> None:
        close = difflib.get_close_matches(name.removeprefix("--"), self.names, n=1)
        hint = (
            f"did you mean {prefix}{close[0]}?"
            if close
            else f"`shaped-trl {self.command} --help` lists them"
        )
        raise UserError(f"{self.command}: unknown {what}: {name}; {hint}")


def _refuse(message: str) -> None:
    raise UserError(message)


def schedules_beta(settings: Mapping[str, Any]) -> bool:
    """Whether settings of a training have a schedule of β, which is a mapping or JSON."""
    return '"beta"' in json.dumps(settings.get(SCHEDULE)).replace("\\", "")


def name_the_form(resolved: dict[str, Any], otherwise: str | None = None) -> dict[str, Any]:
    """The settings of a `resolved.yaml` of a training, with its form of β.

    A file without one is of a time when the product was the default. Where β does not act, no form
    does: then it gets the form `otherwise`, if any, so that a continued run need not name the old
    default.
    """
    if "positive" in resolved:
        return resolved
    form = "product" if resolved.get("beta") or schedules_beta(resolved) else otherwise
    return {**resolved, "positive": form} if form else resolved
