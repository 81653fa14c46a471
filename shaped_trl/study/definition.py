"""A study is data: regimes × arms × seeds × stages, read from a YAML file and checked before anything runs.

An arm is a shape of the token distribution, or another arm's checkpoint sampled at another temperature; a stage is
one command (train, rlvr, eval) with a recipe; a regime is the data that all arms are trained on. Arms have the same
data and, per seed, the same initialisation or the same shared model, so that they can be compared in pairs.
Nothing here imports torch until a shape has to be checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from eval_suite.errors import UserError
from shaped_trl import recipes

OUTPUT_FLAGS = {"train": "output_dir", "rlvr": "output_dir", "eval": "out"}
MODEL_FLAGS = {"train": "model_name_or_path", "rlvr": "model_name_or_path", "eval": "model"}
PREPARATIONS = ("running_sums", "chain_sum")  # modules of `shaped_trl.data`, each with a `write_corpus`
TEMPERATURE = "temperature"  # what the stage is called that finds one
ONE_REGIME = ""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_KINDS = {str: "a name", bool: "true or false", list: "a list"}

Preparation = dict[str, dict[str, Any]]  # generator → its options


@dataclass(frozen=True)
class Stage:
    """One step of the arms named in `arms`, or of all; a `shared` one is the baseline's, and all arms go on from it.
    `model` names the earlier stage whose result it starts from or measures; where an arm skips that one, what that one
    would have started from. `seconds` is what a run takes on the machine that the study is meant for: the estimate
    until one has been timed."""

    command: str
    config: str
    shaped: bool = False
    shared: bool = False
    model: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Arm:
    """What tells an arm from the others.

    Args:
        shape: fields of `RewardShape`, for the shaped stages.
        checkpoint_of: another arm whose trained models this one takes, instead of training its own.
        temperature: of its rollouts and evaluations, relative to the recipes'; the steps of RL are scaled with it.
        entropy_of: an arm; the temperature is that at which this arm's model has the held-out entropy of that one's.
        prepare: options of data of its own, on top of the regime's.
        args: stage → options of its command, on top of the stage's.
        seeds: the study's where empty.
        exploratory: shown apart, and without a part in the correction for the confirmatory arms.
    """

    shape: dict[str, Any] = field(default_factory=dict)
    checkpoint_of: str | None = None
    temperature: float | None = None
    entropy_of: str | None = None
    prepare: Preparation = field(default_factory=dict)
    args: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    exploratory: bool = False


@dataclass(frozen=True)
class Study:
    """A validated study. `prepare` and `regimes` map a generator of data to its options; `regime` is the one whose
    folders are meant (`each_regime`). Arms agree where their NLL differs by at most the share `nll_within`."""

    name: str
    out: Path
    seeds: tuple[int, ...]
    baseline: str
    max_parallel: int
    nll_within: float
    prepare: Preparation
    regimes: dict[str, Preparation]
    arms: dict[str, Arm]
    stages: dict[str, Stage]
    regime: str = ONE_REGIME

    def each_regime(self) -> Iterator[Study]:
        """The study as seen in each of its regimes."""
        for regime in self.regimes or {ONE_REGIME: {}}:
            yield replace(self, regime=regime)

    def key(self, arm: str, seed: int, stage: str) -> str:
        """What a run is called, its regime first where there are several."""
        return "/".join([*([self.regime] if self.regime else []), arm, f"seed{seed}", stage])

    def folder(self, arm: str, seed: int, stage: str) -> Path:
        return self.out / "runs" / self.regime / arm / f"seed{seed}" / stage

    def record(self, arm: str, seed: int, stage: str) -> Path:
        """Where the small JSON of a finished run lies: `shaped_trl.study.finished`."""
        return self.out / "finished" / self.regime / arm / f"seed{seed}" / f"{stage}.json"

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        return self.arms[arm].seeds or self.seeds

    def data(self, arm: str) -> Path:
        """Where the arm's data lies: the regime's, or its own."""
        return self.out / (f"data-{arm}" if self.arms[arm].prepare else "data") / self.regime

    def preparation(self, arm: str) -> Preparation:
        """What the arm's data is made of: the study's options, the regime's on top, the arm's on top of these."""
        layers = (self.prepare, self.regimes.get(self.regime, {}), self.arms[arm].prepare)
        names = [name for name in PREPARATIONS if any(name in layer for layer in layers)]
        return {name: {k: v for layer in layers for k, v in layer.get(name, {}).items()} for name in names}

    def runs_stage(self, arm: str, stage: str) -> bool:
        """Whether the arm goes through this stage itself."""
        if self.stages[stage].shared:
            return arm == self.baseline
        taken = self.arms[arm].checkpoint_of and self.stages[stage].command == "train"
        only = self.stages[stage].arms
        return not taken and (not only or arm in only)

    def start(self, arm: str, stage: str) -> tuple[str, str] | None:
        """(arm, stage) whose model this arm's stage starts from or measures; None from scratch."""
        model = self.stages[stage].model
        if model is None:
            return None
        if self.stages[model].shared:
            return self.baseline, model
        if self.stages[model].arms and arm not in self.stages[model].arms:
            return self.start(arm, model)
        other = self.arms[arm].checkpoint_of
        if other and self.stages[model].command == "train":
            return (other, model) if self.runs_stage(other, model) else self.start(other, model)
        return arm, model

    def trained(self, arm: str, stage: str) -> tuple[str, str] | None:
        """(arm, stage) of the pre- or mid-trained model behind a stage, before any RL; None without one."""
        found = self.start(arm, stage)
        return found if found is None or self.stages[found[1]].command == "train" else self.trained(*found)

    def to_yaml(self) -> str:
        """The study as a study file: loading it again gives this study."""
        resolved = {
            key: getattr(self, key) for key in ("name", "baseline", "max_parallel", "nll_within", "prepare", "regimes")
        }
        resolved["seeds"] = list(self.seeds)
        resolved["arms"] = {name: _given(arm) for name, arm in self.arms.items()}
        resolved["stages"] = {name: _given(stage) for name, stage in self.stages.items()}
        return yaml.safe_dump(resolved, sort_keys=False)


def _given(value: Arm | Stage) -> dict[str, Any]:
    """The fields that are set, as a study file has them."""
    return {
        key: list(v) if isinstance(v, tuple) else v
        for key, v in asdict(value).items()
        if v not in (None, False, {}, ())
    }


def load_study(path: str | Path, out: str | Path | None = None) -> Study:
    """Read and check a study file or shipped study; its results go to `out`, by default a folder of its name.

    Raises:
        UserError: an unknown or missing key, a value of the wrong kind or out of range, a stage or an arm that builds
            on one that is not there.
    """
    values = recipes.load(recipes.find(str(path)))
    allowed = tuple(field.name for field in fields(Study) if field.name not in ("out", "regime"))
    _check_keys(str(path), values, allowed, required=("name", "baseline", "arms", "stages"))
    _check_kinds("", values, baseline=str)
    arms = {_named("arm", arm): _arm(arm, value) for arm, value in _mapping("arms", values["arms"]).items()}
    stages: dict[str, Stage] = {}
    for stage, value in _mapping("stages", values["stages"]).items():
        stages[_named("stage", stage)] = _stage(stage, value, stages, arms)
    if not arms or not stages:
        raise UserError(f"{path}: a study needs at least one arm and one stage")
    regimes = _mapping("regimes", values.get("regimes") or {})
    study = Study(
        name=_named("name", values["name"]),
        out=Path(out if out is not None else values["name"]).absolute(),
        seeds=_seeds("seeds", values.get("seeds", [0])),
        baseline=values["baseline"],
        max_parallel=_at_least_one("max_parallel", values.get("max_parallel", 1)),
        nll_within=_share("nll_within", values.get("nll_within", 0.05)),
        prepare=_preparation("prepare", values.get("prepare")),
        regimes={_named("regime", name): _preparation(f"regimes.{name}", value) for name, value in regimes.items()},
        arms=arms,
        stages=stages,
    )
    _check_arms(study)
    for view in study.each_regime():
        for arm in view.arms:
            if len(several := list(view.preparation(arm))) > 1:
                raise UserError(f"prepare: {' and '.join(several)} would write the same files for {arm}; give one")
    return study


def _arm(name: str, value: Any) -> Arm:
    from shaped_kernels import RewardShape

    where = f"arms.{name}"
    value = _mapping(where, value or {})
    _check_keys(where, value, tuple(f.name for f in fields(Arm)))
    _check_kinds(f"{where}.", value, checkpoint_of=str, entropy_of=str, exploratory=bool)
    shape = _mapping(f"{where}.shape", value.get("shape") or {})
    _check_keys(f"{where}.shape", shape, tuple(f.name for f in fields(RewardShape)))
    try:
        RewardShape(**shape)
    except ValueError as error:  # its message names field, value and remedy: only the place is missing
        raise UserError(f"{where}.shape: {error}") from error
    args = _mapping(f"{where}.args", value.get("args") or {})
    args = {stage: _mapping(f"{where}.args.{stage}", options) for stage, options in args.items()}
    seeds = _seeds(f"{where}.seeds", value["seeds"]) if value.get("seeds") else ()
    prepare = _preparation(f"{where}.prepare", value.get("prepare"))
    return Arm(**{**value, "shape": shape, "args": args, "seeds": seeds, "prepare": prepare})


def _check_arms(study: Study) -> None:
    """What one arm says of another, and of stages."""
    arms = ", ".join(study.arms)
    if study.baseline not in study.arms:
        raise UserError(f"baseline: {study.baseline!r} is no arm; choose one of {arms}")
    for name, arm in study.arms.items():
        where = f"arms.{name}"
        for key in ("checkpoint_of", "entropy_of"):
            other = getattr(arm, key)
            if other is not None and (other not in study.arms or study.arms[other].checkpoint_of or other == name):
                raise UserError(f"{where}.{key}: {other!r} is no other arm with models of its own; there is: {arms}")
            if other is not None and set(study.seeds_of(name)) - set(study.seeds_of(other)):
                raise UserError(f"{where}.seeds: {other} has no such seeds; give some of {study.seeds_of(other)}")
        if arm.checkpoint_of and (arm.shape or arm.prepare):
            raise UserError(f"{where}: it takes the models of {arm.checkpoint_of}; leave out shape and prepare")
        if arm.temperature is not None:
            _positive(f"{where}.temperature", arm.temperature)
        if arm.temperature is not None and arm.entropy_of is not None:
            raise UserError(f"{where}: temperature and entropy_of both set its temperature; give one of them")
        if arm.shape and not any(
            each.shaped and study.runs_stage(name, stage) for stage, each in study.stages.items()
        ):
            raise UserError(f"{where}.shape: the arm goes through no stage with shaped: true, where it would act")
        for stage, each in study.stages.items():
            measured = study.trained(name, stage), study.trained(arm.entropy_of or name, stage)
            if arm.entropy_of and each.command != "train" and None in measured and study.runs_stage(name, stage):
                raise UserError(f"{where}.entropy_of: {stage} starts from no model that the study trains: give it one")
        shared = [stage for stage, each in study.stages.items() if each.shared]
        if shared and set(study.seeds_of(name)) - set(study.seeds_of(study.baseline)):
            raise UserError(f"{where}.seeds: {shared[0]} is shared, and {study.baseline} has no such seeds")
        for stage, options in arm.args.items():
            if stage not in study.stages:
                raise UserError(f"{where}.args: {stage!r} is no stage; choose from {', '.join(study.stages)}")
            if study.stages[stage].shared and name != study.baseline:
                raise UserError(
                    f"{where}.args: {stage} is shared by all arms, so that none can have options of its own"
                )
            _check_args(f"{where}.args.{stage}", options, study.stages[stage])


def _stage(name: str, value: Any, earlier: dict[str, Stage], arms: Mapping[str, Arm]) -> Stage:
    where = f"stages.{name}"
    value = _mapping(where, value)
    _check_keys(where, value, tuple(f.name for f in fields(Stage)), required=("command", "config"))
    _check_kinds(f"{where}.", value, command=str, config=str, model=str, shaped=bool, shared=bool, arms=list)
    if name.split("-")[0] == TEMPERATURE:
        raise UserError(f"{where}: a study calls what finds the temperatures of arms so; choose another name")
    only = value.get("arms") or []
    for arm in only:
        if arm not in arms:
            raise UserError(f"{where}.arms: {arm!r} is no arm; choose from {', '.join(arms)}")
    stage = Stage(**{**value, "args": _mapping(f"{where}.args", value.get("args") or {}), "arms": tuple(only)})
    if stage.command not in OUTPUT_FLAGS:
        raise UserError(f"{where}.command: {stage.command!r}; choose one of {', '.join(OUTPUT_FLAGS)}")
    if stage.shaped and stage.command != "train":
        raise UserError(f"{where}.shaped: only train takes a shape, not {stage.command}; leave it out")
    if stage.shared and (stage.command != "train" or stage.shaped or stage.arms):
        raise UserError(f"{where}.shared: only a train stage without shaped and arms is the same for all arms")
    if stage.shared and stage.model in earlier and not earlier[stage.model].shared:
        raise UserError(f"{where}.shared: {stage.model}, which it starts from, is not: arms would lose what it did")
    trained = [key for key, other in earlier.items() if other.command != "eval"]
    if stage.model is not None and stage.model not in trained:
        known = ", ".join(trained) or "none"
        raise UserError(f"{where}.model: {stage.model!r} is no earlier train or rlvr stage; there is: {known}")
    if stage.command == "eval" and stage.model is None:
        raise UserError(f"{where}.model: missing; name the stage whose model is to be measured")
    _check_args(f"{where}.args", stage.args, stage)
    if stage.seconds is not None:
        _positive(f"{where}.seconds", stage.seconds)
    return stage


def _check_args(where: str, args: Mapping[str, Any], stage: Stage) -> None:
    owned = ("seed", OUTPUT_FLAGS[stage.command], MODEL_FLAGS[stage.command] if stage.model else "seed")
    for key, argument in args.items():
        if key in owned:
            raise UserError(f"{where}.{key}: the study sets it; leave it out")
        scalars = argument if isinstance(argument, list) else [argument]
        if not all(isinstance(scalar, str | int | float) for scalar in scalars):
            raise UserError(f"{where}.{key}: {argument!r} is no value or list of values; put it in the recipe")


def _preparation(where: str, value: Any) -> Preparation:
    prepare = _mapping(where, value or {})
    _check_keys(where, prepare, PREPARATIONS)
    return {key: _mapping(f"{where}.{key}", options or {}) for key, options in prepare.items()}


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


def _check_kinds(where: str, value: Mapping[str, Any], **kinds: type) -> None:
    for key, kind in kinds.items():
        if value.get(key) is not None and not isinstance(value[key], kind):
            raise UserError(f"{where}{key}: {value[key]!r}; give {_KINDS[kind]}")


def _named(what: str, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{what}: {name!r} names a folder; use letters, digits, '_', '.' and '-'")
    return name


def _seeds(where: str, seeds: Any) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{where}: {seeds!r}; give a list of distinct whole numbers, such as [0, 1]")
    return tuple(seeds)


def _at_least_one(where: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{where}: {value!r}; give a whole number of at least 1")
    return value


def _positive(where: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise UserError(f"{where}: {value!r} is no number above 0")


def _share(where: str, value: Any) -> float:
    if not isinstance(value, float) or not 0 < value < 1:
        raise UserError(f"{where}: {value!r}; give a share between 0 and 1, such as 0.05")
    return value
