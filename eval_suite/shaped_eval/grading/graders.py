"""The table of graders: what `Problem.grader` names.

A grader is a function ``grade(completion, gold) -> (status, answer)``. An isolated one may hang,
crash or eat memory on hostile text and runs in a killable worker process; the others are linear in
the text and run in place. Change a grader's version with anything that can change a verdict:
verdicts stamped otherwise are graded again.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading.gym import grader as reasoning_gym
from shaped_eval.records import Status

GradeFunction = Callable[[str, str], tuple[Status, str | None]]


@dataclass(frozen=True)
class GraderSpec:
    """One grader.

    function: ``module:name``, imported at first use.
    version: stamped on every verdict.
    isolated: run in a worker process.
    reduce: ``module:name`` of ``completion -> the part that decides``, cheap and safe in place;
        equal parts are graded once.
    forget: ``module:name`` of a function that undoes what grading has left in the worker.
    check: ``module:name`` of a function that raises UserError where this machine cannot run the
        grader.
    soft_timeout_s, hard_timeout_s: CPU and wall time of an item, where it needs more than the pool
        allows by default.
    votes: answers can be counted against each other without gold. A program's answer is what became
        of its tests, so who counts such votes has seen the verdicts.
    """

    function: str
    version: str
    isolated: bool = False
    reduce: str | None = None
    forget: str | None = None
    check: str | None = None
    soft_timeout_s: float = 0.0
    hard_timeout_s: float = 0.0
    votes: bool = True


GRADERS: dict[str, GraderSpec] = {
    "math": GraderSpec(
        function="shaped_eval.grading.math.grader:grade",
        version=f"math/4 (math-verify {metadata.version('math-verify')})",
        isolated=True,
        reduce="shaped_eval.grading.extract:boxed_or_tail",
        forget="shaped_eval.grading.math.algebra:forget",
    ),
    "gsm8k": GraderSpec(function="shaped_eval.grading.text.gsm8k:grade", version="gsm8k/3"),
    "choice": GraderSpec(function="shaped_eval.grading.text.choice:grade", version="choice/3"),
    "exact_match": GraderSpec(
        function="shaped_eval.grading.text.exact_match:grade", version="exact_match/2"
    ),
    "text": GraderSpec(function="shaped_eval.grading.text.aliases:grade", version="text/3"),
    "code": GraderSpec(
        function="shaped_eval.grading.code.grader:grade",
        version=f"code/3 (Python {platform.python_version()})",
        isolated=True,
        check="shaped_eval.grading.sandbox.server:check_sandbox",
        hard_timeout_s=150.0,
        votes=False,
    ),
    "reasoning_gym": GraderSpec(
        function="shaped_eval.grading.gym.grader:grade",
        version=f"reasoning_gym/2 (reasoning-gym {reasoning_gym.version()})",
        isolated=True,
        check="shaped_eval.grading.gym.grader:check_grader",
        hard_timeout_s=90.0,
        # several answers may be right, and the passes among them are gathered under the task's own
        votes=False,
    ),
    "running_sums": GraderSpec(
        function="shaped_eval.grading.text.running_sums:grade", version="running_sums/1"
    ),
}


# Graders whose gold may be a JSON list of texts, each of them right.
TAKE_ALIASES = ("exact_match", "text")


def grader_spec(name: str) -> GraderSpec:
    """The grader of this name.

    Raises:
        UserError: there is none.
    """
    if name not in GRADERS:
        raise UserError(f"grader={name!r} does not exist: use one of {', '.join(sorted(GRADERS))}")
    return GRADERS[name]


@cache
def load(path: str) -> Callable[..., Any]:
    """The function at ``module:name``."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
