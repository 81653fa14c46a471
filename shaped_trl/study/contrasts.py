"""The contrasts of a study: the comparisons that it is meant to decide, fixed before it runs.

A contrast is the difference of two arms in one primary metric. A claim is a text that is supported
where its contrasts are positive. The contrasts of a regime are one family: their p-values are
corrected together (`shaped_trl.study.reporting.verdicts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A quantity of a stage; in an evaluation, of one of its benchmarks."""

    stage: str
    metric: str
    benchmark: str | None = None


@dataclass(frozen=True)
class Contrast:
    """Own arms minus those against which they are compared.

    Args:
        arms: one arm, or several of which the best is chosen for each seed.
        against: likewise.
        choose_on: the best arm is chosen by the primary metric on this many first problems, and
            compared on the other problems alone; None if there is nothing to choose.
    """

    arms: tuple[str, ...]
    against: tuple[str, ...]
    choose_on: int | None = None

    @property
    def arm(self) -> str:
        """The name of the own side."""
        return _side(self.arms)

    @property
    def other(self) -> str:
        """The name of the other side."""
        return _side(self.against)


@dataclass(frozen=True)
class Claim:
    """What a study asks, and the contrasts that answer it."""

    text: str
    compare: tuple[Contrast, ...]


@dataclass(frozen=True)
class Contrasts:
    """The key `contrasts` of a study file.

    Args:
        primary: the metric by which contrasts are judged; higher is better.
        margin: differences within ± margin count as equivalent, in the metric's unit.
        claims: name → claim.
        secondary: metrics that are shown with intervals and without verdicts.
        exploratory_regimes: the regimes whose verdicts are said to be exploratory.
        sd: regime → the standard deviation of paired differences over seeds, from a pilot.
    """

    primary: Metric
    margin: float
    claims: Mapping[str, Claim]
    secondary: tuple[Metric, ...] = ()
    exploratory_regimes: tuple[str, ...] = ()
    sd: Mapping[str, float] = field(default_factory=dict)

    def each(self) -> Iterator[tuple[str, Contrast]]:
        """Yield every contrast with the name of its claim. They are the family of a regime."""
        for name, claim in self.claims.items():
            for contrast in claim.compare:
                yield name, contrast

    def renamed(self, names: Mapping[str, str]) -> Contrasts:
        """The same contrasts with other names of the arms."""
        claims = {
            name: replace(
                claim,
                compare=tuple(
                    replace(
                        each,
                        arms=tuple(names[arm] for arm in each.arms),
                        against=tuple(names[arm] for arm in each.against),
                    )
                    for each in claim.compare
                ),
            )
            for name, claim in self.claims.items()
        }
        return replace(self, claims=claims)

    def to_values(self) -> dict[str, Any]:
        """The value of the key in a study file."""
        values: dict[str, Any] = {
            "primary": _metric_values(self.primary),
            "margin": self.margin,
            "secondary": [_metric_values(each) for each in self.secondary],
            "claims": {
                name: {"text": claim.text, "compare": [_contrast_values(c) for c in claim.compare]}
                for name, claim in self.claims.items()
            },
            "exploratory_regimes": list(self.exploratory_regimes),
            # Of a study without regimes, it is one number.
            "sd": self.sd.get("") or dict(self.sd),
        }
        return {key: value for key, value in values.items() if value not in ([], {})}


def _side(arms: tuple[str, ...]) -> str:
    return arms[0] if len(arms) == 1 else f"best of {', '.join(arms)}"


def _metric_values(metric: Metric) -> dict[str, str]:
    return {key: value for key, value in vars(metric).items() if value is not None}


def _contrast_values(contrast: Contrast) -> dict[str, Any]:
    if contrast.choose_on is None:
        return {"arm": contrast.arms[0], "against": contrast.against[0]}
    return {
        "arm": list(contrast.arms),
        "against": list(contrast.against),
        "choose_on": contrast.choose_on,
    }
