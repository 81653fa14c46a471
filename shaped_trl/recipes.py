"""Recipes: find, list and copy them, and turn them and the command line into options.

A recipe is a flat YAML mapping of option names to values. Its first line is a comment that says
what it does: its contract. `shape: NAME` (or `--shape NAME`) stands for the fields of a preset; a
field that is given beside it overrides the preset.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from shaped_eval.errors import UserError
from shaped_eval.untrusted.rows import shortened
from shaped_eval.untrusted.yaml_files import read_mapping

PACKAGED = Path(__file__).parent / "_recipes"
ROOT = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1] / "recipes"
RESOLVED = "resolved.yaml"
SCHEDULE = "shape_schedule"
ACCELERATE = "accelerate"  # the folder of accelerate's configurations, which are not recipes
STUDIES = "studies/"  # how the names of studies begin
RESULTS = "results"  # the folder of the results of studies
SHAPE_HELP = (
    "Preset of the loss. cross_entropy is the default. precision sharpens the distribution and "
    "diversity keeps it broad (β in the exponent form, the paper's Eq. 11). precision_product and "
    "diversity_product do so in the product form, this project's variant. tail_penalty takes "
    "probability from the tokens outside the top_k. head_reward gives some to those inside. Five "
    "are from other papers. dft weighs a target by its probability. neg_p weighs it by a power of "
    "its probability, --alpha. profit leaves out targets below a probability, --threshold. eaft "
    "weighs a target by the entropy of the 20 likeliest tokens. gem computes the loss at another "
    "temperature, --loss_temperature, which keeps the distribution broad. Options such as --beta "
    "override single values of a preset."
)
# Fields of a shape that older runs do not name even if they name a preset, and their defaults.
LATER_FIELDS = {"threshold": 0.0, "loss_temperature": 1.0}
# Of these pairs only one is given. On the command line it replaces the other one of the recipe.
_PAIRS = (("benchmarks", "suite"), ("dataset_test_split", "num_heldout"))
ALTERNATIVES = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
# The environment variables that a recipe's key `env` may set. Others decide which code runs, which
# servers are asked, or what a sandbox permits, and a recipe may be somebody else's.
ENVIRONMENT = ("VLLM_ALLOW_LONG_MAX_MODEL_LEN",)
# The types that a recipe's value is checked for, and their words.
PLAIN = {bool, int, float, str, list, type(None)}
TYPE_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
}
NO_IS_A_WORD = ("save_strategy", "eval_strategy", "logging_strategy")


def names() -> list[str]:
    """Names of the shipped recipes: their paths below `recipes/`, without .yaml."""
    found = [path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.yaml")]
    return sorted(
        str(name) for name in found if name.parts[0] != ACCELERATE and RESULTS not in name.parts
    )


def contract(name: str) -> str:
    """The first comment line of a shipped recipe."""
    return (ROOT / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def find(recipe: str, field: str = "config") -> Path:
    """The file of a recipe or a study.

    Args:
        recipe: its path, or its shipped name.
        field: the argument that names it, for the error.

    Raises:
        UserError: there is neither such a file nor such a name. The error has the nearest name.
    """
    shipped = ROOT / f"{recipe.removesuffix('.yaml').removeprefix('recipes/')}.yaml"
    for path in (Path(recipe), shipped):
        if path.is_file():
            return path
    known = [name for name in names() if field != "study" or name.startswith(STUDIES)]
    close = difflib.get_close_matches(recipe, known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise UserError(
        f"{field}={recipe!r}: no such file or recipe; {hint}`shaped-trl recipes` lists the shipped "
        "ones"
    )


def copy(name: str, destination: Path) -> Path:
    """Copy a shipped recipe into the folder `destination`, and return its new path.

    Raises:
        UserError: there is no such recipe, or a file of that name is there already.
    """
    source = find(name, "name")
    target = destination / source.name
    if target.exists():
        raise UserError(f"{target} exists: remove it first, or copy from another folder")
    shutil.copy(source, target)
    return target


def load(path: Path, field: str = "config") -> dict[str, Any]:
    """The mapping of a YAML recipe, in which `shape:` is not expanded yet.

    Args:
        path: the file.
        field: the argument that names it, for the error.

    Raises:
        UserError: the file is not YAML, has a key twice, or is not a mapping.
    """
    return read_mapping(path, field)


def expand_shape(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace `shape: NAME` by the fields of the preset; fields that are given beside it win.

    Raises:
        UserError: there is no such preset.
    """
    if "shape" not in settings:
        return settings
    from shaped_kernels import RewardShape

    rest = {name: value for name, value in settings.items() if name != "shape"}
    if not isinstance(settings["shape"], str):
        raise UserError(f"shape={shortened(settings['shape'])} must be the name of a preset")
    try:
        preset = RewardShape.preset(settings["shape"])
    except ValueError as error:
        raise UserError(str(error)) from error
    return {**asdict(preset), **rest}


class Parser:
    """Fills the option classes of one command from a recipe and the command line.

    Args:
        command: the command's name, for error messages.
        dataclass_types: option classes. The names of their fields are the allowed options.
        elsewhere: gives options that the command does not have, and what to say of them.
    """

    def __init__(
        self,
        command: str,
        dataclass_types: Sequence[type],
        elsewhere: Callable[[], Mapping[str, str]] = dict,
    ):
        from trl import TrlParser

        self.command = command
        self.elsewhere = elsewhere
        self.types = {
            name: {*plain_types(hint)}
            for option_class in dataclass_types
            for name, hint in get_type_hints(option_class).items()
        }
        self.parser = TrlParser(list(dataclass_types), allow_abbrev=False, add_help=False)
        self.parser.error = _refuse
        self.names = {action.dest for action in self.parser._actions}
        if "lambda_tail" in self.names:  # the command has the fields that a preset stands for
            self.parser.add_argument("--shape", metavar="PRESET", help=SHAPE_HELP)
            self.names.add("shape")

    def overrides(self, argv: Sequence[str]) -> dict[str, Any]:
        """The options on the command line, by name.

        Raises:
            UserError: a flag is unknown, or a value has the wrong type.
        """
        # By action, not by name: a flag and its --no_ twin share a name, but not the default.
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
        """The options of the recipe and of the command line, which wins, by name.

        Raises:
            UserError: a key or a flag is unknown, or the value of a flag has the wrong type.
        """
        path = find(config) if config else None
        settings: dict[str, Any] = load(path) if path else {}
        settings = {name: self._checked(name, value) for name, value in settings.items()}
        if path and path.name == RESOLVED and "positive" in self.names:
            settings = name_the_form(settings)
        _set_environment(settings.pop("env", {}))
        for name in settings:
            if name not in self.names:
                self._refuse_name(name, f"key of {config}", "")
        given = expand_shape(self.overrides(argv))
        for name, other in ALTERNATIVES.items():
            if given.get(name) and other in settings:
                settings[other] = "" if other in ("benchmarks", "suite") else None
        return {**expand_shape(settings), **given}

    def _checked(self, name: str, value: Any) -> Any:
        """The value of a recipe's key, if it is of a type that the option can have.

        YAML reads a plain `no` as false, which is "no" where that is one of the option's words. A
        text is left to argparse, which reads it as on the command line.

        Raises:
            UserError: it is of another type.
        """
        types = self.types.get(name, {Any})
        if value is None or isinstance(value, str | dict) or Any in types or not types <= PLAIN:
            return value
        if value is False and name in NO_IS_A_WORD:
            return "no"
        if type(value) in types or (type(value) is int and float in types):
            return value
        if type(value) is int and str in types:
            return value
        text = str in types and not isinstance(value, list)
        quotes = "; YAML reads a text so unless it is in quotes" if text else ""
        words = " or ".join(sorted(TYPE_WORDS[each] for each in types if each in TYPE_WORDS))
        raise UserError(f"{self.command}: {name}={value!r} is not {words}{quotes}")

    def resolve(self, config: str | None, argv: Sequence[str]) -> tuple[tuple, dict[str, Any]]:
        """The option objects, and the settings by name that they were made from.

        Raises:
            UserError: a key or a flag is unknown, or an option class refuses a value.
        """
        settings = self.settings(config, argv)
        self.parser.set_defaults_with_config(**settings)
        try:
            parsed = self.parser.parse_args_into_dataclasses(args=[], look_for_args_file=False)
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.command}: {error}") from error
        return tuple(parsed[: len(self.parser.dataclass_types)]), settings

    def _refuse_name(self, name: str, what: str, prefix: str) -> None:
        if (why := self.elsewhere().get(name.removeprefix("--"))) is not None:
            raise UserError(f"{self.command}: {name} {why}")
        close = difflib.get_close_matches(name.removeprefix("--"), self.names, n=1)
        hint = (
            f"did you mean {prefix}{close[0]}?"
            if close
            else f"`shaped-trl {self.command} --help all` lists all options"
        )
        raise UserError(f"{self.command}: unknown {what}: {name}; {hint}")


def plain_types(hint: Any) -> Iterator[Any]:
    """The types that a value with this type hint can have; of a parametrised one, its origin."""
    if get_origin(hint) in (Union, UnionType):
        for each in get_args(hint):
            yield from plain_types(each)
    elif get_origin(hint) is Literal:
        yield from map(type, get_args(hint))
    elif isinstance(hint, type) and issubclass(hint, Enum):
        yield str
    else:
        yield get_origin(hint) or hint


def _refuse(message: str) -> None:
    raise UserError(message)


def _set_environment(variables: Any) -> None:
    """Set the environment variables of a recipe's key `env`, of those in `ENVIRONMENT`.

    Raises:
        UserError: it is not a mapping, or names another variable than those of `ENVIRONMENT`.
    """
    if not isinstance(variables, dict):
        raise UserError(f"env={variables!r} must be a mapping of environment variables to values")
    for name in variables:
        if name not in ENVIRONMENT:
            raise UserError(
                f"env: a recipe cannot set {shortened(name)}, only {', '.join(ENVIRONMENT)}: set "
                "it in the shell"
            )
    for name, value in variables.items():
        os.environ[name] = str(value)


def schedules_beta(settings: Mapping[str, Any]) -> bool:
    """Whether the settings of a training schedule β. A schedule is a mapping or JSON."""
    return '"beta"' in json.dumps(settings.get(SCHEDULE)).replace("\\", "")


def name_the_form(resolved: dict[str, Any], otherwise: str | None = None) -> dict[str, Any]:
    """The settings of a training's `resolved.yaml`, with the form of β.

    A file that does not name the form was written when the product was the default. If β is 0, the
    form has no effect. The settings then get the form `otherwise`, if it is given, so that a
    continued run need not name the old default.
    """
    if "positive" in resolved:
        return resolved
    form = "product" if resolved.get("beta") or schedules_beta(resolved) else otherwise
    return {**resolved, "positive": form} if form else resolved
