"""The contrasts of a study file are read, checked and written again."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from contrast_values import PLANTED, SMALL
from places import ROOT
from planted_study import write_planted
from shaped_eval.errors import UserError
from study_values import load, study_values

from shaped_trl.study.contrasts import Contrast, Metric
from shaped_trl.study.contrasts_loading import HIGHER_IS_BETTER, LOGGED, check_measured
from shaped_trl.study.loading import load_study
from shaped_trl.study.plan import plan
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.training_results import rl_outcomes
from shaped_trl.study.runner import run_study

pytestmark = pytest.mark.slow

COMPARE = ("claims", "precision", "compare", 0)
BOTH = ["precision", "cross_entropy"]


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ((), [], "contrasts: [] is not a mapping"),
        (("margins",), 1, "contrasts: unknown key 'margins'; allowed: primary, margin, claims"),
        (("margin",), 1.5, "contrasts.margin: 1.5; give a share between 0 and 1"),
        (("primary",), "avg@4", "contrasts.primary: 'avg@4' is not a mapping"),
        (("primary", "stage"), "evals", "contrasts.primary.stage: 'evals' is not a stage; choose"),
        (("primary", "stage"), ["eval"], "contrasts.primary.stage: ['eval']; give a name"),
        (("primary", "metric"), "avg@0", "primary.metric: 'avg@0'; choose one of avg@N, cons@N"),
        (("primary", "metric"), None, "contrasts.primary.metric: None; choose one of avg@N"),
        (("primary", "metric"), "avg", "contrasts.primary.metric: 'avg'; choose one of"),
        (("primary", "benchmark"), None, "contrasts.primary.benchmark: missing; name a benchmark"),
        (("primary",), {"stage": "rlvr"}, "contrasts.primary: the key 'metric' is missing"),
        (
            ("primary",),
            {"stage": "rlvr", "metric": "reward", "benchmark": "x"},
            "contrasts.primary.benchmark: rlvr is rlvr and has no benchmarks; leave it out",
        ),
        (
            ("primary",),
            {"stage": "rlvr", "metric": "tokens_to_50"},
            "contrasts.primary.metric: 'tokens_to_50'; a verdict needs a metric of which more is",
        ),
        (
            ("secondary",),
            [{"stage": "pretrain", "metric": "reward"}],
            "contrasts.secondary[0].metric: 'reward'; choose one of nll, entropy",
        ),
        (("secondary",), {}, "contrasts.secondary: {} is not a list"),
        (("claims",), {}, "contrasts.claims: give at least one claim"),
        (("claims",), {3: {}}, "contrasts.claims: 3; give each claim a name"),
        (("claims", "precision", "text"), " ", "contrasts.claims.precision.text: ' '; give a"),
        (("claims", "precision", "compare"), [], "precision.compare: give at least one pair"),
        ((*COMPARE, "arm"), "focal", "compare[0].arm: 'focal' is not an arm; choose from cross_"),
        ((*COMPARE, "arm"), [["precision"]], "compare[0].arm: ['precision'] is not an arm"),
        ((*COMPARE, "arm"), [], "compare[0].arm: []; give an arm, or a list of distinct arms"),
        ((*COMPARE, "arm"), ["precision"] * 2, "give an arm, or a list of distinct arms"),
        ((*COMPARE, "arm"), "cross_entropy", "cross_entropy would be compared with itself"),
        ((*COMPARE, "arm"), ["precision", "third"], "compare[0].choose_on: missing; give the num"),
        ((*COMPARE, "choose_on"), 3, "compare[0].choose_on: there is one arm on each side"),
        (
            COMPARE,
            {"arm": ["precision", "third"], "against": "cross_entropy", "choose_on": 0},
            "compare[0].choose_on: 0; give a whole number of at least 1",
        ),
        (
            COMPARE,
            {"arm": ["precision", "third"], "against": "cross_entropy", "choose_on": 3},
            "compare[0]: 2 against 1 arms; give as many on each side",
        ),
        (
            ("claims", "again"),
            {"text": "T", "compare": [{"arm": "cross_entropy", "against": "precision"}]},
            "contrasts.claims.again.compare[0]: contrasts.claims.precision.compare[0] compares the",
        ),
        (("exploratory_regimes",), ["D"], "exploratory_regimes: 'D' is not a regime; choose from"),
        (("sd",), -1, "contrasts.sd: -1 is not a number above 0"),
        (("sd",), float("nan"), "contrasts.sd: nan is not a number above 0"),
        (("sd",), {"P": 0.1}, "contrasts.sd: {'P': 0.1} is not a number above 0"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_bad_contrasts_are_refused_by_name(
    tmp_path: Path, place: tuple[Any, ...], value: Any, named: str
) -> None:
    values = study_values(tmp_path)
    values["arms"]["third"] = {"checkpoint_of": "cross_entropy", "temperature": 0.5}
    values["contrasts"] = copy.deepcopy(SMALL)
    target: Any = values
    *parents, last = ("contrasts", *place)
    for key in parents:
        target = target[key]
    target[last] = value
    with pytest.raises(UserError, match=r".+") as caught:
        load(tmp_path, values)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arms_are_chosen_on_problems_alone(tmp_path: Path) -> None:
    values = study_values(tmp_path)
    values["arms"]["third"] = {"checkpoint_of": "cross_entropy", "temperature": 0.5}
    values["contrasts"] = copy.deepcopy(SMALL)
    values["contrasts"]["primary"] = {"stage": "rlvr", "metric": "reward"}
    assert load(tmp_path, values).contrasts is not None
    values["arms"]["fourth"] = {"checkpoint_of": "cross_entropy", "temperature": 0.6}
    sides = {"arm": ["precision", "third"], "against": ["cross_entropy", "fourth"]}
    pair = {**sides, "choose_on": 3}
    values["contrasts"]["claims"]["precision"]["compare"] = [pair]
    with pytest.raises(UserError, match="the primary metric is not of an eval stage"):
        load(tmp_path, values)


@pytest.mark.parametrize(
    ("metric", "fits"),
    [("avg@4", True), ("avg@8", False), ("pass@2", True), ("pass@5", False), ("cons@2", False)],
)
def test_the_samples_of_a_plan_suffice_for_the_metrics(
    tmp_path: Path, metric: str, fits: bool
) -> None:
    """The evaluation draws 4 samples, which is known before anything runs."""
    values = study_values(tmp_path)
    values["contrasts"] = SMALL | {"secondary": [SMALL["primary"] | {"metric": metric}]}
    study = load(tmp_path, values)
    if fits:
        check_measured(study.contrasts, plan(study))
        return
    with pytest.raises(UserError, match=f"{metric}: eval draws n=4 samples for each problem"):
        run_study(study)
    assert not study.out.exists()


def test_the_benchmark_of_a_contrast_is_one_that_the_stage_evaluates(tmp_path: Path) -> None:
    values = study_values(tmp_path)
    values["contrasts"] = SMALL
    for given, fits in (("{data}/problems.yaml", True), ("gsm8k,math500", False)):
        values["stages"]["eval"]["args"]["benchmarks"] = given
        study = load(tmp_path, values)
        if fits:
            check_measured(study.contrasts, plan(study))
            continue
        with pytest.raises(UserError, match="'problems'; choose from gsm8k, math500"):
            check_measured(study.contrasts, plan(study))


@pytest.mark.parametrize("sd", [0.01, None])
def test_a_resolved_study_keeps_its_contrasts(tmp_path: Path, sd: float | None) -> None:
    values = study_values(tmp_path)
    values["contrasts"] = SMALL | ({"sd": sd} if sd else {})
    study = load(tmp_path, values)
    assert study.contrasts is not None
    assert study.contrasts.sd == ({"": sd} if sd else {})
    again = tmp_path / "again.yaml"
    again.write_text(study.to_yaml())
    assert load_study(again, study.out) == study


def test_contrasts_follow_the_names_of_their_arms(tmp_path: Path) -> None:
    """A report adds the form of β to the names of arms."""
    values = study_values(tmp_path)
    values["contrasts"] = copy.deepcopy(SMALL)
    study = load(tmp_path, values).named_by_form()
    assert study.contrasts is not None
    expected = Contrast(("precision_exponent",), ("cross_entropy",))
    assert list(study.contrasts.each()) == [("precision", expected)]
    assert study.contrasts.primary == Metric("eval", "avg@4", "problems")


def test_regimes_and_lists_survive(tmp_path: Path) -> None:
    write_planted(tmp_path / "out")
    path = tmp_path / "out/study.yaml"
    values = yaml.safe_load(path.read_text())
    values["contrasts"] = PLANTED | {"exploratory_regimes": ["D"]}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    study = load_study(path, tmp_path / "out")
    path.write_text(study.to_yaml())
    assert load_study(path, tmp_path / "out") == study
    assert study.contrasts is not None
    assert study.contrasts.exploratory_regimes == ("D",)
    assert [contrast.choose_on for _, contrast in study.contrasts.each()] == [None, None, None, 4]
    for sd, named in (({"Q": 1}, "unknown key 'Q'; allowed: P, D"), (0.1, "is not a mapping")):
        values["contrasts"]["sd"] = sd
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        with pytest.raises(UserError, match=f"contrasts.sd: .*{named}"):
            load_study(path)


def test_the_example_in_the_documentation_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "docs/guides/contrasts.md").read_text()
    (example,) = re.findall(r"```yaml\n(contrasts:.*?)```", text, re.DOTALL)
    values = study_values(tmp_path)
    values["stages"]["eval_rlvr"] = values["stages"].pop("eval")
    values["regimes"] = {"P": {}, "D": {}}
    for name, other in (("cooled", "cross_entropy"), ("precision_cooled", "precision")):
        values["arms"][name] = {"checkpoint_of": other, "temperature": 0.75}
    study = load(tmp_path, values | yaml.safe_load(example))
    assert study.contrasts is not None
    assert len(list(study.contrasts.each())) == 3


def test_the_metrics_of_rl_that_a_study_may_name_are_those_of_the_report(
    read: list[RegimeRuns],
) -> None:
    measured = set(rl_outcomes(read[0], "cross_entropy", "rlvr"))
    assert measured
    assert measured <= set(LOGGED["rlvr"])
    assert set(HIGHER_IS_BETTER) <= measured
