"""Detect a run that does not learn, and name the cause.

A generation batch in which the rewards of every group are equal has no gradient. After
`no_signal_patience` such batches in a row the cause is named, with counts: the reward function
raises; nothing is graded; answers are cut off at the length limit; the grader finds no answer in
them; all are right; all are wrong, or have the same reward, where rewards are not 0 and 1; or the
policy has collapsed onto one answer (its entropy and response length are compared with those of the
first steps). `on_no_signal` decides whether the run then stops, warns, or goes on.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from shaped_eval.errors import UserError

from shaped_trl.rlvr.ledger import Ledger

logger = logging.getLogger(__name__)

CHOICES = ("stop", "warn", "ignore")
# optimizer steps with whose mean entropy and response length later ones are compared
FIRST_STEPS = 10
COLLAPSED = 0.1  # share of the first steps' entropy below which the policy counts as collapsed
ONE_ANSWER_NATS = 1e-3  # entropy below which it counts as collapsed in any case
SHORTER = 0.5  # share of the first steps' response length


class NoLearningSignal(UserError):
    """A run was stopped because no group had a learning signal; the message names the cause."""


class SignalDetector:
    """Follows generation batches and entropy; equal calls in all processes give equal answers.

    Args:
        choice: `stop`, `warn` or `ignore`.
        patience: generation batches in a row without an informative group, before `verdict` gives
            a reason.
    """

    def __init__(self, choice: str, patience: int):
        self.choice, self.patience = choice, patience
        self.silent = Ledger()  # the batches since the last informative group
        self.entropies: list[float] = []  # of the first steps
        self.lengths: list[float] = []
        self.entropy = self.length = float("nan")  # of the last step
        self.error: str | None = None  # the last exception of a reward function
        self.warned_of_collapse = False

    def batch(self, ledger: Ledger, has_signal: bool, error: str | None = None) -> None:
        """Record a generation batch.

        Args:
            ledger: its counts.
            has_signal: whether any of its groups has a gradient.
            error: what the reward function raised last, if anything.
        """
        self.error = error or self.error
        if ledger.completions:  # otherwise all groups were left over from the batch before
            self.length = ledger.rollout_tokens / ledger.completions
        if has_signal:
            self.silent = Ledger()
        else:
            self.silent += ledger

    def step(self, entropy: float) -> None:
        """Record the policy's entropy (nats a token) in an optimizer step; warn, once, of a
        collapse."""
        self.entropy = entropy
        if len(self.entropies) < FIRST_STEPS:
            self.entropies.append(entropy)
            self.lengths.append(self.length)
        shorter = self.length < SHORTER * _mean(self.lengths)
        if (
            self.choice != "ignore"
            and not self.warned_of_collapse
            and self._collapsed()
            and shorter
        ):
            self.warned_of_collapse = True
            logger.warning(f"the policy may be collapsing: {self._against_first()}")

    def verdict(self) -> str | None:
        """Why there is no learning signal, after `patience` batches without one; otherwise None. A
        reason is given once: the count starts again."""
        if self.choice == "ignore" or self.silent.batches < self.patience:
            return None
        reason = f"no learning signal: {self._cause()} [{self._counts()}]"
        self.silent = Ledger()
        return reason

    def _cause(self) -> str:
        s = self.silent
        right_or_wrong = s.completions_between == 0
        wrong = max(s.completions - s.completions_right, 1)
        if s.rewards_raised > s.completions / 2:
            return f"the reward function raises ({self.error}): fix it"
        if s.completions_ungraded > s.completions / 2:
            return (
                "most completions get no reward: the reward function gives None, or its grader "
                "failed (see the column `verdict`)"
            )
        all_right = s.groups_all_right == s.groups_sampled - s.groups_ungraded
        if right_or_wrong and all_right and s.groups_all_right > s.groups_sampled / 2:
            return "all answers are right: give harder prompts"
        if self._collapsed():
            return (
                f"entropy collapse: {self._against_first()}; go back to a checkpoint, lower "
                "learning_rate"
            )
        if not right_or_wrong:
            return (
                "the completions of each prompt all get the same reward: give a reward that tells "
                "them apart, prompts on which it varies, or more num_generations"
            )
        if s.completions_truncated > wrong / 2:
            return (
                "most completions are cut off at max_completion_length: raise it, or begin with a "
                "model that ends its answers"
            )
        if s.completions_unparsed > (wrong - s.completions_truncated) / 2:
            return (
                "the grader finds no answer in most completions: check that grader and prompt "
                "agree on its form (log_completions: true shows them)"
            )
        if s.groups_all_right:
            return (
                "every prompt is either always right or never: give prompts in between, or more "
                "num_generations"
            )
        return "all answers are wrong: give easier prompts, more num_generations or a better model"

    def _collapsed(self) -> bool:
        first = _mean(self.entropies)
        return self.entropy < max(COLLAPSED * first, ONE_ANSWER_NATS)

    def _against_first(self) -> str:
        return (
            f"entropy {self.entropy:.2g} nats and {self.length:.3g} tokens a response, against "
            f"{_mean(self.entropies):.2g} and {_mean(self.lengths):.3g} in the first "
            f"{len(self.entropies)} steps"
        )

    def _counts(self) -> str:
        s = self.silent
        equal = {"all right": s.groups_all_right, "all wrong": s.groups_all_wrong}
        right = {"right": s.completions_right}
        if s.completions_between:
            equal, right = {"with equal rewards": s.groups_all_right + s.groups_all_wrong}, {}
        counts = {
            **equal,
            "cut off": s.groups_truncated,
            "without an answer": s.groups_unparsed,
            "not graded": s.groups_ungraded,
        }
        groups = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        parts = {
            **right,
            "cut off": s.completions_truncated,
            "without an answer": s.completions_unparsed,
            "not graded": s.completions_ungraded,
            "for which the reward raised": s.rewards_raised,
        }
        shown = [f"{count:,} {name}" for name, count in parts.items() if count]
        if s.completions_between:
            shown.append(
                f"mean reward {s.reward_sum / (s.completions - s.completions_ungraded):.3g}"
            )
        completions = ", ".join(shown) or "all wrong"
        return (
            f"the last {s.batches:,} generation batches: {s.groups_sampled:,} groups ({groups}); "
            f"{s.completions:,} completions ({completions})"
        )

    def state_dict(self) -> dict[str, Any]:
        """JSON of what `load_state_dict` needs."""
        return {
            "silent": asdict(self.silent),
            "entropies": self.entropies,
            "lengths": self.lengths,
            "warned_of_collapse": self.warned_of_collapse,
            "error": self.error,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.silent = Ledger(**state["silent"])
        self.entropies, self.lengths = list(state["entropies"]), list(state["lengths"])
        self.warned_of_collapse = state["warned_of_collapse"]
        self.error = state.get("error")  # absent from checkpoints of earlier versions


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
