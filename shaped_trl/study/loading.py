"""Reads studies from YAML files, and checks them before anything runs.

Torch is imported only when a shape is checked.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.running_sums import ASKED, RunningSums
from shaped_eval.benchmarks.running_sums import NAME as RUNNING_SUMS
from shaped_eval.errors import UserError
from shaped_eval.untrusted.rows import shortened

from shaped_trl import recipes
from shaped_trl.recipes import SCHEDULE, schedules_beta
from shaped_trl.study.arm_checks import check_args, check_arms
from shaped_trl.study.checks import at_least_one as _at_least_one
from shaped_trl.study.checks import check_keys as _check_keys
from shaped_trl.study.checks import check_kinds as _check_kinds
from shaped_trl.study.checks import mapping as _mapping
from shaped_trl.study.checks import named as _named
from shaped_trl.study.checks import positive as _positive
from shaped_trl.study.checks import share as _share
from shaped_trl.study.contrasts_loading import read_contrasts
from shaped_trl.study.definition import (
    ARGS,
    DEFAULT_FORMS,
    DIVIDED,
    OUTPUT_FLAGS,
    PREPARATIONS,
    SEEDS,
    SHAPE_OF_ARM,
    TEMPERATURE,
    VERSION,
    Arm,
    Preparation,
    Stage,
    Study,
)
from shaped_trl.study.records import EARLIER, RECORDS
from shaped_trl.study.state import PLANNED


def load_study(path: str | Path, out: str | Path | None = None) -> Study:
    """Read and check a study file or a shipped study.

    Its results go to `out`, by default a folder with its name.

    Raises:
        UserError: a key is unknown or missing; a value is of the wrong type or out of range; or a
            stage or arm builds on one that does not exist.
    """
    file = recipes.find(str(path), "study")
    values = recipes.load(file, "study")
    default_form = _default_form(
        str(path), values.pop("version", 1 if _is_resolved(file) else VERSION)
    )
    allowed = tuple(
        field.name for field in fields(Study) if field.name not in ("out", "regime", "places")
    )
    _check_keys(str(path), values, allowed, required=("name", "baseline", "arms", "stages"))
    _check_kinds("", values, baseline=str)
    arms = {
        _named("arm", arm): _arm(arm, value, default_form)
        for arm, value in _mapping("arms", values["arms"]).items()
    }
    stages: dict[str, Stage] = {}
    for stage, value in _mapping("stages", values["stages"]).items():
        for name, each in _by_temperature(_named("stage", stage), value):
            if name in stages:
                raise UserError(f"stages.{stage}: there are two stages {name}; rename one")
            stages[name] = _stage(name, each, stages)
    if not arms or not stages:
        raise UserError(f"{path}: a study needs at least one arm and one stage")
    regimes = _mapping("regimes", values.get("regimes") or {})
    seeds = _seeds("seeds", values.get("seeds", [0]))
    study = Study(
        name=_named("name", values["name"]),
        out=Path(out if out is not None else values["name"]).absolute(),
        seeds=seeds,
        baseline=values["baseline"],
        max_parallel=_at_least_one("max_parallel", values.get("max_parallel", 1)),
        nll_within=_share("nll_within", values.get("nll_within", 0.05)),
        prepare=_preparation("prepare", values.get("prepare")),
        regimes={
            _named("regime", name): _regime(f"regimes.{name}", value, stages, seeds)
            for name, value in regimes.items()
        },
        arms=arms,
        stages=stages,
    )
    check_arms(study)
    for view in study.each_regime():
        for arm in view.arms:
            for seed in view.seeds_of(arm)[:1]:
                _check_preparation(arm, view.preparation(arm, seed))
    return replace(study, contrasts=read_contrasts(values.get("contrasts"), study))


def _is_resolved(file: Path) -> bool:
    """Whether the file was written by a study into its folder, and not by hand."""
    return file.name == "study.yaml" and any(
        (file.parent / name).exists() for name in (PLANNED, RECORDS, EARLIER)
    )


def _default_form(where: str, version: Any) -> str:
    """The default form of β for this version of a resolved study."""
    if type(version) is not int or version not in DEFAULT_FORMS:
        known = ", ".join(map(str, DEFAULT_FORMS))
        raise UserError(
            f"{where}: version {shortened(version)} is unknown here; this shaped-trl reads {known}"
        )
    return DEFAULT_FORMS[version]


def _arm(name: str, value: Any, default_form: str) -> Arm:
    where = f"arms.{name}"
    value = _mapping(where, value or {})
    _check_keys(where, value, tuple(f.name for f in fields(Arm)))
    _check_kinds(
        f"{where}.",
        value,
        checkpoint_of=str,
        entropy_of=str,
        matched_on=str,
        head_divided=bool,
        exploratory=bool,
    )
    shape = _shape(f"{where}.shape", value.get("shape"), {})
    shape_in = {
        regime: _shape(f"{where}.shape_in.{regime}", fields_there, shape)
        for regime, fields_there in _mapping(
            f"{where}.shape_in", value.get("shape_in") or {}
        ).items()
    }
    args = _mapping(f"{where}.args", value.get("args") or {})
    args = {stage: _mapping(f"{where}.args.{stage}", options) for stage, options in args.items()}
    seeds = _seeds(f"{where}.seeds", value["seeds"]) if value.get("seeds") else ()
    prepare = _preparation(f"{where}.prepare", value.get("prepare"))
    shapes = [shape, *(shape_in.values() if shape else ())]
    if any(each.get("beta") for each in shapes) or any(map(schedules_beta, args.values())):
        # Set explicitly, so that every record names the form.
        shape = {**shape, "positive": shape.get("positive", default_form)}
    read = {"shape": shape, "shape_in": shape_in, "args": args, "seeds": seeds, "prepare": prepare}
    return Arm(**{**value, **read})


def _shape(where: str, value: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a shape, which are valid together with those of `base`."""
    from shaped_kernels import RewardShape

    shape = _mapping(where, value or {})
    _check_keys(where, shape, tuple(f.name for f in fields(RewardShape)))
    try:
        RewardShape(**{**base, **shape})
    # The message already names field, value and remedy.
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return shape


def _by_temperature(name: str, value: Any) -> list[tuple[str, Any]]:
    """A stage of a study file, or one stage for each of its temperatures."""
    given = value.get("temperature") if isinstance(value, Mapping) else None
    if not isinstance(given, list):
        return [(name, value)]
    if not given:
        raise UserError(f"stages.{name}.temperature: the list is empty; give one, or leave it out")
    for each in given:
        _positive(f"stages.{name}.temperature", each)
    return [(f"{name}-t{each:g}", {**value, "temperature": each}) for each in given]


def _stage(name: str, value: Any, earlier: dict[str, Stage]) -> Stage:
    where = f"stages.{name}"
    value = _mapping(where, value)
    _check_keys(where, value, tuple(f.name for f in fields(Stage)), required=("command", "config"))
    _check_kinds(f"{where}.", value, command=str, config=str, model=str, shaped=bool, shared=bool)
    if name.split("-")[0] in (TEMPERATURE, DIVIDED):
        raise UserError(
            f"{where}: this name is reserved for the stages that a study adds; choose another one"
        )
    stage = Stage(**{**value, "args": _mapping(f"{where}.args", value.get("args") or {})})
    if stage.command not in OUTPUT_FLAGS:
        raise UserError(
            f"{where}.command: {stage.command!r}; choose one of {', '.join(OUTPUT_FLAGS)}"
        )
    if stage.shaped and stage.command != "train":
        raise UserError(
            f"{where}.shaped: only train takes a shape, but this is {stage.command}; leave it out"
        )
    if stage.shared and (stage.command != "train" or stage.shaped):
        raise UserError(
            f"{where}.shared: only a train stage without shaped can be the same for all arms"
        )
    if stage.shared and stage.model in earlier and not earlier[stage.model].shared:
        raise UserError(
            f"{where}.shared: {stage.model}, from which it starts, is not shared: all arms would "
            "lose what that stage did"
        )
    trained = [key for key, other in earlier.items() if other.command != "eval"]
    if stage.model is not None and stage.model not in trained:
        known = ", ".join(trained) or "none"
        raise UserError(
            f"{where}.model: {stage.model!r} is not an earlier train or rlvr stage; there are: "
            f"{known}"
        )
    if stage.command == "eval" and stage.model is None:
        raise UserError(f"{where}.model: missing; name the stage whose model is to be measured")
    check_args(f"{where}.args", stage.args, stage, (*SHAPE_OF_ARM, SCHEDULE))
    if stage.temperature is not None and stage.command != "eval":
        raise UserError(
            f"{where}.temperature: only eval decodes at a temperature of its own, but this is "
            f"{stage.command}; leave it out, or set an option in args"
        )
    if stage.temperature is not None:
        _positive(f"{where}.temperature", stage.temperature)
    if stage.seconds is not None:
        _positive(f"{where}.seconds", stage.seconds)
    return stage


def _check_preparation(arm: str, prepare: Preparation) -> None:
    """Check the options of the data without writing it."""
    if len(prepare) > 1:
        raise UserError(
            f"prepare: {' and '.join(prepare)} would write the same files for {arm}; give only one"
        )
    for name, options in prepare.items():
        # Problems of the corpus's own have its options; the benchmark has its defaults.
        for key in ASKED if name == RUNNING_SUMS and not options.get("problems") else ():
            if options.get(key, getattr(RunningSums, key)) != getattr(RunningSums, key):
                raise UserError(
                    f"prepare.{name}.{key}: the benchmark {name} needs {getattr(RunningSums, key)}"
                )
        try:
            importlib.import_module(f"shaped_trl.data.{name}").write_corpus(None, **options)
        except UserError as error:
            raise UserError(f"prepare.{name}: {error}") from error


def _preparation(where: str, value: Any) -> Preparation:
    prepare = _mapping(where, value or {})
    _check_keys(where, prepare, PREPARATIONS)
    return {key: _mapping(f"{where}.{key}", options or {}) for key, options in prepare.items()}


def _regime(
    where: str, value: Any, stages: Mapping[str, Stage], seeds: tuple[int, ...]
) -> dict[str, Any]:
    """Check a regime: options of data and, in `args`, of the stages' commands; and its seeds."""
    value = _mapping(where, value or {})
    own = _seeds(f"{where}.{SEEDS}", value.pop(SEEDS, list(seeds)))
    if set(own) - set(seeds):
        raise UserError(f"{where}.{SEEDS}: the study does not have all of these; it has {seeds}")
    args = _mapping(f"{where}.{ARGS}", value.pop(ARGS, None) or {})
    for stage, options in args.items():
        if stage not in stages:
            raise UserError(
                f"{where}.{ARGS}: {stage!r} is not a stage; choose from {', '.join(stages)}"
            )
        check_args(
            f"{where}.{ARGS}.{stage}",
            _mapping(f"{where}.{ARGS}.{stage}", options),
            stages[stage],
            (*SHAPE_OF_ARM, SCHEDULE),
        )
    given = ({ARGS: args} if args else {}) | ({SEEDS: list(own)} if own != seeds else {})
    return _preparation(where, value) | given


def _seeds(where: str, seeds: Any) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(
            f"{where}: {shortened(seeds)}; give a list of distinct whole numbers, such as [0, 1]"
        )
    return tuple(seeds)
