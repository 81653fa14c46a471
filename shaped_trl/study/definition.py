"""A study is data: regimes × arms × seeds × stages.

An arm is a shape of the token distribution, or the checkpoint of another arm sampled at another
temperature. A stage is one command (train, rlvr, eval) with a recipe. A regime is the data on which
all arms are trained. For comparison in pairs, arms have the same data and, per seed, the same
initialisation or the same shared model. `shaped_trl.study.loading` reads a study from its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from shaped_trl.recipes import schedules_beta

OUTPUT_FLAGS = {"train": "output_dir", "rlvr": "output_dir", "eval": "out"}
MODEL_FLAGS = {"train": "model_name_or_path", "rlvr": "model_name_or_path", "eval": "model"}
# Modules of `shaped_trl.data` with a function `write_corpus`.
PREPARATIONS = ("running_sums", "chain_sum")
# The options that distinguish arms. A recipe may set top_k for all of them, but a beta in a recipe
# would also shape the baseline.
SHAPE_OF_ARM = (
    *("shape", "beta", "lambda_head", "lambda_tail", "positive", "alpha"),
    *("threshold", "loss_temperature"),
)
TEMPERATURE = "temperature"  # the name of the stage that finds an arm's temperature
ONE_REGIME = ""
# The version of resolved studies and of records. Version 1 is not written down; in it, a β without
# a form acts by the product.
VERSION = 2
DEFAULT_FORMS = {1: "product", VERSION: "exponent"}

Preparation = dict[str, dict[str, Any]]  # generator → its options


@dataclass(frozen=True)
class Stage:
    """One step of all arms.

    Args:
        command: train, rlvr or eval.
        config: its recipe.
        shaped: whether the arms' shapes act in it.
        shared: the baseline runs it once, and all arms start from its model.
        model: the earlier stage whose result it starts from or measures.
        args: options of the command, on top of the recipe.
        seconds: what a run takes on the machine that the study is meant for; this is the estimate
            until one has been timed.
    """

    command: str
    config: str
    shaped: bool = False
    shared: bool = False
    model: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(frozen=True)
class Arm:
    """What distinguishes an arm from the others.

    Args:
        shape: fields of `RewardShape` for the shaped stages.
        checkpoint_of: another arm whose trained models this arm uses instead of its own.
        temperature: the temperature of its rollouts and evaluations, relative to the recipes'; the
            steps of RL are scaled with it.
        entropy_of: another arm. The temperature is then chosen such that this arm's model has the
            held-out entropy of the other arm's model.
        prepare: options for its own data, on top of the regime's.
        args: stage → options of its command, on top of the stage's.
        seeds: its seeds; if empty, the study's.
        exploratory: it is shown separately, and excluded from the correction for the confirmatory
            arms.
    """

    shape: dict[str, Any] = field(default_factory=dict)
    checkpoint_of: str | None = None
    temperature: float | None = None
    entropy_of: str | None = None
    prepare: Preparation = field(default_factory=dict)
    args: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    exploratory: bool = False

    @property
    def form_of_beta(self) -> str | None:
        """The form in which β acts in this arm, always or by a schedule; None if it does not."""
        acts = self.shape.get("beta") or any(
            schedules_beta(options) for options in self.args.values()
        )
        return self.shape.get("positive") if acts else None


@dataclass(frozen=True)
class Study:
    """A validated study.

    `prepare` and `regimes` map a generator of data to its options. `regime` is the regime whose
    folders are meant (`each_regime`). Two arms count as equally trained if their NLL differs by at
    most the fraction `nll_within`.
    """

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
    # arm → the arm whose folders contain its runs, if it is another one
    places: Mapping[str, str] = field(default_factory=dict)

    def each_regime(self) -> Iterator[Study]:
        """Yield the study for each of its regimes."""
        for regime in self.regimes or {ONE_REGIME: {}}:
            yield replace(self, regime=regime)

    def named_by_form(self) -> Study:
        """The study as a report shows it.

        If β acts in an arm, the form becomes part of its name, as in precision_product.
        """
        names = {}
        for name, arm in self.arms.items():
            form = arm.form_of_beta
            unnamed = form is not None and form not in name and f"{name}_{form}" not in self.arms
            names[name] = f"{name}_{form}" if unnamed else name
        arms = {
            names[name]: replace(
                arm,
                checkpoint_of=arm.checkpoint_of and names[arm.checkpoint_of],
                entropy_of=arm.entropy_of and names[arm.entropy_of],
            )
            for name, arm in self.arms.items()
        }
        places = {shown: name for name, shown in names.items()}
        return replace(self, arms=arms, baseline=names[self.baseline], places=places)

    def place(self, arm: str) -> str:
        """The name of the arm's folders."""
        return self.places.get(arm, arm)

    def key(self, arm: str, seed: int, stage: str) -> str:
        """The name of a run, with its regime first if there are several."""
        return "/".join(
            [*([self.regime] if self.regime else []), self.place(arm), f"seed{seed}", stage]
        )

    def folder(self, arm: str, seed: int, stage: str) -> Path:
        return self.out / "runs" / self.regime / self.place(arm) / f"seed{seed}" / stage

    def record(self, arm: str, seed: int, stage: str) -> Path:
        """The path of a finished run's record (`shaped_trl.study.finished`)."""
        return (
            self.out / "finished" / self.regime / self.place(arm) / f"seed{seed}" / f"{stage}.json"
        )

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        return self.arms[arm].seeds or self.seeds

    def data(self, arm: str) -> Path:
        """The folder of the arm's data: the regime's, or its own."""
        return (
            self.out
            / (f"data-{self.place(arm)}" if self.arms[arm].prepare else "data")
            / self.regime
        )

    def preparation(self, arm: str) -> Preparation:
        """The options for the arm's data: the study's, then the regime's, then the arm's own."""
        layers = (self.prepare, self.regimes.get(self.regime, {}), self.arms[arm].prepare)
        names = [name for name in PREPARATIONS if any(name in layer for layer in layers)]
        return {
            name: {k: v for layer in layers for k, v in layer.get(name, {}).items()}
            for name in names
        }

    def runs_stage(self, arm: str, stage: str) -> bool:
        """Whether the arm goes through this stage itself."""
        if self.stages[stage].shared:
            return arm == self.baseline
        return not (self.arms[arm].checkpoint_of and self.stages[stage].command == "train")

    def start(self, arm: str, stage: str) -> tuple[str, str] | None:
        """The (arm, stage) whose model this arm's stage starts from or measures, or None."""
        model = self.stages[stage].model
        if model is None:
            return None
        if self.stages[model].shared:
            return self.baseline, model
        return (arm if self.runs_stage(arm, model) else str(self.arms[arm].checkpoint_of)), model

    def trained(self, arm: str, stage: str) -> tuple[str, str] | None:
        """The (arm, stage) of the pre- or mid-trained model behind a stage, before RL, or None."""
        found = self.start(arm, stage)
        return (
            found
            if found is None or self.stages[found[1]].command == "train"
            else self.trained(*found)
        )

    def to_yaml(self) -> str:
        """The study as a study file. Loading it gives the same study."""
        resolved = {"version": VERSION} | {
            key: getattr(self, key)
            for key in ("name", "baseline", "max_parallel", "nll_within", "prepare", "regimes")
        }
        resolved["seeds"] = list(self.seeds)
        resolved["arms"] = {name: _given(arm) for name, arm in self.arms.items()}
        resolved["stages"] = {name: _given(stage) for name, stage in self.stages.items()}
        return yaml.safe_dump(resolved, sort_keys=False)


def _given(value: Arm | Stage) -> dict[str, Any]:
    """The fields that differ from their defaults, as in a study file."""
    return {
        key: list(v) if isinstance(v, tuple) else v
        for key, v in asdict(value).items()
        if v not in (None, False, {}, ())
    }
