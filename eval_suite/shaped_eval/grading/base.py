"""What goes into a grader and what comes out of it."""

from __future__ import annotations

from typing import NamedTuple

from shaped_eval.grading.sandbox.checker import Limits
from shaped_eval.records import Status


class GradeRequest(NamedTuple):
    """One completion to grade by the grader of this name against the gold answer.

    limits: of the grader ``code``, from the caller alone. Without, those of the gold count, which
        comes from a file and can only lower the defaults.
    """

    grader: str
    completion: str
    gold: str
    limits: Limits | None = None


DIED = "grading this answer ended its process, twice"  # a reason


class Grade(NamedTuple):
    """What the grader said.

    status: ``pass``; ``fail`` (an answer, not equal to gold); ``unparsed`` (no answer in the
        completion);
    ``timeout``; ``error`` (the grader itself raised or died). Only pass and fail carry an answer.
    answer: canonical, so that equal strings are votes for one answer; every pass of a gold has
        gold's own.
    reason: why, in one line, where the grader says so.
    """

    status: Status
    answer: str | None
    reason: str | None = None


class SoftTimeout(BaseException):
    """The item's time is up. Not an Exception, so that no ``except Exception`` of a parser swallows
    it."""
