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
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from shaped_eval.errors import UserError
from shaped_eval.records import write_atomic
from shaped_eval.untrusted.rows import check_field, is_count, read_object
from shaped_eval.untrusted.yaml_files import read_mapping

from shaped_trl.launch import NAMES as LAUNCH

PACKAGED = Path(__file__).parent / "_recipes"
ROOT = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1] / "recipes"
RESOLVED = "resolved.yaml"
# whether, where and how a run is pushed
PUSHING = (
    "push_to_hub",
    "hub_model_id",
    "hub_strategy",
    "hub_private_repo",
    "hub_always_push",
    "hub_revision",
)
# never written down
SECRET = ("hub_token", "push_to_hub_token")
SCHEDULE = "shape_schedule"
ACCELERATE = "accelerate"  # the folder of accelerate's configurations, which are no recipes
RESULTS = "results"  # the folder of studies that were run
# how many sequences make an optimizer step, and on how many processes
STEP = "step.json"
# what divides a step's sequences among processes and micro-batches: free as long as their number
# stays
DIVISION = {"per_device_train_batch_size", "gradient_accumulation_steps"}
# options that do not change what a run computes: a second run may differ in them and still continue
# the first
FREE = {
    *LAUNCH,
    "output_dir",
    "hub_mirror",
    "report_to",
    "disable_tqdm",
    "resume_from_checkpoint",
    "logging_dir",
    "on_bad_loss",
    "loss_spike",
    "on_no_signal",
    "no_signal_patience",
    "audit_reward",
    "audit_threshold",
    "audit_prompts",
    *PUSHING,
    "hub_license",
    "eval_benchmarks",
    "eval_benchmark_steps",
    "eval_benchmark_n",
    "eval_benchmark_limit",
    "eval_benchmark_max_new_tokens",
    "eval_benchmark_chat_template",
}
# what a published recipe leaves out: places of one machine and of one account
PRIVATE = ("output_dir", "hub_mirror", "logging_dir", "resume_from_checkpoint", *PUSHING, *SECRET)
# options whose text is no path, whatever it begins with
TEXTS = re.compile(r".*(_template|_pattern|_prompt)$")
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


def load(path: Path) -> dict[str, Any]:
    """The mapping of a YAML recipe, `shape:` not yet expanded.

    Raises:
        UserError: not YAML, a key twice, or not a mapping.
    """
    return read_mapping(path, "config")


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
        self.parser.add_argument("--shape", default=None)
        self.parser.error = _refuse
        self.names = {action.dest for action in self.parser._actions}

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


def record(
    settings: dict[str, Any],
    output_dir: str | Path,
    *,
    sequences: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Write `resolved.yaml`, after a check that the run already there, if any, is the same one.

    Args:
        sequences: of an optimizer step on all `world` processes; kept beside, in `step.json`. Where
            it stays, the number of processes may be another.
        rank: the first process writes, all check.

    Raises:
        UserError: `output_dir` holds a run with other settings.
    """
    folder = Path(output_dir)
    path = folder / RESOLVED
    trained = any(folder.glob("checkpoint-*")) or any(folder.glob("*.safetensors"))
    settings = json.loads(json.dumps(settings, default=str))
    settings = {name: value for name, value in settings.items() if name not in SECRET}
    if path.is_file() and trained:
        before = load(path)
        if "positive" in settings:
            before = name_the_form(before, settings["positive"])
        free = FREE | (DIVISION if sequences and (folder / STEP).is_file() else set())
        for name in sorted((set(before) | set(settings)) - free):
            if before.get(name) != settings.get(name):
                raise UserError(
                    f"output_dir={str(output_dir)!r} holds a run with {name}={before.get(name)!r}, not "
                    f"{settings.get(name)!r}: choose another --output_dir, or delete it to start again"
                )
        if free > FREE:
            _check_step(folder, sequences, world)
    if rank:
        return
    try:
        write_atomic(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        if sequences:
            write_atomic(
                folder / STEP, json.dumps({"sequences": sequences, "processes": world}) + "\n"
            )
    except (NotADirectoryError, FileExistsError, FileNotFoundError, PermissionError) as error:
        raise UserError(
            f"output_dir={str(output_dir)!r} cannot be written: {error.strerror}"
        ) from error


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


def public_recipe(text: str) -> str:
    """A `resolved.yaml` for others to read: without folders of this machine, local files by their
    own name."""
    settings = _opened(yaml.safe_load(text) or {})
    names = local_paths(settings)
    shown = {
        name: _renamed(value, names) for name, value in settings.items() if name not in PRIVATE
    }
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def local_paths(settings: dict[str, Any]) -> dict[str, str]:
    """Each path of this machine among the settings, with the name of its last part."""
    return {value: Path(value).name for value in _strings(_opened(settings)) if _is_local(value)}


def _opened(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, with nested options that the command line gave as text as the mappings and
    lists that they are."""
    opened = dict(settings)
    for name, value in settings.items():
        if (
            isinstance(value, str)
            and value.lstrip().startswith(("[", "{"))
            and not TEXTS.match(name)
        ):
            try:
                parsed = yaml.safe_load(value)
            except yaml.YAMLError:
                continue
            opened[name] = parsed if isinstance(parsed, dict | list) else value
    return opened


def _is_local(value: str) -> bool:
    if "/" not in value.rstrip("/") or "\n" in value or "://" in value:
        return False
    return value.startswith(("/", "~", "./", "../")) or os.path.exists(value)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        if "," in value:  # names and files of benchmarks stand in one text
            yield from value.split(",")
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not TEXTS.match(str(name)):
                yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, str):
        parts = value.split(",")
        return names.get(value) or ",".join(names.get(part, part) for part in parts)
    if isinstance(value, dict):
        return {name: _renamed(inner, names) for name, inner in value.items()}
    return [_renamed(inner, names) for inner in value] if isinstance(value, list) else value


def _check_division(before: dict[str, Any]) -> None:
    for name in ("sequences", "processes"):
        check_field(name, before.get(name), is_count, "a whole number")


def _check_step(folder: Path, sequences: int | None, world: int) -> None:
    before = read_object(folder / STEP, _check_division)
    if before["sequences"] != sequences:
        raise UserError(
            f"output_dir={str(folder)!r} holds a run with {before['sequences']} sequences a step on "
            f"{before['processes']} processes, not {sequences} on {world}: set per_device_train_batch_size × "
            f"gradient_accumulation_steps so that they are {before['sequences']} again, or choose another --output_dir"
        )
