"""Reward functions for TRL's trainers. A reward comes from a verdict: evaluation grades with the
same code.

TRL calls each with `completions`, `completion_ids`, `trainer_state` and the data set's columns.
Objects, not closures: they can be pickled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading import Grade, GradeRequest, GraderPool, grader_spec
from shaped_eval.grading.base import DIED
from shaped_eval.grading.graders import load
from shaped_eval.untrusted.own_code import load_own

from shaped_trl.rlvr.lengths import LengthSchedule

# An answer that cannot be graded in time counts as wrong: without a reward it would be better off
# than a wrong one.
REWARD_OF = {"pass": 1.0, "fail": 0.0, "unparsed": 0.0, "timeout": 0.0}


BUILT_IN = ("accuracy", "format", "overlong")


@dataclass
class RewardArguments:
    """Rewards of `shaped-trl rlvr`; weigh them with TRL's `reward_weights`."""

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Reward functions. The first one is the accuracy reward, which decides which "
            "groups dynamic sampling keeps. Each is accuracy (the grader's verdict), format, "
            "overlong, or a function of your own by its path (package.module.function, in the "
            "current folder or an installed package). By default accuracy is used, and format and "
            "overlong where format_pattern and overlong_buffer are given."
        },
    )
    format_pattern: str | None = field(
        default=None,
        metadata={
            "help": "The reward format is 1 if the whole completion matches this regular "
            "expression, and 0 otherwise: '<think>.*</think>.*'. A dot matches every "
            "character, line ends included."
        },
    )
    keep_reasoning: bool = field(
        default=False,
        metadata={
            "help": "Grade the text in <think> tags, too. By default it is dropped before grading."
        },
    )
    overlong_buffer: int | None = field(
        default=None,
        metadata={
            "help": "The reward overlong penalises completions that end within this many tokens "
            "of the maximum length. The penalty grows linearly to -1 (DAPO's soft overlong "
            "punishment)."
        },
    )
    reward_workers: int | None = field(
        default=None,
        metadata={
            "help": "Number of grading processes of each training process. By default the "
            "training processes share the machine's cores equally."
        },
    )

    def __post_init__(self) -> None:
        if isinstance(self.reward_funcs, str):  # in a recipe: one name without brackets
            self.reward_funcs = [self.reward_funcs]

    def names(self) -> list[str]:
        """The rewards that are used, by built-in name or path; the accuracy reward first."""
        if self.reward_funcs is not None:
            return self.reward_funcs
        options = {"format": self.format_pattern, "overlong": self.overlong_buffer}
        return ["accuracy", *(name for name, value in options.items() if value is not None)]


def check_rewards(arguments: RewardArguments, lengths: LengthSchedule) -> None:
    """Refuse options that do not go together, and paths of reward functions that are wrong.

    Raises:
        UserError: an unknown name or a wrong path in reward_funcs, a reward without the option that
            it needs, an option whose reward is not used, or a buffer as long as a completion.
    """
    names = arguments.names()
    if not names:
        raise UserError("reward_funcs=[] has no reward: name one, or leave it out")
    for name in names:
        if name not in BUILT_IN:
            own_reward(name)
    options = (
        ("format", "format_pattern", arguments.format_pattern),
        ("overlong", "overlong_buffer", arguments.overlong_buffer),
    )
    for name, option, value in options:
        if name in names and value is None:
            raise UserError(f"reward_funcs={names}: {name} needs {option}")
        if name not in names and value is not None:
            raise UserError(f"{option}={value!r} is not used: add {name} to reward_funcs={names}")
    shortest = min(lengths.lengths)
    if arguments.overlong_buffer is not None and arguments.overlong_buffer >= shortest:
        raise UserError(
            f"overlong_buffer={arguments.overlong_buffer} must be below the length limit of a "
            f"completion, which is {shortest} tokens at its lowest"
        )


def own_reward(path: str) -> Callable[..., list]:
    """The reward function at a path that the user typed.

    Raises:
        UserError: it is not a built-in name either, or cannot be loaded: why.
    """
    if "." not in path and ":" not in path:
        raise UserError(
            f"reward_funcs: {path!r} is unknown: use {', '.join(BUILT_IN)}, or the path of a "
            "function of your own, package.module.function"
        )
    found = load_own("reward_funcs", path)
    if isinstance(found, type):
        raise UserError(f"reward_funcs={path!r} is a class: name a function, or an instance of it")
    return found


def reward_functions(
    arguments: RewardArguments, grader: str, length_at: Callable[[int], int]
) -> list[Callable[..., list]]:
    """The reward functions that `arguments` name, in their order.

    Args:
        arguments: which of them, and their options.
        grader: a grader of the evaluation suite, for `accuracy`.
        length_at: optimizer step → longest completion, in tokens, for `overlong`; can be pickled.

    Raises:
        UserError: what one of them refuses.
    """
    made: dict[str, Callable[[], Callable[..., list]]] = {
        "accuracy": lambda: VerdictReward(
            grader, arguments.reward_workers, arguments.keep_reasoning
        ),
        "format": lambda: FormatReward(arguments.format_pattern or ""),
        "overlong": lambda: OverlongPenalty(length_at, arguments.overlong_buffer or 0),
    }
    return [made[name]() if name in made else own_reward(name) for name in arguments.names()]


def completion_text(completion: Any) -> str:
    """The text of a completion: itself, or the content of the last message of a chat."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


class VerdictReward:
    """1 for a right answer, 0 for any other, None where the grader itself failed, as on a gold that
    it cannot read.

    An answer that takes too long to grade, or whose grading ends its process, gets 0: writing such
    an answer must not pay.

    Args:
        grader: a grader of the evaluation suite ("math", "gsm8k", "code", "reasoning_gym"), or the
            path of one's own, ``package.module:name``.
        num_workers: grading processes; they start with the first call and live as long as this
            object. None for one per core, which the training processes of a machine
            (LOCAL_WORLD_SIZE) share equally.
        keep_reasoning: grade the text in ``<think>`` tags like the rest of a completion.

    Called with the column `gold`. It logs the verdict's status as the extra column `verdict`.

    Raises:
        UserError: no such grader, one that this machine cannot run, or num_workers < 1.
    """

    def __init__(self, grader: str, num_workers: int | None = None, keep_reasoning: bool = False):
        check = grader_spec(grader, typed=True).check
        if check is not None:  # now, not at the first completion
            load(check)()
        self.grader = grader
        self.num_workers = num_workers
        self.keep_reasoning = keep_reasoning
        self.__name__ = "accuracy"
        self._pool: GraderPool | None = _pool(num_workers, keep_reasoning)

    def __call__(
        self,
        completions: list,
        gold: Sequence[str],
        log_extra: Callable[[str, list], None] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        grades = self.grade(completions, gold)
        if log_extra is not None:
            log_extra("verdict", [grade.status for grade in grades])
        return [0.0 if grade.reason == DIED else REWARD_OF.get(grade.status) for grade in grades]

    def grade(self, completions: list, gold: Sequence[str]) -> list[Grade]:
        """The grade of each completion."""
        if self._pool is None:
            self._pool = _pool(self.num_workers, self.keep_reasoning)
        requests = [
            GradeRequest(self.grader, completion_text(completion), answer)
            for completion, answer in zip(completions, gold, strict=True)
        ]
        return self._pool.grade(requests)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}


def _pool(num_workers: int | None, keep_reasoning: bool) -> GraderPool:
    pool = GraderPool(num_workers, keep_reasoning=keep_reasoning)  # starts nothing yet
    if num_workers is None:
        pool.num_workers = max(1, pool.num_workers // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return pool


class FormatReward:
    """1 where the whole completion matches a regular expression, else 0. A dot matches a line break
    as well.

    The match runs in the training process without a time limit: a pattern that backtracks without
    end hangs the run.

    Raises:
        UserError: `pattern` is not a regular expression.
    """

    def __init__(self, pattern: str):
        try:
            self.pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise UserError(
                f"format_pattern={pattern!r} is not a regular expression: {error}"
            ) from error
        self.__name__ = "format"

    def __call__(self, completions: list, **kwargs: Any) -> list[float]:
        return [
            float(self.pattern.fullmatch(completion_text(completion)) is not None)
            for completion in completions
        ]


class OverlongPenalty:
    """DAPO's soft overlong punishment (arXiv 2503.14476, Eq. 13), for a length limit that may
    change with the step.

    With L the present limit: 0 up to L − buffer tokens, and from there a line down to −1 at L.

    Args:
        length_at: optimizer step → L, in tokens; can be pickled.
        buffer: number of tokens over which the punishment rises.

    Called with `completion_ids` and `trainer_state`.

    Raises:
        UserError: buffer < 1.
    """

    def __init__(self, length_at: Callable[[int], int], buffer: int):
        if buffer < 1:
            raise UserError(
                f"overlong_buffer={buffer} must be at least 1, or left out to have no punishment"
            )
        self.length_at = length_at
        self.buffer = buffer
        self.__name__ = "overlong"

    def __call__(
        self,
        completions: list,
        completion_ids: Sequence[Sequence[int]],
        trainer_state: Any,
        **kwargs: Any,
    ) -> list[float]:
        free = self.length_at(trainer_state.global_step) - self.buffer
        return [max(min((free - len(ids)) / self.buffer, 0.0), -1.0) for ids in completion_ids]
