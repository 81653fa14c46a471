"""`plan` turns a study into runs: one command line each, after the runs that it needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.rows import check_field, read_object

from shaped_trl import recipes
from shaped_trl.recipes import SCHEDULE, schedules_beta
from shaped_trl.study.arm_checks import check_args
from shaped_trl.study.contents import contents, files_inside, fingerprint
from shaped_trl.study.definition import (
    DEFAULT_FORMS,
    MODEL_FLAGS,
    OUTPUT_FLAGS,
    ROLLOUTS,
    SHAPE_OF_ARM,
    TEMPERATURE,
    VERSION,
    Stage,
    Study,
)
from shaped_trl.study.late import argument, bind, is_late, scaled

DATA = "{data}"
# The commands of runs that a study adds. `shaped_trl.study.running.temperature` finds a temperature
# and, for the second one, divides a head by it.
MATCH, DIVIDE = "match", "divide"
ADDED = (MATCH, DIVIDE)
FOUND = "temperature.json"


@dataclass(frozen=True)
class StudyRun:
    """One command line of a study.

    `out` is the study's folder. `settings` are those of its recipe, overridden by the command
    line. A number in `argv` may depend on a temperature that is still to be found (`bound`).
    `depends_on` are keys of earlier runs.
    """

    key: str
    arm: str
    seed: int
    stage: str
    command: str
    folder: Path
    out: Path
    argv: tuple[str, ...]
    depends_on: tuple[str, ...]
    settings: dict[str, Any]
    fingerprint: str
    regime: str
    seconds: float | None


def plan(study: Study) -> list[StudyRun]:
    """The runs of a study, each after those that it depends on.

    The order is by seed, regime, stage and arm.
    """
    files_inside.cache_clear()
    recipes_of = {name: _recipe(name, stage) for name, stage in study.stages.items()}
    runs: dict[str, StudyRun] = {}
    seeds = [*dict.fromkeys(seed for arm in study.arms for seed in study.seeds_of(arm))]
    for seed in seeds:
        for view in study.each_regime():
            for name in study.stages:
                for arm in study.arms:
                    if seed in view.seeds_of(arm) and study.runs_stage(arm, name):
                        for run in _runs(view, arm, seed, name, recipes_of, runs):
                            runs[run.key] = run
    return list(runs.values())


def _runs(
    study: Study,
    arm: str,
    seed: int,
    name: str,
    recipes_of: Mapping[str, dict[str, Any]],
    earlier: Mapping[str, StudyRun],
) -> Iterator[StudyRun]:
    """The run of a stage, after the run that the study adds before it if it needs one."""
    stage, own, recipe = study.stages[name], study.arms[arm], recipes_of[name]
    start = study.start(arm, name)
    settings: dict[str, Any] = {}
    if start:
        settings[MODEL_FLAGS[stage.command]] = str(study.folder(start[0], seed, start[1]))
    settings[OUTPUT_FLAGS[stage.command]] = str(study.folder(arm, seed, name))
    settings["seed"] = seed
    if stage.shaped:
        settings |= own.shape
    # A recipe does not know the path of a study's data, so its {data} values go to the command
    # line.
    settings |= {key: value for key, value in recipe.items() if _mentions_data(value)}
    settings |= study.options(arm, name)
    known = dict(earlier)
    if added := study.added_stage(arm, name):
        match = _added(study, arm, seed, added, recipes_of, earlier)
        if match.key not in earlier:
            known[match.key] = match
            yield match
    if stage.temperature is not None:
        settings["temperature"] = stage.temperature
    elif (
        stage.command != "train"
        and not own.head_divided
        and (own.entropy_of is not None or own.temperature is not None)
    ):
        settings |= scaled(stage, recipe | settings, own.temperature)
    data = study.data(arm, seed)
    settings = {key: _with_data(value, data) for key, value in settings.items()}
    argv = [stage.command, "--config", _config_argument(stage.config), *_flags(settings)]
    needs = [known[study.key(*_at(each, seed))] for each in study.needs(arm, name)]
    yield _run(study, arm, seed, name, stage.command, argv, needs, recipe, settings)


def _run(
    study: Study,
    arm: str,
    seed: int,
    name: str,
    command: str,
    argv: list[str],
    needs: list[StudyRun],
    recipe: dict[str, Any],
    settings: dict[str, Any],
) -> StudyRun:
    # The paths of the study's folder and of the user's own recipe are left out, so that a finished
    # study can be moved. The content of the recipe is included.
    config = study.stages[name].config if name in study.stages else ""
    named = {_config_argument(config): Path(config).name} if Path(config).is_file() else {}
    identity = [
        [named.get(word, word).replace(str(study.out), "{out}") for word in _without_product(argv)],
        recipe,
        study.preparation(arm, seed),
        [need.fingerprint for need in needs],
    ]
    if command == "train" and _leaves_the_form_open(recipe | settings):
        identity.append({"positive": DEFAULT_FORMS[VERSION]})
    if files := contents(study.out, recipe | settings):
        identity.append(files)
    return StudyRun(
        key=study.key(arm, seed, name),
        arm=arm,
        seed=seed,
        stage=name,
        command=command,
        folder=study.folder(arm, seed, name),
        out=study.out,
        argv=tuple(argv),
        depends_on=tuple(need.key for need in needs),
        settings=recipe | settings,
        fingerprint=fingerprint(identity),
        regime=study.regime,
        seconds=study.stages[name].seconds if name in study.stages else None,
    )


def _without_product(argv: Sequence[str]) -> list[str]:
    """The command line for a fingerprint, without `--positive product`.

    The product was the default when fingerprints began. Leaving it out preserves the fingerprints
    of runs from that time.
    """
    product = [argv[i : i + 2] == ["--positive", "product"] for i in range(len(argv))]
    return [each for i, each in enumerate(argv) if not (product[i] or (i and product[i - 1]))]


def _leaves_the_form_open(settings: Mapping[str, Any]) -> bool:
    """Whether β acts in the default form, which differed when fingerprints began."""
    from shaped_kernels import PRESETS

    shape = str(settings.get("shape", ""))
    beta = PRESETS[shape].beta if shape in PRESETS else 0
    return "positive" not in settings and bool(
        settings.get("beta", beta) or schedules_beta(settings)
    )


def _added(
    study: Study,
    arm: str,
    seed: int,
    name: str,
    recipes_of: Mapping[str, dict[str, Any]],
    earlier: Mapping[str, StudyRun],
) -> StudyRun:
    """The run that finds the arm's temperature or divides its head by it (`added_stage`)."""
    own = study.arms[arm]
    model, *like = study.needs(arm, name)
    argv = [DIVIDE if own.head_divided else MATCH, "--model", str(study.folder(*_at(model, seed)))]
    if like:
        argv += ["--like", str(study.folder(*_at(like[0], seed)))]
    else:
        argv += ["--temperature", argument(own.temperature)]
    argv += ["--out", str(study.folder(arm, seed, name))]
    if own.matched_on == ROLLOUTS:
        argv += _rollouts(study, arm, seed, recipes_of)
    needs = [earlier[study.key(*_at(each, seed))] for each in (model, *like)]
    return _run(study, arm, seed, name, argv[0], argv, needs, {}, {})


def _at(model: tuple[str, str], seed: int) -> tuple[str, int, str]:
    return model[0], seed, model[1]


def _rollouts(
    study: Study, arm: str, seed: int, recipes_of: Mapping[str, dict[str, Any]]
) -> list[str]:
    """The options of the first RL stage, whose prompts and rollouts are those to match on."""
    name = next(name for name, stage in study.stages.items() if stage.command == "rlvr")
    stage, recipe = study.stages[name], recipes_of[name]
    settings = {key: value for key, value in recipe.items() if _mentions_data(value)}
    settings |= study.options(arm, name) | {"seed": seed}
    data = study.data(arm, seed)
    return [
        *("--rollouts", _config_argument(stage.config)),
        *_flags({key: _with_data(value, data) for key, value in settings.items()}),
    ]


def bound(run: StudyRun) -> list[str]:
    """The run's command line with its temperature, which an earlier run has found."""
    if not any(map(is_late, run.argv)):
        return list(run.argv)
    stages = [key.rpartition("/")[2] for key in run.depends_on]
    name = next(stage for stage in stages if stage.startswith(f"{TEMPERATURE}-"))
    found = read_object(run.folder.parent / name / FOUND, _check_found)
    return [bind(word, found["temperature"]) for word in run.argv]


def _check_found(found: dict[str, Any]) -> None:
    check_field(
        "temperature",
        found.get("temperature"),
        lambda value: type(value) in (int, float),
        "a number",
    )


def check_options(runs: Sequence[StudyRun]) -> None:
    """Parse the recipe and command line of each arm and stage with the command's own parser.

    Otherwise a mistake would only be found when the run starts. A temperature that is still to be
    found counts as 1.

    Raises:
        UserError: a command does not have an option, a value is of another type, or an eval stage
            asks for every checkpoint.
    """
    from shaped_trl import options

    parsers: dict[str, recipes.Parser] = {}
    for run in {
        (run.regime, run.arm, run.stage): run for run in runs if run.command not in ADDED
    }.values():
        if run.command not in parsers:
            parsers[run.command] = recipes.Parser(
                run.command, getattr(options, f"{run.command}_options")()
            )
        if run.settings.get("every_checkpoint"):
            raise UserError(
                f"{run.key}: every_checkpoint: an eval stage of a study evaluates one model; "
                "leave it out, and set eval_benchmarks in the args of the stage that trains it"
            )
        _, _, config, *flags = run.argv
        try:
            parsers[run.command].settings(config, [bind(flag, 1.0) for flag in flags])
        except UserError as error:
            raise UserError(f"{run.key}: {error}") from error


def _recipe(name: str, stage: Stage) -> dict[str, Any]:
    recipe = recipes.load(recipes.find(stage.config))
    if stage.shaped:
        for key in (*SHAPE_OF_ARM, SCHEDULE):
            if key in recipe:
                raise UserError(
                    f"{stage.config}: {key} is set in the recipe of {name}, but an arm sets it: "
                    "move it there"
                )
    for key, value in recipe.items():
        if DATA in json.dumps(value, default=str) and not _mentions_data(value):
            raise UserError(
                f"{stage.config}: {DATA} is nested within {key}, where a study cannot replace it"
            )
    # These go to the command line, after what the study sets there itself.
    moved = {key: value for key, value in recipe.items() if _mentions_data(value)}
    check_args(stage.config, moved, stage, ())
    return recipe


def _config_argument(config: str) -> str:
    """The recipe for a command line: an absolute path, or the name of a shipped recipe."""
    return str(Path(config).absolute()) if Path(config).is_file() else config


def _mentions_data(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(v, str) and DATA in v for v in values)


def _with_data(value: Any, data: Path) -> Any:
    if isinstance(value, list):
        return [_with_data(v, data) for v in value]
    return value.replace(DATA, str(data)) if isinstance(value, str) else value


def _flags(settings: Mapping[str, Any]) -> list[str]:
    flags = []
    for key, value in settings.items():
        values = value if isinstance(value, list) else [value]
        flags += [f"--{key}", *map(argument, values)]
    return flags
