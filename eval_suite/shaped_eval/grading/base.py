"""The input and the output of a grader."""

from __future__ import annotations

from typing import NamedTuple

from shaped_eval.grading.sandbox.checker import Limits
from shaped_eval.records import Status


class GradeRequest(NamedTuple):
    """One completion to grade with the named grader against the gold answer.

    limits: for the grader ``code``, and only from the caller. By default those of the gold are
    used; since the gold comes from a file, it can only lower the defaults.
    """

    grader: str
    completion: str
    gold: str
    limits: Limits | None = None


DIED = "grading this answer ended its process"  # the reason of a Grade


class Grade(NamedTuple):
    """The result of a grader.

    Attributes:
        status: ``pass``; ``fail`` (an answer that does not equal gold); ``unparsed`` (no answer in
            the completion); ``timeout``; or ``error`` (the grader itself raised or died).
        answer: only with pass and fail. It is canonical: equal strings are votes for one answer,
            and every pass of a gold has gold's own.
        reason: an explanation in one line, if the grader gives one.
        confinement: what confined generated code, if some was run; see `SandboxServer`.
    """

    status: Status
    answer: str | None
    reason: str | None = None
    confinement: str | None = None


class SoftTimeout(BaseException):
    """The item's time is up.

    It is not an Exception, so that no ``except Exception`` in a parser catches it.
    """
