"""Grades completions: the table of graders, and the pool of killable processes that runs them."""

from shaped_eval.grading.base import Grade, GradeRequest
from shaped_eval.grading.code.testing import run_tests
from shaped_eval.grading.graders import GRADERS, TAKE_ALIASES, GraderSpec, grader_spec
from shaped_eval.grading.pool import GraderPool

__all__ = [
    "GRADERS",
    "TAKE_ALIASES",
    "Grade",
    "GradeRequest",
    "GraderPool",
    "GraderSpec",
    "grader_spec",
    "run_tests",
]
