"""Read the committed records: the results and the curves of studies, and rows of measurements."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from quoted.pages import ROOT
from quoted.values import Interval, Number, marked

STUDIES = "recipes/studies/results"
BASELINE = "cross_entropy"

Values = NDArray[np.float64]  # [S], one for each seed


@functools.cache
def rows(path: str) -> list[dict[str, str]]:
    """The rows of a CSV file; `path` is from the root of the repository."""
    with (ROOT / path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def row(path: str, **wanted: str) -> dict[str, str]:
    """The one row with these values.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = [each for each in rows(path) if wanted.items() <= each.items()]
    if len(found) != 1:
        raise ValueError(f"{path}: {len(found)} rows have {wanted}; there must be one")
    return found[0]


def number(of: dict[str, str], column: str) -> Number:
    """A number of a row."""
    return Number(of[column])


def ratio(of: dict[str, str], name: str) -> Interval:
    """A ratio of a row with its interval, from `name`, `name`_low and `name`_high."""
    return Interval(*(float(of[name + end]) for end in ("", "_low", "_high")))


def over_seeds(values: ArrayLike) -> Interval:
    """The mean over seeds and its 95% t interval, from values [S]."""
    array = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return Interval(array.mean(), array.mean() - half, array.mean() + half)


class Study:
    """The records of one study in `recipes/studies/results`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = f"{STUDIES}/{name}"
        path = ROOT / self.folder / "results.json"
        self.results = json.loads(path.read_text(encoding="utf-8"))
        lines = (ROOT / self.folder / "records.jsonl").read_text(encoding="utf-8").splitlines()
        self.records = {each["key"]: each for each in map(json.loads, lines)}
        self.outcomes = [each["outcome"] for each in self.records.values() if "outcome" in each]

    @property
    def seeds(self) -> Number:
        return Number(len(self.results["seeds"]))

    @property
    def runs(self) -> Number:
        """How many runs finished."""
        return Number(len(self.outcomes))

    @property
    def problems(self) -> Number:
        """How many problems every evaluation has."""
        (count,) = {
            benchmark["problems"]
            for regime in self.results["regimes"].values()
            for arm in regime["arms"].values()
            for stage in arm["evaluations"].values()
            for benchmark in stage.values()
        }
        return Number(count)

    @property
    def core_hours(self) -> Number:
        return Number(sum(outcome["cpu_seconds"] for outcome in self.outcomes) / 3600)

    @property
    def date(self) -> str:
        """The day of all its runs."""
        (day,) = {outcome["date"] for outcome in self.outcomes}
        return marked(day)

    @property
    def commit(self) -> str:
        """The commit of all its runs."""
        (made,) = self.results["made_with"]
        return marked(made["commit"][:7])

    def verdict(self, claim: str) -> str:
        (found,) = [each for each in self.results["claims"] if each["claim"] == claim]
        return marked(found["verdict"])

    def effect(
        self, metric: str, arm: str, against: str = BASELINE, stage: str = "rlvr", regime: str = ""
    ) -> Interval:
        """A difference over the seeds in points; in % where the study has it relative."""
        found = self._effect(metric, arm, against, stage, regime)
        return Interval(*(100 * found[name] for name in ("value", "low", "high")))

    def p(
        self, metric: str, arm: str, against: str = BASELINE, stage: str = "rlvr", regime: str = ""
    ) -> Number:
        """The p-value of an effect, corrected among the arms unless the arm is exploratory."""
        found = self._effect(metric, arm, against, stage, regime)
        return Number(found["p_value" if found["exploratory"] else "p_corrected"])

    def detectable(self, metric: str, arm: str, against: str, regime: str) -> Number:
        """The difference in RL, in points, that is found in four of five cases, uncorrected."""
        return Number(100 * self._effect(metric, arm, against, "rlvr", regime)["minimum_effect"])

    def _effect(self, metric: str, arm: str, against: str, stage: str, regime: str) -> dict:
        asked = {"metric": metric, "arm": arm, "against": against, "stage": stage}
        asked["regime"] = regime
        found = [each for each in self.results["effects"] if asked.items() <= each.items()]
        if len(found) != 1:
            raise ValueError(f"{self.name}: {len(found)} effects are {asked}; there must be one")
        return found[0]

    def held_out(
        self, quantity: str, arm: str, against: str = BASELINE, regime: str = ""
    ) -> Interval:
        """What an arm's training changes on held-out tokens, in % of the other arm's."""
        asked = {"arm": arm, "against": against, "quantity": quantity}
        (found,) = [
            each
            for each in self.results["regimes"][regime]["training_differences"]
            if asked.items() <= each.items()
        ]
        return Interval(*(100 * found[name] for name in ("value", "low", "high")))

    def temperature(self, arm: str, regime: str = "") -> Number:
        """The mean over the seeds of an arm's temperature."""
        return Number(np.mean(list(self.results["regimes"][regime]["temperatures"][arm].values())))

    def log(self, key: str) -> dict[str, list[float]]:
        """The log of a training run, a list for each column."""
        return self.records[key]["log"]

    def curves(self, figure: str, arm: str, regime: str = "") -> NDArray[np.float64]:
        """An arm's curve for each seed [S, steps], from the numbers of a figure of the report."""
        by_seed: dict[int, list[float]] = {}
        for each in self._points(figure, arm, regime):
            by_seed.setdefault(int(each["seed"]), []).append(float(each["y"]))
        return np.array([by_seed[seed] for seed in sorted(by_seed)])

    def _points(self, figure: str, arm: str, regime: str) -> list[dict[str, str]]:
        """The points of the seeds of an arm. Many arms are divided among several figures."""
        folder = ROOT / self.folder / "report"
        names = sorted(
            path.name
            for pattern in (f"{figure}.csv", f"{figure}_exploratory_*.csv")
            for path in folder.glob(pattern)
        )
        found = [
            [
                each
                for each in rows(f"{self.folder}/report/{name}")
                if (each["regime"], each["arm"]) == (regime, arm) and each["seed"] != "mean"
            ]
            for name in names
        ]
        return next(points for points in found if points)

    def evaluations(self, stage: str, arm: str, regime: str = "") -> Values:
        """An arm's Avg@n at a stage for each seed [S], in points."""
        points = {
            int(each["seed"]): float(each["y"])
            for each in self._points("avg", arm, regime)
            if each["x"] == stage
        }
        return 100 * np.array([points[seed] for seed in sorted(points)])


def bound(p: float) -> Number:
    """The least of the usual bounds of a p-value that is above it."""
    return Number(next(each for each in (0.001, 0.01, 0.05, 1) if p < each))


def ahead(values: Sequence[float] | Values) -> Number:
    """In how many seeds a difference [S] is positive."""
    return Number(int(np.sum(np.asarray(values) > 0)))
