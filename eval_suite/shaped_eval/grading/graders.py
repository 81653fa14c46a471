"""The table of graders: what `Problem.grader` names.

A grader is a function ``grade(completion, gold) -> (status, answer)``. An isolated one may hang,
crash or eat memory on hostile text and runs in a killable worker process; the others are linear in
the text and run in place. Change a grader's version with anything that can change a verdict:
verdicts stamped otherwise are graded again.

Beside the table there are graders of installed packages, by entry points of the group
`ENTRY_POINTS`, and the user's own, named by their path ``package.module:name``. Either is a
function as above, or a class without arguments whose instances are called like one. They run in a
worker. A path is accepted only from the user (`grader_spec` with ``typed=True``): a run's
problems.jsonl may come from anyone.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from sys import modules
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading.gym import grader as reasoning_gym
from shaped_eval.provenance import installed_version
from shaped_eval.untrusted.own_code import installed, is_path, load_own

ENTRY_POINTS = "shaped_trl.graders"
KEPT = "; reasoning kept"  # after the version in a stamp, with `--keep_reasoning`


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
        version=f"math/5 (math-verify {metadata.version('math-verify')})",
        isolated=True,
        reduce="shaped_eval.grading.extract:boxed_or_tail",
        forget="shaped_eval.grading.math.algebra:forget",
    ),
    "gsm8k": GraderSpec(function="shaped_eval.grading.text.gsm8k:grade", version="gsm8k/4"),
    "choice": GraderSpec(function="shaped_eval.grading.text.choice:grade", version="choice/4"),
    "exact_match": GraderSpec(
        function="shaped_eval.grading.text.exact_match:grade", version="exact_match/3"
    ),
    "text": GraderSpec(function="shaped_eval.grading.text.aliases:grade", version="text/4"),
    "code": GraderSpec(
        function="shaped_eval.grading.code.grader:grade",
        version=f"code/4 (Python {platform.python_version()})",
        isolated=True,
        check="shaped_eval.grading.sandbox.server:check_sandbox",
        hard_timeout_s=150.0,
        votes=False,
    ),
    "contest": GraderSpec(
        function="shaped_eval.grading.code.contest:grade",
        version=f"contest/1 (Python {platform.python_version()})",
        isolated=True,
        check="shaped_eval.grading.sandbox.server:check_sandbox",
        soft_timeout_s=60.0,  # of this side alone, which decodes tests of up to 256 MiB
        hard_timeout_s=1200.0,
        votes=False,
    ),
    "ifeval": GraderSpec(
        function="shaped_eval.grading.text.ifeval:grade",
        version=f"ifeval/1 (lm-eval {installed_version('lm_eval')})",
        isolated=True,
        check="shaped_eval.grading.text.ifeval:check_grader",
        soft_timeout_s=30.0,  # with the import of lm-eval
        hard_timeout_s=120.0,
        # a response is followed or not, and responses that follow are not one answer
        votes=False,
    ),
    "reasoning_gym": GraderSpec(
        function="shaped_eval.grading.gym.grader:grade",
        version=f"reasoning_gym/3 (reasoning-gym {reasoning_gym.version()})",
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


# The user's own, by the paths that he typed in this process.
_TYPED: dict[str, GraderSpec] = {}


def grader_spec(name: str, typed: bool = False) -> GraderSpec:
    """The grader of this name.

    Args:
        name: of the table, of an installed package's entry point, or the path of one's own.
        typed: whether the user typed the name, on the command line or in his own recipe or
            benchmark file. A path is then loaded, and accepted in this process from then on.

    Raises:
        UserError: there is no such grader; the path is wrong; or it is in data and the user did
            not type it.
    """
    if name in GRADERS:
        return GRADERS[name]
    if name in _TYPED:
        return _TYPED[name]
    if is_path(name):
        if not typed:
            raise UserError(
                f"grader={name!r} is Python code that this data names; it runs only if you name it "
                f"as well: --grader {name}"
            )
        _TYPED[name] = _own_spec(name)
        return _TYPED[name]
    points = installed(ENTRY_POINTS)
    if name in points:
        return _installed_spec(points[name])
    known = ", ".join(sorted([*GRADERS, *points]))
    raise UserError(
        f"grader={name!r} does not exist: use one of {known}, or one of your own by its path, "
        "package.module:name"
    )


def typed_graders() -> list[str]:
    """The paths of graders that the user typed in this process."""
    return list(_TYPED)


def counts_votes(name: str) -> bool:
    """`GraderSpec.votes` of a grader; its code is not loaded."""
    return is_path(name) or grader_spec(name).votes


def is_current(version: str) -> bool:
    """Whether a verdict's stamp is of a grader as it is now.

    Of one's own graders that is not known without loading their code: they count as current.
    """
    version = version.removesuffix(KEPT)
    specs = [*GRADERS.values(), *map(_installed_spec, installed(ENTRY_POINTS).values())]
    return is_path(version.partition("/")[0]) or any(spec.version == version for spec in specs)


def _own_spec(path: str) -> GraderSpec:
    """Its version is a hash of the module's file, so that a change of that file grades again."""
    load_own("grader", path)
    file = getattr(modules[path.partition(":")[0]], "__file__", None)
    digest = hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()[:12]
    return GraderSpec(path, version=f"{path}/{digest}", isolated=True)


def _installed_spec(point: metadata.EntryPoint) -> GraderSpec:
    version = point.dist.version if point.dist else ""
    return GraderSpec(point.value, version=f"{point.name}/{version}", isolated=True)


@cache
def load(path: str) -> Callable[..., Any]:
    """The function at ``module:name``; of a class, an instance."""
    module, _, name = path.partition(":")
    found = getattr(import_module(module), name)
    return found() if isinstance(found, type) else found
