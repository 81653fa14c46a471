"""What confines on machines that lack a protection, and the refusal where that is not enough."""

from __future__ import annotations

import types

import pytest
from sandboxes import needs_sandbox, run_without
from shaped_eval.grading.sandbox import confine
from shaped_eval.grading.sandbox import server as server_module

pytestmark = needs_sandbox
NO_LANDLOCK = "Landlock is not in this kernel"
NO_ROOT = "there is no private root in its place"


@pytest.mark.parametrize(
    ("hidden", "reasons"),
    [
        pytest.param("seccomp", ["seccomp filters are not available"], marks=pytest.mark.slow),
        ("landlock,user namespaces", [NO_LANDLOCK, NO_ROOT, "(namespaces: "]),
        pytest.param(
            "landlock off,mount namespaces",
            ["lsm= list", NO_ROOT, "(a mount namespace: "],
            marks=pytest.mark.slow,
        ),
        ("landlock,read-only", [NO_LANDLOCK, NO_ROOT, "cannot be made read-only"]),
    ],
)
def test_a_machine_without_a_protection_refuses_with_the_reason(hidden, reasons):
    program = """
from shaped_eval.grading import GraderPool, GradeRequest
from shaped_eval.grading.sandbox.server import SandboxServer, SandboxUnavailable
request = GradeRequest("code", "def f(): return 1", "assert f() == 1")
for refused in (SandboxServer, lambda: GraderPool(1).grade([request])):
    try: refused()
    except SandboxUnavailable as error: print(error)
"""
    first, second = run_without(hidden, program).splitlines()
    assert first == second
    assert all(reason in first for reason in [*reasons, "--allow_weak_sandbox"])


def test_protections_that_do_not_hold_are_noticed():
    program = (
        "from shaped_eval.grading.sandbox.server import *\ntry: SandboxServer()\n"
        "except SandboxUnavailable as error: print(error)"
    )
    said = run_without("restrict_self,user namespaces", program)
    assert "a process on trial was not confined" in said


def confinement(hidden: str, **environment: str) -> str:
    program = (
        "from shaped_eval.grading.sandbox.checker import *\nsandbox = Sandbox()\n"
        "result = check(sandbox, ['def f(): return 1'], Tests('assert f() == 1'), Limits())\n"
        "print(result.status, sandbox.confinement, sep=': ')"
    )
    return run_without(hidden, program, **environment).strip()


def test_what_holds_is_what_confines_and_is_named():
    assert confinement("landlock") == "pass: seccomp, private root"
    assert confinement("restrict_self") == "pass: seccomp, private root"
    assert confinement("user namespaces") == "pass: seccomp, Landlock"
    # a root that only seems to be read-only is not entered
    assert confinement("read-only") == "pass: seccomp, Landlock"


@pytest.mark.slow
def test_a_weak_sandbox_is_the_user_s_choice_and_is_named():
    allowed = {"SHAPED_TRL_ALLOW_WEAK_SANDBOX": "1"}
    assert confinement("seccomp", **allowed) == "pass: weak"
    assert confinement("landlock,user namespaces", **allowed) == "pass: weak"
    assert confinement("landlock", **allowed) == "pass: seccomp, private root"


def test_nothing_is_started_to_find_that_there_is_landlock(monkeypatch):
    def start(*options):
        started.append(options)
        return types.SimpleNamespace(close=lambda: None)

    started: list = []
    monkeypatch.delenv(server_module.ALLOW_WEAK_VARIABLE, raising=False)
    monkeypatch.setattr(server_module, "SandboxServer", start)
    monkeypatch.setattr(confine, "missing_protections", list)
    server_module.check_sandbox()
    assert started == []
    monkeypatch.setattr(confine, "missing_protections", lambda: ["Landlock is off"])
    server_module._try_out.cache_clear()
    server_module.check_sandbox()
    server_module.check_sandbox()
    server_module._try_out.cache_clear()
    assert len(started) == 1
