"""A study is data: arms × seeds × stages. `plan` turns it into runs, each one `shaped-trl` command line.

An arm is a shape of the token distribution; a stage is one command (train, rlvr, eval) with a recipe. Every
arm goes through all stages, from the same data and, per seed, the same initialisation, so that arms can be
compared in pairs. Nothing here imports torch until a shape has to be checked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from eval_suite.errors import UserError
from shaped_trl import recipes

OUTPUT_FLAGS = {"train": "output_dir", "rlvr": "output_dir", "eval": "out"}
MODEL_FLAGS = {"train": "model_name_or_path", "rlvr": "model_name_or_path", "eval": "model"}
PREPARATIONS = ("running_sums",)
# What tells arms apart. A recipe may fix top_k for all of them, but a beta there would shape the baseline
# too.
SHAPE_OF_ARM = ("shape", "beta", "lambda_head", "lambda_tail", "positive", "alpha")
DATA = "{data}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Stage:
    """One step of every arm. `model` names the earlier stage whose result it starts from or measures."""

    command: str
    config: str
    shaped: bool = False
    model: str | None = None
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A validated study. `arms` maps a name to its shape's fields, `prepare` a generator to its options."""

    name: str
    out: Path
    seeds: tuple[int, ...]
    baseline: str
    max_parallel: int
    prepare: dict[str, dict[str, Any]]
    arms: dict[str, dict[str, Any]]
    stages: dict[str, Stage]

    @property
    def data(self) -> Path:
        return self.out / "data"

    def folder(self, arm: str, seed: int, stage: str) -> Path:
        return self.out / "runs" / arm / f"seed{seed}" / stage

    def to_yaml(self) -> str:
        """The study as a study file: loading it again gives this study."""
        stages = {name: asdict(stage) for name, stage in self.stages.items()}
        resolved = {
            "name": self.name,
            "seeds": list(self.seeds),
            "baseline": self.baseline,
            "max_parallel": self.max_parallel,
            "prepare": self.prepare,
            "arms": {arm: {"shape": shape} if shape else {} for arm, shape in self.arms.items()},
            "stages": stages,
        }
        return yaml.safe_dump(resolved, sort_keys=False)


@dataclass(frozen=True)
class Run:
    """One command line of a study. `settings` is its recipe with the command line's values in place."""

    key: str
    arm: str
    seed: int
    stage: str
    command: str
    folder: Path
    argv: tuple[str, ...]
    depends_on: str | None
    settings: dict[str, Any]
    fingerprint: str


def load_study(path: str | Path, out: str | Path | None = None) -> Study:
    """Read and check a study file or shipped study; its results go to `out`, by default a folder of its name.

    Raises:
        UserError: an unknown or missing key, a value of the wrong kind or out of range, a stage that starts
        from
            one that does not come before it.
    """
    values = recipes.load(recipes.find(str(path)))
    allowed = ("name", "seeds", "baseline", "max_parallel", "prepare", "arms", "stages")
    _check_keys(str(path), values, allowed, required=("name", "baseline", "arms", "stages"))
    name = _named("name", values["name"])
    arms = {_named("arm", arm): _arm(arm, value) for arm, value in _mapping("arms", values["arms"]).items()}
    stages: dict[str, Stage] = {}
    for stage, value in _mapping("stages", values["stages"]).items():
        stages[_named("stage", stage)] = _stage(stage, value, stages)
    if not arms or not stages:
        raise UserError(f"{path}: a study needs at least one arm and one stage")
    if values["baseline"] not in arms:
        raise UserError(f"baseline: {values['baseline']!r} is no arm; choose one of {', '.join(arms)}")
    prepare = _mapping("prepare", values.get("prepare") or {})
    _check_keys("prepare", prepare, PREPARATIONS)
    return Study(
        name=name,
        out=Path(out if out is not None else name).absolute(),
        seeds=_seeds(values.get("seeds", [0])),
        baseline=values["baseline"],
        max_parallel=_at_least_one("max_parallel", values.get("max_parallel", 1)),
        prepare={key: _mapping(f"prepare.{key}", options or {}) for key, options in prepare.items()},
        arms=arms,
        stages=stages,
    )


def plan(study: Study) -> list[Run]:
    """The runs of a study, each after the one it depends on; arms side by side within a seed."""
    settings = {name: _recipe(name, stage) for name, stage in study.stages.items()}
    runs: dict[str, Run] = {}
    for seed in study.seeds:
        for name in study.stages:
            for arm in study.arms:
                run = _run(study, arm, seed, name, settings[name], runs)
                runs[run.key] = run
    return list(runs.values())


def _run(study: Study, arm: str, seed: int, name: str, recipe: dict[str, Any], earlier: dict[str, Run]) -> Run:
    stage = study.stages[name]
    folder = study.folder(arm, seed, name)
    settings: dict[str, Any] = {}
    if stage.model:
        settings[MODEL_FLAGS[stage.command]] = str(study.folder(arm, seed, stage.model))
    settings[OUTPUT_FLAGS[stage.command]] = str(folder)
    settings["seed"] = seed
    if stage.shaped:
        settings |= study.arms[arm]
    # A recipe cannot know where a study's data lies: its {data} values are given on the command line.
    settings |= {key: value for key, value in recipe.items() if _mentions_data(value)} | stage.args
    settings = {key: _with_data(value, study.data) for key, value in settings.items()}
    argv = [stage.command, "--config", _config_argument(stage.config)]
    for key, value in settings.items():
        argv += [f"--{key}", *(_argument(v) for v in (value if isinstance(value, list) else [value]))]
    depends_on = f"{arm}/seed{seed}/{stage.model}" if stage.model else None
    # The folder's own place is left out, so that a finished study can be moved.
    identity = [
        [argument.replace(str(study.out), "{out}") for argument in argv],
        recipe,
        study.prepare,
        earlier[depends_on].fingerprint if depends_on else None,
    ]
    return Run(
        key=f"{arm}/seed{seed}/{name}",
        arm=arm,
        seed=seed,
        stage=name,
        command=stage.command,
        folder=folder,
        argv=tuple(argv),
        depends_on=depends_on,
        settings=recipe | settings,
        fingerprint=fingerprint(identity),
    )


def fingerprint(value: Any) -> str:
    """A short hash of JSON-like data: equal values, equal hashes, on every machine."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _recipe(name: str, stage: Stage) -> dict[str, Any]:
    recipe = recipes.load(recipes.find(stage.config))
    if stage.shaped:
        for key in SHAPE_OF_ARM:
            if key in recipe:
                raise UserError(f"{stage.config}: {key} is set in the recipe of {name}; an arm sets it: move it there")
    return recipe


def _config_argument(config: str) -> str:
    """A path stays right when the command is typed in another folder; a shipped name is one already."""
    return str(Path(config).absolute()) if Path(config).is_file() else config


def _mentions_data(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(v, str) and DATA in v for v in values)


def _with_data(value: Any, data: Path) -> Any:
    if isinstance(value, list):
        return [_with_data(v, data) for v in value]
    return value.replace(DATA, str(data)) if isinstance(value, str) else value


def _argument(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        # argparse takes -0.00001 for a number and -1e-05 for a flag.
        return format(Decimal(repr(value)), "f")
    return str(value)


def _arm(arm: str, value: Any) -> dict[str, Any]:
    from shaped_kernels import RewardShape

    value = _mapping(f"arms.{arm}", value or {})
    _check_keys(f"arms.{arm}", value, ("shape",))
    shape = _mapping(f"arms.{arm}.shape", value.get("shape") or {})
    _check_keys(f"arms.{arm}.shape", shape, tuple(f.name for f in fields(RewardShape)))
    try:
        RewardShape(**shape)
    except ValueError as error:  # its message names field, value and remedy: only the place is missing
        raise UserError(f"arms.{arm}.shape: {error}") from error
    return shape


def _stage(name: str, value: Any, earlier: dict[str, Stage]) -> Stage:
    where = f"stages.{name}"
    value = _mapping(where, value)
    _check_keys(where, value, tuple(f.name for f in fields(Stage)), required=("command", "config"))
    stage = Stage(**{**value, "args": _mapping(f"{where}.args", value.get("args") or {})})
    if stage.command not in OUTPUT_FLAGS:
        raise UserError(f"{where}.command: {stage.command!r}; choose one of {', '.join(OUTPUT_FLAGS)}")
    if stage.shaped and stage.command != "train":
        raise UserError(f"{where}.shaped: only train takes a shape, not {stage.command}; leave it out")
    trained = [key for key, other in earlier.items() if other.command != "eval"]
    if stage.model is not None and stage.model not in trained:
        known = ", ".join(trained) or "none"
        raise UserError(f"{where}.model: {stage.model!r} is no earlier train or rlvr stage; there is: {known}")
    if stage.command == "eval" and stage.model is None:
        raise UserError(f"{where}.model: missing; name the stage whose model is to be measured")
    owned = ("seed", OUTPUT_FLAGS[stage.command], MODEL_FLAGS[stage.command] if stage.model else "seed")
    for key, argument in stage.args.items():
        if key in owned:
            raise UserError(f"{where}.args.{key}: the study sets it; leave it out")
        scalars = argument if isinstance(argument, list) else [argument]
        if not all(isinstance(scalar, str | int | float) for scalar in scalars):
            raise UserError(f"{where}.args.{key}: {argument!r} is no value or list of values; put it in the recipe")
    return stage


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {value!r} is no mapping; write `key: value` lines")
    return dict(value)


def _check_keys(where: str, value: Mapping[str, Any], allowed: Iterable[str], *, required: Iterable[str] = ()) -> None:
    for key in value:
        if key not in allowed:
            raise UserError(f"{where}: unknown key {key!r}; allowed: {', '.join(allowed)}")
    for key in required:
        if key not in value:
            raise UserError(f"{where}: the key {key!r} is missing")


def _named(what: str, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{what}: {name!r} names a folder; use letters, digits, '_', '.' and '-'")
    return name


def _seeds(seeds: Any) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: {seeds!r}; give a list of distinct whole numbers, such as [0, 1]")
    return tuple(seeds)


def _at_least_one(where: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{where}: {value!r}; give a whole number of at least 1")
    return value
