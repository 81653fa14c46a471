"""Sets of benchmarks: the groups of the paper (arXiv 2512.22955) and the suites of ``--suite``.

The five groups hold the 19 benchmarks of the paper, 4 + 6 + 3 + 4 + 2. A suite names benchmarks
whether or not their extras are installed, and `registry.check_names` says which extra is missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from shaped_eval.errors import UserError

GROUPS: dict[str, tuple[str, ...]] = {
    "knowledge": ("mmlu", "mmlu_pro", "triviaqa", "nq"),
    "commonsense": ("hellaswag", "siqa", "piqa", "winogrande", "openbookqa", "commonsenseqa"),
    "logic": ("arc_easy", "arc_challenge", "bbh"),
    "math": ("gsm8k", "math500", "minerva", "olympiadbench"),
    "code": ("humanevalplus", "mbppplus"),
}
BASE = tuple(name for names in GROUPS.values() for name in names)
RL = ("amc23", "aime24", "aime25", "math500", "minerva", "olympiadbench")
MATH2026 = ("aime26", "hmmt_feb26", "hmmt_feb25", "brumo25", "cmimc25", "beyondaime")
MODERN = ("mmlu_pro", "mmlu_redux", "gpqa_diamond", "ifeval", "livecodebench_v6", *MATH2026)
SUITES: dict[str, tuple[str, ...]] = {
    "base": BASE,
    "math": GROUPS["math"],
    "code": GROUPS["code"],
    "rl": RL,
    "math2026": MATH2026,
    "modern": MODERN,
    # not the newer sets, so that a run of it that has begun can be finished
    "all": (*BASE, "amc23", "aime24", "aime25", "humaneval", "mbpp"),
}


def suite_names(suite: str) -> list[str]:
    """The benchmarks of a suite, in the table's order.

    Raises:
        UserError: the suite is unknown; the message has the nearest name.
    """
    if suite not in SUITES:
        close = difflib.get_close_matches(suite, SUITES, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"suite={suite!r} is unknown: choose from {', '.join(SUITES)}{guess}")
    return list(SUITES[suite])


def named_benchmarks(benchmarks: str, suite: str | None) -> list[str]:
    """The names that ``--benchmarks A,B`` or ``--suite S`` stands for; they are not checked here.

    Raises:
        UserError: both options are given, or the suite is unknown.
    """
    if suite and benchmarks:
        raise UserError(f"benchmarks={benchmarks!r} and suite={suite!r} are both given: give one")
    if suite:
        return suite_names(suite)
    return [name.strip() for name in benchmarks.split(",") if name.strip()]


def group_of(benchmark: str) -> str | None:
    """The paper's group of a benchmark; None if it has none, as aime24."""
    return next((group for group, names in GROUPS.items() if benchmark in names), None)


def group_averages(values: Mapping[str, float]) -> dict[str, float]:
    """Unweighted means over each group, over ``rl``, and over ``base``, which is all 19.

    A set of which a benchmark has no value is left out, because a mean over some of its benchmarks
    cannot be compared with one over all.

    Args:
        values: benchmark → value.
    """
    complete = {**GROUPS, "rl": RL, "base": BASE}
    return {
        name: sum(values[benchmark] for benchmark in names) / len(names)
        for name, names in complete.items()
        if all(benchmark in values for benchmark in names)
    }
