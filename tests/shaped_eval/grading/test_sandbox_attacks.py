"""The attack suite (`tests/helpers/attacks.py`): no attack passes or leaves a trace.

It is run as root and as a user, with Landlock and in a private root without it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from attacks import ALLOWED_TO_TESTS, BREAK_OUTS, FORGERIES, HELD, LOOPS, SLOW, SWALLOWERS
from places import HELPERS, ROOT
from sandboxes import needs_sandbox
from shaped_eval.grading.sandbox.confine import NOBODY

PACKAGES = str(ROOT / "eval_suite")
LANDLOCK, ROOT_ALONE = "seccomp, Landlock", "seccomp, private root"
BOTH = f"{LANDLOCK}, private root"
pytestmark = needs_sandbox


def attack(user: str, namespaces: bool, *left_out: str, hidden: str = "") -> dict:
    """Run the attacks in a process of this user, where these protections are hidden."""
    if user == "root" and os.getuid() != 0:
        pytest.skip("only root can try root's case")
    as_user = (
        [sys.executable, str(HELPERS / "as_nobody.py")]
        if user == "nobody" and os.getuid() == 0
        else []
    )
    command = [str(HELPERS / "attacks.py"), str(int(namespaces)), *left_out]
    if hidden:
        text = f"import runpy, sys; sys.argv = {command}; "
        text += "runpy.run_path(sys.argv[0], run_name='__main__')"
        command = [str(HELPERS / "without_protection.py"), hidden, text]
    done = subprocess.run(
        [*as_user, sys.executable, *command],
        env={**os.environ, "PYTHONPATH": PACKAGES},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(found: dict, confinement: str) -> None:
    results = found["results"]
    assert [
        name
        for name, (kind, status, _) in results.items()
        if (status == "pass") != (kind == "honest")
    ] == []
    of_code = [
        name for name, (kind, status, _) in results.items() if status == "error" and kind != "tests"
    ]
    assert of_code == []  # a program cannot avoid its verdict either
    held = {name: status for name, (kind, status, _) in results.items() if kind == "held"}
    assert set(held.values()) <= {"timeout", "fail"}, held
    loops = {name: status for name, (kind, status, _) in found["results"].items() if kind == "loop"}
    assert set(loops.values()) <= {"timeout"}, loops
    assert found["confinement"] == confinement
    assert found["healthy"]
    assert found["untouched"]
    assert found["connections"] == []
    assert found["left"] == []


def test_there_are_enough_attacks():
    assert len(FORGERIES) >= 45
    assert len(BREAK_OUTS) >= 80
    assert len(LOOPS) >= 8
    assert len(SWALLOWERS) >= 20
    assert len(HELD) >= 7


def test_no_attack_succeeds_as_root_in_namespaces():
    found = attack("root", True, "slow", "answer")
    check(found, BOTH)
    of_code = [
        kind for kind, _, _ in found["results"].values() if kind in ("forgery", "break-out", "loop")
    ]
    assert len(of_code) == len(FORGERIES) + len(BREAK_OUTS) + len(LOOPS) - len(
        set(SLOW) - set(HELD)
    )


@pytest.mark.slow
def test_no_attack_succeeds_as_a_user_without_namespaces():
    found = attack("nobody", False, "slow", "loop", "answer")
    check(found, LANDLOCK)
    assert not found["rooted"]
    assert found["user"] == (NOBODY if os.getuid() == 0 else os.getuid())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "namespaces", "left_out"),
    [
        ("root", False, ("loop",)),
        ("nobody", True, ("slow", "loop", "answer")),
        ("nobody", False, ("loop",)),
    ],
)
def test_no_slow_attack_succeeds_either(user, namespaces, left_out):
    check(attack(user, namespaces, *left_out), BOTH if namespaces else LANDLOCK)


def test_no_one_breaks_out_of_a_private_root_without_landlock():
    left_out = ("forgery", "loop", "honest", "swallowed", "held", "answer")
    found = attack("root" if os.getuid() == 0 else "user", True, *left_out, hidden="landlock")
    check(found, ROOT_ALONE)
    assert len(found["results"]) == 2 * len(BREAK_OUTS) - len(ALLOWED_TO_TESTS)


@pytest.mark.slow
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_no_attack_at_all_succeeds_in_a_private_root_without_landlock(user):
    check(attack(user, True, hidden="landlock"), ROOT_ALONE)


# What these actions would do if they were not stopped, done to the test's own folder in a
# process of its own.
HARMLESS = (
    "read outside",
    "write outside",
    "chmod",
    "utime",
    "truncate by opening",
    "fork",
    "threads",
    "unix socket",
)


def test_these_attacks_do_succeed_without_the_sandbox(tmp_path):
    (tmp_path / "victim").write_text("precious")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    where = {
        "victim": str(tmp_path / "victim"),
        "folder": str(tmp_path),
        "unix": str(tmp_path / "socket"),
    }
    for name in HARMLESS:
        program = f"{BREAK_OUTS[name]}\nassert f({where!r}) == 'done'"
        subprocess.run([sys.executable, "-c", program], check=True)
    listener.close()
