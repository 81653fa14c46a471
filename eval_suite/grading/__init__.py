"""Grade completions: the table of graders and the pool of killable processes that runs them."""

from eval_suite.grading.base import Grade, GradeRequest
from eval_suite.grading.graders import GRADERS, TAKE_ALIASES, GraderSpec, grader_spec
from eval_suite.grading.pool import GraderPool
from eval_suite.grading.testing import run_tests

__all__ = ["GRADERS", "TAKE_ALIASES", "Grade", "GradeRequest", "GraderPool", "GraderSpec", "grader_spec", "run_tests"]
