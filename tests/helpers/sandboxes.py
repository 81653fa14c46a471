"""The mark of tests that run generated code, and other machines' sandboxes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from places import HELPERS, ROOT
from shaped_eval.grading.sandbox.server import SandboxUnavailable, check_sandbox


def _no_sandbox() -> str:
    try:
        check_sandbox()
    except SandboxUnavailable as error:
        return str(error)
    return ""


needs_sandbox = pytest.mark.skipif(bool(_no_sandbox()), reason=_no_sandbox())


def run_without(hidden: str, program: str, **environment: str) -> str:
    """What Python text prints where these protections are missing; see `without_protection`."""
    run = [sys.executable, str(HELPERS / "without_protection.py"), hidden, program]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "eval_suite"), **environment}
    done = subprocess.run(run, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
