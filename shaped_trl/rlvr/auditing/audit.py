"""Audit a reward before the first step: can it be earned without solving the task?

A policy finds every answer that the grader accepts. `audit_reward` grades the fixed set of
`blind_answers` on a sample of the prompts by the accuracy reward alone, each answer bare and in the
forms that the prompts ask for. An answer that passes on more than a share of the prompts
(`audit_threshold`) would be learnt in place of the task.

Where the golds have few values, a constant answer is often right. The bar is then the share of the
most frequent gold, if that is above the threshold: on the same prompts a constant answer passes
more often only if the grader accepts wrong answers. An answer that depends on the prompt may exceed
that share by chance, and is allowed three standard errors more.

All answers are tried on the first 16 prompts of the sample. Those that passed on any of these are
tried on the rest: an answer that would pass on 30% of the prompts is missed with a probability of
0.003. A form in which the grader finds none of the answers on the first two prompts is not tried on
more.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from accelerate.utils import broadcast_object_list
from datasets import Dataset
from shaped_eval.errors import UserError

from shaped_trl.rlvr.auditing.blind_answers import (
    BARE,
    BlindAnswer,
    blind_answers,
    forms,
    read_form,
    shown,
    write,
)
from shaped_trl.rlvr.auditing.golds import Golds, golds_of
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.rewards import VerdictReward

logger = logging.getLogger(__name__)

FORM_PROMPTS = 2  # prompts on which each form is tried, to find those that the grader reads
FIRST_PROMPTS = 16  # prompts on which every answer is tried
FEW_VALUES = 5
STANDARD_ERRORS = 3
LONGEST_TABLE = 8
Row = dict[str, Any]
Pair = tuple[BlindAnswer, str]  # an answer and its form


@dataclass(frozen=True)
class Tried:
    """One blind answer in one form, and the number of prompts on which it passed."""

    answer: BlindAnswer
    form: str
    passed: int
    prompts: int

    @property
    def share(self) -> float:
        return self.passed / self.prompts

    def written(self) -> str:
        return "bare" if self.form == BARE else "written " + " ".join(self.form.split())


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    reward: the name of the reward, or of its grader.
    prompts: size of the sample.
    tried: the answers in their forms, the most successful first.
    golds: the golds of the sample.
    ungraded: number of gradings without a verdict.
    threshold: the share of the prompts on which an answer may pass where golds have many values.
    """

    reward: str
    prompts: int
    tried: list[Tried]
    golds: Golds
    ungraded: int
    threshold: float

    @property
    def few_values(self) -> bool:
        return 0 < self.golds.values <= FEW_VALUES

    def bar(self, constant: bool = True) -> float:
        """The share of the prompts on which an answer may pass."""
        share = self.golds.share
        if not self.few_values or share <= self.threshold:
            return self.threshold
        return (
            share
            if constant
            else share + STANDARD_ERRORS * math.sqrt(share * (1 - share) / self.prompts)
        )

    def refused(self) -> list[Tried]:
        """The answers above their bar, the most successful first."""
        return [one for one in self.tried if one.share > self.bar(one.answer.constant) + 1e-9]

    def refusal(self) -> str | None:
        """One line about the most successful answer above its bar: which, how often, and what to
        do. None where no answer is above it."""
        refused = self.refused()
        if not refused:
            return None
        worst, bar = refused[0], f"audit_threshold={self.threshold:g}"
        if self.bar() != self.threshold:
            bar = f"the most frequent gold's share of {self.golds.share:.0%}"
        others = f", and {len(refused) - 1} more with it" if len(refused) > 1 else ""
        return (
            f"audit_reward: the blind answer {worst.answer.name}, {worst.written()}, is rewarded "
            f"on {worst.passed} of {worst.prompts} prompts ({worst.share:.0%}), above "
            f"{bar}{others}; RL would learn it in place of the task: take another task, other data "
            "or another grader; or give --audit_reward warn, or a higher --audit_threshold, where "
            "it is right that it passes"
        )

    def table(self) -> str:
        """A line for each of the most successful answers, and lines about the golds."""
        forms_tried = list(dict.fromkeys(one.written() for one in self.tried))
        answers = len(self.tried) // len(forms_tried)
        passing, refused = [one for one in self.tried if one.passed], self.refused()
        width = max((len(one.answer.name) for one in passing[:LONGEST_TABLE]), default=0)
        lines = [
            f"audit of the reward ({self.reward}): {answers} blind answers on {self.prompts} "
            f"prompts, {', '.join(sorted(forms_tried))}"
        ]
        for one in passing[:LONGEST_TABLE]:
            mark = "; above the bar" if one in refused else ""
            lines.append(f"  {one.share:4.0%}  {one.answer.name:{width}}  {one.written()}{mark}")
        if len(passing) > LONGEST_TABLE:
            lines.append(f"  and {len(passing) - LONGEST_TABLE} more that passed")
        lines += [] if passing else ["  none passed"]
        return "\n".join(lines + self._on_golds())

    def _on_golds(self) -> list[str]:
        golds, lines = self.golds, []
        if golds.passed is not None:
            lines.append(f"  {golds.passed} of the {self.prompts} golds pass as answers")
        if self.few_values:
            values = f"{golds.values} value{'s' if golds.values > 1 else ''}"
            lines.append(
                f"  the golds have {values}, the most frequent is {shown(golds.frequent[0])} on "
                f"{golds.share:.0%}: the bar is {self.bar():.0%}"
            )
        if self.ungraded:
            lines.append(f"  {self.ungraded} gradings had no verdict (timeout or error)")
        return lines


def audit_reward(
    reward: Callable[..., list],
    dataset: Any,
    *,
    seed: int = 0,
    prompts: int = 64,
    threshold: float = 0.3,
) -> Audit:
    """Grade blind answers on a sample of a data set's prompts.

    Args:
        reward: a reward function as TRL calls it; more than 0 is a pass. It is called with
            ``prompts``, ``completions`` and the data set's other columns.
        dataset: has the column ``prompt`` (texts or chats), and may have ``gold``.
        seed: draws the sample, random text, and which golds are exchanged.
        prompts: size of the sample; from a streamed data set, the first rows are taken.
        threshold: share of the prompts on which an answer may pass.

    Raises:
        UserError: the data set is empty.
    """
    rng = random.Random(seed)
    rows = _sample(dataset, prompts, rng)
    if not rows:
        raise UserError("audit_reward: the data set has no rows")
    texts = [_text(row["prompt"]) for row in rows]
    grader = reward.grader if isinstance(reward, VerdictReward) else None
    written = list(dict.fromkeys(form for text in texts for form in forms(text, grader)))
    golds = Golds()
    if "gold" in rows[0]:
        golds = golds_of(
            reward,
            [row["gold"] for row in rows],
            _other_golds(dataset, rng),
            [read_form(grader), BARE],
        )
    pairs = [
        (one, form)
        for one in blind_answers(texts, golds.texts, golds.frequent, seed)
        for form in written
    ]
    tried, ungraded = _try(reward, rows, pairs)
    name = grader or str(getattr(reward, "__name__", type(reward).__name__))
    return Audit(name, len(rows), tried, golds, ungraded, threshold)


def audit_before_training(reward: Any, dataset: Any, args: RLVRConfig) -> None:
    """Audit the reward as the option `audit_reward` says. The first process audits and decides for
    all of them.

    A reward other than a `VerdictReward` is not audited: the meaning of its numbers is not known
    here.

    Raises:
        UserError: a blind answer passes too often, and `audit_reward` is neither `warn` nor `off`;
            or the data set has no golds.
    """
    reward = getattr(reward, "function", reward)  # without its guard
    if args.audit_reward == "off" or not isinstance(reward, VerdictReward):
        return
    columns = getattr(dataset, "column_names", None)
    if columns is not None and "gold" not in columns:
        raise UserError(
            f"train_dataset has the columns {columns}: the accuracy reward needs the column gold"
        )
    shared: list[str | None] = [None]
    if args.process_index == 0:
        found = audit_reward(
            reward,
            dataset,
            seed=args.seed,
            prompts=args.audit_prompts,
            threshold=args.audit_threshold,
        )
        print(found.table(), flush=True)
        shared = [found.refusal()]
    refusal = broadcast_object_list(shared)[0]
    if refusal is not None and args.audit_reward != "warn":
        raise UserError(refusal)
    if refusal is not None and args.process_index == 0:
        logger.warning(refusal)


def _sample(dataset: Any, count: int, rng: random.Random) -> list[Row]:
    if not isinstance(dataset, Dataset):
        return list(islice(dataset, count))
    chosen = rng.sample(range(len(dataset)), min(count, len(dataset)))
    return list(dataset.select(chosen))


def _other_golds(dataset: Any, rng: random.Random) -> list[str]:
    if not isinstance(dataset, Dataset):
        return []
    different = dataset.unique("gold")
    return rng.sample(different, min(len(different), 10 * FEW_VALUES))


def _text(prompt: str | list[dict[str, Any]]) -> str:
    return (
        prompt
        if isinstance(prompt, str)
        else "\n".join(str(message["content"]) for message in prompt)
    )


def _try(
    reward: Callable[..., list], rows: list[Row], pairs: Sequence[Pair]
) -> tuple[list[Tried], int]:
    """The pairs by success, and the number of gradings without a verdict."""
    first = min(FIRST_PROMPTS, len(rows))
    passed, prompts, ungraded = [0] * len(pairs), [min(FORM_PROMPTS, len(rows))] * len(pairs), 0
    unread = _unread(reward, rows[:FORM_PROMPTS], pairs)
    left = [index for index, (_, form) in enumerate(pairs) if form not in unread]
    for chosen in (range(first), range(first, len(rows))):
        counts, num_ungraded = _passes(reward, rows, [pairs[index] for index in left], chosen)
        ungraded += num_ungraded
        for index, count in zip(left, counts, strict=True):
            passed[index] += count
            prompts[index] = chosen.stop
        left = [index for index in left if passed[index]]
    tried = [Tried(*pair, *counts) for pair, *counts in zip(pairs, passed, prompts, strict=True)]
    return sorted(tried, key=lambda one: -one.share), ungraded


def _unread(reward: Callable[..., list], rows: list[Row], pairs: Sequence[Pair]) -> set[str]:
    """The forms in which the grader finds none of the answers. For a reward without a grader: no
    form."""
    if not isinstance(reward, VerdictReward):
        return set()
    given = [
        (answer.texts[index], form, row["gold"])
        for answer, form in pairs
        for index, row in enumerate(rows)
    ]
    grades = reward.grade(
        [write(form, text) for text, form, _ in given], [gold for *_, gold in given]
    )
    read = {
        form
        for (_, form, _), grade in zip(given, grades, strict=True)
        if grade.status != "unparsed"
    }
    return {form for _, form in pairs} - read if read else set()


def _passes(
    reward: Callable[..., list], rows: list[Row], pairs: Sequence[Pair], chosen: Sequence[int]
) -> tuple[list[int], int]:
    """The number of chosen rows on which each pair passes, and of gradings without a verdict."""
    if not pairs or not chosen:
        return [0] * len(pairs), 0
    given = [
        (index, write(form, answer.texts[index])) for answer, form in pairs for index in chosen
    ]
    columns = {
        name: [rows[index][name] for index, _ in given] for name in rows[0] if name != "prompt"
    }
    prompts = [rows[index]["prompt"] for index, _ in given]
    completions: list[Any] = [text for _, text in given]
    if not isinstance(prompts[0], str):
        completions = [[{"role": "assistant", "content": text}] for text in completions]
    rewards = reward(prompts=prompts, completions=completions, **columns)
    each = len(chosen)
    passed = [
        sum((value or 0) > 0 for value in rewards[i : i + each])
        for i in range(0, len(rewards), each)
    ]
    return passed, sum(value is None for value in rewards)
