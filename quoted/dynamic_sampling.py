"""What `docs/results/dynamic-sampling.md` quotes."""

from __future__ import annotations

import numpy as np

from quoted.pages import Page
from quoted.records import Number, over_seeds, rows
from quoted.values import Interval

FOLDER = "recipes/studies/results/dynamic_sampling"


def column(name: str) -> np.ndarray:
    """A column of the table of seeds [S]."""
    return np.array([float(seed[name]) for seed in rows(f"{FOLDER}/seeds.csv")])


def difference(on: str, off: str) -> Interval:
    return over_seeds(column(on) - column(off))


def line(what: str, on: str, off: str) -> str:
    """A line of the table."""
    found = difference(on, off)
    return (
        f"| {what} | {Number(column(on).mean()):.3f} | {Number(column(off).mean()):.3f} "
        f"| {found:+.3f} {found:[+.3f]} |"
    )


def greedy_quote() -> str:
    """What greedy decoding solves before RL, seeds in the order of their shares."""
    seeds = rows(f"{FOLDER}/greedy.csv")
    shares = sorted((float(seed["greedy before RL"]) for seed in seeds), reverse=True)
    (problems,) = {int(seed["problems"]) for seed in seeds}
    others = [Number(share) for share in shares if share != shares[0]]
    solved = Number(round(shares[0] * problems))
    return (
        f"solves {solved} of {Number(problems)} problems, which is {Number(shares[0]):.3f}, in "
        f"five of eight seeds, and {others[0]:.3f}, {others[1]:.3f} and {others[2]:.3f}"
    )


tokens = Number(column("tokens on").mean() / column("tokens off, equal steps").mean())

PAGE = Page(
    "docs/results/dynamic-sampling.md",
    quotes=[
        f"over {Number(len(column('on')))} seeds",
        line("at equal optimizer steps", "on", "off, equal steps"),
        line("at equal rollout tokens", "on", "off, equal tokens"),
        line("mean of the curve, by rollout tokens", "mean on, by tokens", "mean off, by tokens"),
        f"took {tokens:.1f} times the tokens",
        greedy_quote(),
    ],
    settings=[
        *("for 40 optimizer steps", "2026-11-26, commit f9eddcf, 1 CPU core"),
        "2026-11-29, commit a56f400, 1 CPU core, torch 2.13",
    ],
)
