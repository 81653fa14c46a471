"""Evaluate language models: sample, grade in a sandbox, and report with intervals."""

from typing import TYPE_CHECKING

from shaped_eval.lazy import lazy_exports

__all__ = ["__version__", "evaluate_model", "pass_at_k", "run_tests"]

if TYPE_CHECKING:  # a `__getattr__` would hide misspelt names from type checkers
    from shaped_eval.evaluate import evaluate_model
    from shaped_eval.grading import run_tests
    from shaped_eval.statistics import pass_at_k

    __version__: str
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "evaluate_model": "shaped_eval.evaluate",
            "pass_at_k": "shaped_eval.statistics",
            "run_tests": "shaped_eval.grading",
        },
    )
