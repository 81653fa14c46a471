"""A study is data: regimes × arms × seeds × stages.

An arm is a shape of the token distribution, or the checkpoint of another arm, sampled at another
temperature or with its head divided by one. A stage is one command (train, rlvr, eval) with a
recipe. A regime is the data on which all arms are trained. For comparison in pairs, arms have the
same data and, per seed, the same initialisation or the same shared model.
`shaped_trl.study.loading` reads a study from its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from shaped_trl.recipes import schedules_beta
from shaped_trl.study.contrasts import Contrasts

OUTPUT_FLAGS = {"train": "output_dir", "rlvr": "output_dir", "eval": "out"}
MODEL_FLAGS = {"train": "model_name_or_path", "rlvr": "model_name_or_path", "eval": "model"}
# Modules of `shaped_trl.data` with a function `write_corpus`.
PREPARATIONS = ("running_sums", "chain_sum", "few_shot_sums")
# The options that distinguish arms. A recipe may set top_k for all of them, but a beta in a recipe
# would also shape the baseline.
SHAPE_OF_ARM = (
    *("shape", "beta", "lambda_head", "lambda_tail", "positive", "alpha"),
    *("threshold", "loss_temperature"),
)
# The stages that a study adds by itself: they find an arm's temperature, or divide its head by one.
TEMPERATURE, DIVIDED = "temperature", "divided"
HELD_OUT, ROLLOUTS = "held_out", "rollouts"  # the texts on which entropies are matched
ARGS = "args"  # of a regime: stage → options of its command
SEEDS = "seeds"  # of a regime: those of the study's seeds that it has; by default all
SEED = "{seed}"  # in the options of data: the seed of the run
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
        temperature: of an eval stage, the temperature at which it decodes, whatever the arm's own
            is. A list in a study file makes a stage of each, such as eval-t0.6 and eval-t1.
        seconds: what a run takes on the machine that the study is meant for; this is the estimate
            until one has been timed.
    """

    command: str
    config: str
    shaped: bool = False
    shared: bool = False
    model: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    temperature: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Arm:
    """What distinguishes an arm from the others.

    Args:
        shape: fields of `RewardShape` for the shaped stages.
        shape_in: regime → fields that replace those of `shape` there.
        checkpoint_of: another arm whose trained models this arm uses instead of its own.
        temperature: the temperature of its rollouts and evaluations, relative to the recipes'; the
            steps of RL are scaled with it.
        entropy_of: another arm. The temperature is then chosen such that this arm's model has the
            entropy of the other arm's model.
        matched_on: the texts on which the two have this entropy: held_out, or rollouts, which are
            the completions that each model samples for prompts of RL.
        head_divided: the arm's models are the other arm's with their head divided by the
            temperature. They are plain models, whose distribution at T = 1 is the other model's at
            the temperature; RL and evaluations treat them like any others.
        prepare: options for its own data, on top of the regime's.
        args: stage → options of its command, on top of the stage's.
        seeds: its seeds; if empty, the study's.
        exploratory: it is shown separately, and excluded from the correction for the confirmatory
            arms.
    """

    shape: dict[str, Any] = field(default_factory=dict)
    shape_in: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkpoint_of: str | None = None
    temperature: float | None = None
    entropy_of: str | None = None
    matched_on: str = HELD_OUT
    head_divided: bool = False
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

    `prepare` and `regimes` map a generator of data to its options. A regime may also have `args`,
    which map a stage to options of its command, and `seeds`. `regime` is the regime whose folders
    are meant (`each_regime`). Two arms count as equally trained if their NLL differs by at
    most the fraction `nll_within`.
    """

    name: str
    out: Path
    seeds: tuple[int, ...]
    baseline: str
    max_parallel: int
    nll_within: float
    prepare: Preparation
    regimes: dict[str, dict[str, Any]]
    arms: dict[str, Arm]
    stages: dict[str, Stage]
    regime: str = ONE_REGIME
    # arm → the arm whose folders contain its runs, if it is another one
    places: Mapping[str, str] = field(default_factory=dict)
    contrasts: Contrasts | None = None  # if it has any, they alone are judged

    def each_regime(self) -> Iterator[Study]:
        """Yield the study for each of its regimes, in which the arms have their shapes there."""
        for regime in self.regimes or {ONE_REGIME: {}}:
            arms = {
                name: replace(arm, shape=arm.shape | arm.shape_in.get(regime, {}))
                for name, arm in self.arms.items()
            }
            yield replace(self, regime=regime, arms=arms)

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
        contrasts = self.contrasts and self.contrasts.renamed(names)
        return replace(
            self, arms=arms, baseline=names[self.baseline], places=places, contrasts=contrasts
        )

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

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The arm's seeds in this regime, or in all if the study is not seen in one."""
        own = self.arms[arm].seeds or self.seeds
        there = self.regimes.get(self.regime, {}).get(SEEDS, own)
        return tuple(seed for seed in own if seed in there)

    def data(self, arm: str, seed: int) -> Path:
        """The folder of the arm's data: the regime's or its own, and the seed's if they differ."""
        own = f"data-{self.place(arm)}" if self.arms[arm].prepare else "data"
        by_seed = any(SEED in each.values() for each in self._options(arm).values())
        return self.out / own / self.regime / (f"seed{seed}" if by_seed else "")

    def preparation(self, arm: str, seed: int) -> Preparation:
        """The options for the arm's data: the study's, then the regime's, then the arm's own."""
        return {
            name: {key: seed if value == SEED else value for key, value in options.items()}
            for name, options in self._options(arm).items()
        }

    def _options(self, arm: str) -> Preparation:
        layers = (self.prepare, self.regimes.get(self.regime, {}), self.arms[arm].prepare)
        names = [name for name in PREPARATIONS if any(name in layer for layer in layers)]
        return {
            name: {k: v for layer in layers for k, v in layer.get(name, {}).items()}
            for name in names
        }

    def options(self, arm: str, stage: str) -> dict[str, Any]:
        """The options of a stage's command on top of its recipe.

        They are the stage's, then the regime's, then the arm's.
        """
        of_regime = self.regimes.get(self.regime, {}).get(ARGS, {})
        return (
            self.stages[stage].args | of_regime.get(stage, {}) | self.arms[arm].args.get(stage, {})
        )

    def runs_stage(self, arm: str, stage: str) -> bool:
        """Whether the arm goes through this stage itself."""
        spec, own = self.stages[stage], self.arms[arm]
        if spec.shared:
            return arm == self.baseline
        if own.checkpoint_of is None:
            return True
        if spec.temperature is not None and not (own.head_divided or stage in own.args):
            # The other arm evaluates the same model at the same temperature.
            return not (spec.model and self.stages[spec.model].command == "train")
        return spec.command != "train"

    def start(self, arm: str, stage: str) -> tuple[str, str] | None:
        """The (arm, stage) whose model this arm's stage starts from or measures, or None."""
        model = self.stages[stage].model
        if model is None:
            return None
        if self.runs_stage(arm, model):
            return arm, model
        if self.arms[arm].head_divided:
            return arm, f"{DIVIDED}-{model}"
        return self.owner(arm, model)

    def owner(self, arm: str, stage: str) -> tuple[str, str]:
        """The (arm, stage) whose model this arm uses if it does not run a train stage itself."""
        shared = self.stages[stage].shared
        return (self.baseline if shared else str(self.arms[arm].checkpoint_of)), stage

    def trained(self, arm: str, stage: str) -> tuple[str, str] | None:
        """The (arm, stage) of the pre- or mid-trained model behind a stage, before RL, or None.

        Behind a model with a divided head, it is the model that was divided.
        """
        found = self.start(arm, stage)
        if found is None:
            return None
        if found[1].startswith(f"{DIVIDED}-"):
            return self.owner(arm, found[1].removeprefix(f"{DIVIDED}-"))
        return found if self.stages[found[1]].command == "train" else self.trained(*found)

    def added_stage(self, arm: str, stage: str) -> str | None:
        """The stage that finds this arm's temperature or divides its head before `stage`."""
        own, spec = self.arms[arm], self.stages[stage]
        trained = self.trained(arm, stage) if spec.command != "train" else None
        if trained is None or not self.runs_stage(arm, stage):
            return None
        if own.head_divided:
            return f"{DIVIDED}-{trained[1]}"
        if own.entropy_of is not None and spec.temperature is None:
            return f"{TEMPERATURE}-{trained[1]}"
        return None

    def needs(self, arm: str, stage: str) -> list[tuple[str, str]]:
        """The (arm, stage) of the runs from which this one starts or which it compares.

        For a stage that the study adds, these are the model and, if an entropy is matched, the
        model that has it.
        """
        if stage in self.stages:
            start, added = self.start(arm, stage), self.added_stage(arm, stage)
            # A divided head is where RL starts; an evaluation after RL starts from the latter.
            matched = added and not self.arms[arm].head_divided
            return [*([start] if start else []), *([(arm, str(added))] if matched else [])]
        model = stage.partition("-")[2]
        arms = [arm, *([like] if (like := self.arms[arm].entropy_of) else [])]
        return [
            (each, model) if self.runs_stage(each, model) else self.owner(each, model)
            for each in arms
        ]

    def to_yaml(self) -> str:
        """The study as a study file. Loading it gives the same study."""
        resolved = {"version": VERSION} | {
            key: getattr(self, key)
            for key in ("name", "baseline", "max_parallel", "nll_within", "prepare", "regimes")
        }
        resolved["seeds"] = list(self.seeds)
        resolved["arms"] = {name: _given(arm) for name, arm in self.arms.items()}
        resolved["stages"] = {name: _given(stage) for name, stage in self.stages.items()}
        if self.contrasts:
            resolved["contrasts"] = self.contrasts.to_values()
        return yaml.safe_dump(resolved, sort_keys=False)


def _given(value: Arm | Stage) -> dict[str, Any]:
    """The fields that differ from their defaults, as in a study file."""
    return {
        key: list(v) if isinstance(v, tuple) else v
        for key, v in asdict(value).items()
        if v not in (None, False, {}, (), HELD_OUT)
    }
