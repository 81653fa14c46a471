"""The attacks as programs that read standard input (`tests/helpers/script_attacks.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from places import HELPERS, ROOT
from script_attacks import BREAK_OUTS, FORGERIES, SCRIPTS
from shaped_eval.grading.sandbox.confine import missing_protections

pytestmark = pytest.mark.skipif(
    bool(missing_protections()), reason=f"no sandbox: {missing_protections()}"
)


def attack(*options: str, as_nobody: bool = False) -> dict:
    by = [sys.executable, str(HELPERS / "as_nobody.py")] if as_nobody and os.getuid() == 0 else []
    done = subprocess.run(
        [*by, sys.executable, str(HELPERS / "script_attacks.py"), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "eval_suite")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: dict) -> None:
    """No attack passes, or ends in an error of the sandbox, or leaves a trace."""
    outcomes = {name: status for name, (_, status, _) in found["results"].items()}
    assert {name for name, status in outcomes.items() if status not in ("fail", "timeout")} == set()
    loops = {status for kind, status, _ in found["results"].values() if kind == "loop"}
    assert loops <= {"timeout"}
    assert found["healthy"]
    assert found["untouched"]
    assert found["connections"] == []
    assert found["left"] == []


def test_no_program_passes_without_printing_the_answer():
    found = attack("1", "slow", "loop")
    check(found)
    assert len(found["results"]) > 0.9 * (len(FORGERIES) + len(BREAK_OUTS) + len(SCRIPTS))


@pytest.mark.slow
def test_no_slow_program_passes_either():
    check(attack("1"))


@pytest.mark.slow
def test_no_program_passes_as_a_user_without_namespaces():
    found = attack("0", "slow", "loop", as_nobody=True)
    check(found)
    assert not found["rooted"]
