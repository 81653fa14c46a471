"""The record of a training run: `resolved.yaml` and `step.json` in its output folder.

A second command on the same folder continues the run there, if it is the same run. An option that
does not change what a run computes says so in the metadata of its type, `Annotated[T, MAY_CHANGE]`:
a continued run may have another value for it. The metadata of its field would not do, because
transformers' parser passes all of that to argparse.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from shaped_eval.errors import UserError
from shaped_eval.records import write_atomic
from shaped_eval.untrusted.rows import check_field, is_count, read_object

from shaped_trl.recipes import LATER_FIELDS, RESOLVED, load, name_the_form

MAY_CHANGE = "a continued run may have another value"
# the sequences of an optimizer step, the completions of a generation batch, and the processes
STEP = "step.json"
# These options are never written down.
SECRET = ("hub_token", "push_to_hub_token")
# These options of transformers decide whether, where and how a run is pushed to the Hub.
PUSHING = (
    "push_to_hub",
    "hub_model_id",
    "hub_strategy",
    "hub_private_repo",
    "hub_always_push",
    "hub_revision",
)
# These options of transformers may change as well.
INHERITED = {
    "output_dir",
    "report_to",
    "disable_tqdm",
    "resume_from_checkpoint",
    "logging_dir",
    *PUSHING,
}
# These options divide the sequences of a step, and the completions of a generation batch, among
# processes and micro-batches. They may change as long as the two numbers stay the same.
DIVISION = {"per_device_train_batch_size", "gradient_accumulation_steps"}
GENERATION = {"steps_per_generation", "generation_batch_size"}


def may_change(option_classes: Sequence[type]) -> set[str]:
    """Names of the options that a continued run may change."""
    own = {
        name
        for option_class in option_classes
        for name, hint in get_type_hints(option_class, include_extras=True).items()
        if MAY_CHANGE in getattr(hint, "__metadata__", ())
    }
    return own | INHERITED


def record(
    settings: dict[str, Any],
    output_dir: str | Path,
    option_classes: Sequence[type],
    *,
    sequences: int | None = None,
    completions: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Write `resolved.yaml`, after checking that a run which is already there is the same one.

    Args:
        settings: the options of the recipe and of the command line, by name.
        output_dir: the run's folder.
        option_classes: the command's option classes, whose fields say what may change.
        sequences: number of sequences of an optimizer step on all `world` processes together. It is
            kept in `step.json`. As long as it stays the same, the number of processes may change.
        completions: number of completions of a generation batch in GRPO, likewise.
        rank: number of this process. All processes check; only process 0 writes.
        world: number of processes.

    Raises:
        UserError: `output_dir` holds a run with other settings, or cannot be written.
    """
    folder = Path(output_dir)
    settings = json.loads(json.dumps(settings, default=str))
    settings = {name: value for name, value in settings.items() if name not in SECRET}
    if (folder / RESOLVED).is_file() and _has_trained(folder):
        division = {"sequences": sequences, "completions": completions, "processes": world}
        _check_same_run(settings, folder, may_change(option_classes), division)
    if rank:
        return
    try:
        write_atomic(
            folder / RESOLVED, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        )
        if sequences:
            step = {"sequences": sequences, "processes": world}
            step |= {"completions": completions} if completions else {}
            write_atomic(folder / STEP, json.dumps(step) + "\n")
    except (NotADirectoryError, FileExistsError, FileNotFoundError, PermissionError) as error:
        raise UserError(
            f"output_dir={str(output_dir)!r} cannot be written: {error.strerror}"
        ) from error


def _has_trained(folder: Path) -> bool:
    return any(folder.glob("checkpoint-*")) or any(folder.glob("*.safetensors"))


def _check_same_run(
    settings: dict[str, Any], folder: Path, free: set[str], division: dict[str, int | None]
) -> None:
    if any(folder.glob("*.safetensors")):  # the run has ended, and its weights are saved
        free = free - {"save_dtype"}
    before = load(folder / RESOLVED)
    if "positive" in settings:
        before = LATER_FIELDS | name_the_form(before, settings["positive"])
        settings = LATER_FIELDS | settings
    known: dict[str, Any] = {}
    if division["sequences"] is not None and (folder / STEP).is_file():
        known = read_object(folder / STEP, _check_division)
        free = free | DIVISION | (GENERATION if "completions" in known else set())
    for name in sorted((set(before) | set(settings)) - free):
        if _value(before.get(name)) != _value(settings.get(name)):
            raise UserError(
                f"output_dir={str(folder)!r} holds a run with {name}={before.get(name)!r}, not "
                f"{settings.get(name)!r}: choose another --output_dir, or delete this folder to "
                "start again"
            )
    if known:
        _check_step(folder, known, division)


def _value(setting: Any) -> Any:
    """The setting; of a JSON object that is written as text, what it says, however it is spaced."""
    if not isinstance(setting, str) or not setting.lstrip().startswith("{"):
        return setting
    try:
        return json.loads(setting)
    except ValueError:  # YAML, or a text that only begins so
        return setting


def _check_step(folder: Path, before: dict[str, Any], now: dict[str, int | None]) -> None:
    for name, what, options in (
        (
            "sequences",
            "sequences a step",
            "per_device_train_batch_size × gradient_accumulation_steps so that a step has",
        ),
        (
            "completions",
            "completions a generation batch",
            "per_device_train_batch_size × steps_per_generation so that a generation batch has",
        ),
    ):
        if before.get(name, now[name]) != now[name]:
            raise UserError(
                f"output_dir={str(folder)!r} holds a run with {before[name]} {what} on "
                f"{before['processes']} processes, not {now[name]} on {now['processes']}: set "
                f"{options} {before[name]} {name} again, or choose another --output_dir"
            )


def _check_division(before: dict[str, Any]) -> None:
    for name in ("sequences", "processes", *(("completions",) if "completions" in before else ())):
        check_field(name, before.get(name), is_count, "a whole number")
