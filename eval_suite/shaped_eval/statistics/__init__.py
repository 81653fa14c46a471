"""Statistics of samples and verdicts: `means` of problems, `votes`, and `reliability`."""

from shaped_eval.statistics.means import (
    CONFIDENCE,
    Interval,
    PairedDifference,
    avg_at_m,
    near_edge,
    paired_difference,
    pass_at_k,
    problem_interval,
    sampling_se,
    table_se,
)
from shaped_eval.statistics.reliability import all_at_k, g_pass_at_k
from shaped_eval.statistics.votes import (
    Ballot,
    Values,
    ballots,
    cons,
    cons_at_m,
    maj_at_k,
    vote_sampling_se,
)

__all__ = [
    "CONFIDENCE",
    "Ballot",
    "Interval",
    "PairedDifference",
    "Values",
    "all_at_k",
    "avg_at_m",
    "ballots",
    "cons",
    "cons_at_m",
    "g_pass_at_k",
    "maj_at_k",
    "near_edge",
    "paired_difference",
    "pass_at_k",
    "problem_interval",
    "sampling_se",
    "table_se",
    "vote_sampling_se",
]
