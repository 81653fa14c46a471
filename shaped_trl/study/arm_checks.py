"""Checks what arms say about each other and about stages, and the options of stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.rows import shortened

from shaped_trl.study.checks import check_keys, positive
from shaped_trl.study.definition import (
    HELD_OUT,
    MODEL_FLAGS,
    OUTPUT_FLAGS,
    ROLLOUTS,
    SHAPE_OF_ARM,
    Arm,
    Stage,
    Study,
)


def check_arms(study: Study) -> None:
    """Check what arms say about each other and about stages.

    Raises:
        UserError: something does not fit; the message names the key, its value and what does.
    """
    if study.baseline not in study.arms:
        raise UserError(
            f"baseline: {study.baseline!r} is not an arm; choose one of {', '.join(study.arms)}"
        )
    for name, arm in study.arms.items():
        where = f"arms.{name}"
        _check_others(study, where, name)
        _check_own_models(study, where, arm)
        _check_matching(study, where, arm)
        _check_stages(study, where, name)
        _check_options(study, where, name)


def _check_others(study: Study, where: str, name: str) -> None:
    """Check the arms whose models this one uses or whose entropy it has."""
    for key in ("checkpoint_of", "entropy_of"):
        other = getattr(study.arms[name], key)
        if other is None:
            continue
        if other not in study.arms or study.arms[other].checkpoint_of or other == name:
            raise UserError(
                f"{where}.{key}: {other!r} is not another arm with its own models; the arms "
                f"are: {', '.join(study.arms)}"
            )
        if set(study.seeds_of(name)) - set(study.seeds_of(other)):
            raise UserError(
                f"{where}.seeds: {other} does not have all of these; choose from "
                f"{study.seeds_of(other)}"
            )


def _check_own_models(study: Study, where: str, arm: Arm) -> None:
    """Check that an arm has either models of its own or another arm's."""
    check_keys(f"{where}.shape_in", arm.shape_in, tuple(study.regimes))
    if arm.shape_in and not arm.shape:
        raise UserError(f"{where}.shape_in: it replaces fields of shape, which is missing")
    if arm.checkpoint_of and (arm.shape or arm.prepare):
        raise UserError(
            f"{where}: the arm uses the models of {arm.checkpoint_of}; leave out shape and prepare"
        )
    if arm.temperature is not None:
        positive(f"{where}.temperature", arm.temperature)
    if arm.temperature is not None and arm.entropy_of is not None:
        raise UserError(
            f"{where}: temperature and entropy_of both set its temperature; give one of them"
        )


def _check_stages(study: Study, where: str, name: str) -> None:
    """Check that an arm has the stages that its keys need."""
    arm = study.arms[name]
    if arm.shape and not any(
        each.shaped and study.runs_stage(name, stage) for stage, each in study.stages.items()
    ):
        raise UserError(
            f"{where}.shape: the arm has no stage of its own with shaped: true, so the shape "
            "would have no effect"
        )
    for stage, each in study.stages.items():
        measured = study.trained(name, stage), study.trained(arm.entropy_of or name, stage)
        if (
            arm.entropy_of
            and each.command != "train"
            and None in measured
            and study.runs_stage(name, stage)
        ):
            raise UserError(
                f"{where}.entropy_of: {stage} starts from no model that the study trains: name "
                "one in its model:"
            )
    shared = [stage for stage, each in study.stages.items() if each.shared]
    if shared and set(study.seeds_of(name)) - set(study.seeds_of(study.baseline)):
        raise UserError(
            f"{where}.seeds: {shared[0]} is shared, but {study.baseline} does not have all of "
            "these seeds"
        )


def _check_options(study: Study, where: str, name: str) -> None:
    """Check an arm's own options of the stages that it runs."""
    for stage, options in study.arms[name].args.items():
        if stage not in study.stages:
            raise UserError(
                f"{where}.args: {stage!r} is not a stage; choose from {', '.join(study.stages)}"
            )
        if study.stages[stage].shared and name != study.baseline:
            raise UserError(
                f"{where}.args: {stage} is shared by all arms, so an arm cannot have options for it"
            )
        if not study.runs_stage(name, stage):
            raise UserError(
                f"{where}.args: {study.arms[name].checkpoint_of} runs {stage} for this arm; leave "
                "it out"
            )
        check_args(f"{where}.args.{stage}", options, study.stages[stage], SHAPE_OF_ARM)


def _check_matching(study: Study, where: str, arm: Arm) -> None:
    """Check how an arm's temperature is found, and whether its head can be divided by it."""
    if arm.matched_on not in (HELD_OUT, ROLLOUTS):
        raise UserError(
            f"{where}.matched_on: {arm.matched_on!r}; choose one of {HELD_OUT}, {ROLLOUTS}"
        )
    if arm.matched_on == ROLLOUTS and arm.entropy_of is None:
        raise UserError(f"{where}.matched_on: there is no entropy_of to match; leave it out")
    if arm.matched_on == ROLLOUTS and not any(
        stage.command == "rlvr" for stage in study.stages.values()
    ):
        raise UserError(f"{where}.matched_on: rollouts need a stage with the command rlvr")
    if arm.head_divided and (
        not arm.checkpoint_of or (arm.temperature is None and arm.entropy_of is None)
    ):
        raise UserError(
            f"{where}.head_divided: name the model in checkpoint_of, and give temperature or "
            "entropy_of"
        )


def check_args(where: str, args: Mapping[str, Any], stage: Stage, shapes: Iterable[str]) -> None:
    """Check a stage's options; `shapes` are those that would bypass the shapes of the arms.

    They become words of a command line. So a key must be spelled as the option is, since argparse
    also takes output-dir for output_dir, and no value may be read as another option.
    """
    owned = (
        "seed",
        OUTPUT_FLAGS[stage.command],
        MODEL_FLAGS[stage.command] if stage.model else "seed",
        "temperature" if stage.temperature is not None else "seed",
    )
    for key, argument in args.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise UserError(
                f"{where}: {shortened(key)} is not the name of an option; write it as "
                f"`shaped-trl {stage.command} --help all` does, with underscores"
            )
        if key in owned:
            raise UserError(f"{where}.{key}: the study sets it; leave it out")
        if stage.shaped and key in shapes:
            raise UserError(
                f"{where}.{key}: it would bypass the arms' shapes; write it under shape: of an arm"
            )
        scalars = argument if isinstance(argument, list) else [argument]
        if not all(isinstance(scalar, str | int | float) for scalar in scalars):
            raise UserError(
                f"{where}.{key}: {shortened(argument)} is not a value or a list of values; put it "
                "into the recipe"
            )
        for scalar in scalars:
            if isinstance(scalar, str) and scalar.startswith("--"):
                raise UserError(
                    f"{where}.{key}: {shortened(scalar)} would be read as another option; give "
                    "each option as a key of its own"
                )
