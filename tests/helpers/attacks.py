"""Programs that attack the sandbox, and the command that runs them and looks at what they did.

FORGERIES do not know the right answer, and must not pass. BREAK_OUTS try to do something;
`f(where)` returns "done" if it worked, and they pass if it did. LOOPS must be ended by a limit.
BREAK_OUTS are then tried by the tests: these are untrusted too. SWALLOWERS are tests that hold up
whatever says that the code has failed: no code of ENDS may pass them. HELD are results that keep
the tests busy. The answers of `hostile_answers` go to graders that read formulas.

    python attacks.py NAMESPACES [LEFT OUT]     prints one JSON object

NAMESPACES is 1 or 0; left out may be slow, loop, and answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path

_PROGRAMS = Path(__file__).parent / "attack_programs"


def _read(name: str) -> dict[str, str]:
    """The programs of a file, each after a line ``### name``."""
    sections = (_PROGRAMS / f"{name}.txt").read_text().split("### ")[1:]
    return {title: code for title, _, code in (section.partition("\n") for section in sections)}


FORGERIES, BREAK_OUTS, LOOPS = _read("forgeries"), _read("break_outs"), _read("loops")
SWALLOWERS, HELD = _read("swallowers"), _read("held")
HONEST = "def f(x):\n    if x == 'raise': raise ValueError\n    return x"
ENDS = {
    "exit": "import os\ndef f(x): os._exit(0)",
    "segfault": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "closed channel": "import os\ndef f(x): os.close(3)",
    "no literal": "import os, struct\ndef f(x): os.write(3, struct.pack('>I', 4) + b'nope')",
    "unknown tag": "import os, struct\ndef f(x): os.write(3, struct.pack('>I', 17) + b'{\"value\":{\"q\":0}}')",
    "silence": "import time\ndef f(x): time.sleep(60)",
    "exit when loaded": "import os\ndef f(x): return 1\nos._exit(0)",
}
ALLOWED_TO_TESTS = ("threads", "open descriptors")  # one of theirs leads to the code
_RAW_CALLS = {
    "fork": "57 if x86 else -1",
    "vfork": "58 if x86 else -1",
    "clone": "56 if x86 else 220",
    "clone3": "435",
    "execve": "59 if x86 else 221",
    "socket": "41 if x86 else 198",
    "ptrace": "101 if x86 else 117",
    "process_vm_readv": "310 if x86 else 270",
    "unshare": "272 if x86 else 97",
    "setns": "308 if x86 else 268",
    "mount": "165 if x86 else 40",
    "umount2": "166 if x86 else 39",
    "io_uring_setup": "425",
    "bpf": "321 if x86 else 280",
    "perf_event_open": "298 if x86 else 241",
    "userfaultfd": "323 if x86 else 282",
    "keyctl": "250 if x86 else 219",
    "memfd_create": "319 if x86 else 279",
    "prctl": "157 if x86 else 167",
    "pidfd_getfd": "438",
    "shmget": "29 if x86 else 194",
    "mq_open": "180 if x86 else 180",
    "open_by_handle_at": "304 if x86 else 265",
    "reboot": "169 if x86 else 142",
    "kexec_load": "246 if x86 else 104",
    "fork as x32": "0x40000000 + 57 if x86 else -1",
}
BREAK_OUTS |= {
    f"system call {name}": (
        "import ctypes, platform\ndef f(w):\n    x86 = platform.machine() == 'x86_64'\n"
        f"    libc = ctypes.CDLL(None, use_errno=True)\n    r = libc.syscall({number}, 0, 0, 0, 0, 0, 0)\n"
        # EPERM, ENOSYS
        "    e = ctypes.get_errno()\n    return 'done' if r != -1 or e not in (1, 38) else e"
    )
    for name, number in _RAW_CALLS.items()
}
BREAK_OUTS |= {
    f"clone with the flags {flags}": (
        "import ctypes, platform\ndef f(w):\n    libc = ctypes.CDLL(None, use_errno=True)\n"
        f"    r = libc.syscall(56 if platform.machine() == 'x86_64' else 220, {flags}, 0, 0, 0, 0)\n"
        "    return 'done' if r != -1 or ctypes.get_errno() != 1 else 1"
    )
    for flags in (
        "0x11",
        "0x4111",
        "0x3D0F00 | 1 << 28",
        "0x3D0F00 | 1 << 29",
        "0x3D0F11",
        "0x3D0F00 ^ 1 << 16",
    )
}

# these use up their second of CPU time
SLOW = (
    *HELD,
    "huge list",
    "shared list that is huge when written",
    "deep recursion",
    "deep recursion in C",
    "memory",
)


def main(namespaces: bool, left_out: list[str]) -> None:
    import pytest  # for a package that is not the code's to read
    from shaped_eval.grading.sandbox.checker import Limits, Sandbox, Tests, check

    os.environ["ATTACK_SECRET"] = "secret"
    folder = Path(tempfile.mkdtemp(prefix="attacked-"))
    victim = folder / "victim"
    victim.write_text("precious")
    state = _state(folder)
    tcp, udp = (
        socket.create_server(("127.0.0.1", 0)),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    )
    udp.bind(("127.0.0.1", 0))
    unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    unix_path = tempfile.mkdtemp(prefix="attacked-") + "/socket"
    unix.bind(unix_path)
    unix.listen()
    name = "attacked-" + secrets.token_hex(8)
    abstract.bind("\0" + name)
    abstract.listen()
    where = {
        "victim": str(victim),
        "folder": str(folder),
        "tcp": tcp.getsockname()[1],
        "udp": udp.getsockname()[1],
        "unix": unix_path,
        "abstract": name,
        "checker": os.getpid(),
        "packages": [str(path) for path in Path(pytest.__file__).parent.glob("*.py")][:3],
        "checker_file": sys.modules[check.__module__].__file__,
    }
    server = Sandbox(namespaces)
    results = {}

    def run(
        kind: str,
        attack: str,
        code: str,
        tests: str,
        names: tuple[str, ...] | None = None,
        wall_s=60.0,
    ) -> None:
        if kind not in left_out and not ("slow" in left_out and attack in SLOW):
            result = check(
                server, [code], Tests(tests, names), Limits(1, 512, wall_s, tests_cpu_s=1)
            )
            results[attack] = [kind, result.status, result.reason]

    for kind, attacks in (("forgery", FORGERIES), ("break-out", BREAK_OUTS), ("loop", LOOPS)):
        for attack, code in attacks.items():
            expected = f"secret-{secrets.token_hex(4)}"
            tests = f"expected = {expected!r}\nassert f(1) == expected\nassert all(map(f, [1, 2]))"
            if kind == "break-out":
                tests = f"assert f({where!r}) == 'done'"
            run(kind, attack, code, tests, wall_s=0.7 if attack in _WAITING else 60.0)
    for attack, program in BREAK_OUTS.items():
        if attack not in ALLOWED_TO_TESTS:
            tests = f"{program}\nassert code(1) == 1\nassert f({where!r}) == 'done'"
            run("tests", f"{attack}, by the tests", "def code(x): return x", tests, ("code",))
    for number, (attack, tests) in enumerate(SWALLOWERS.items()):
        run("honest", f"{attack}: honest", HONEST, tests, ("f",))
        for end, code in (
            [list(ENDS.items())[number % len(ENDS)]] if "slow" in left_out else ENDS.items()
        ):
            run(
                "swallowed",
                f"{attack}: {end}",
                code,
                tests,
                ("f",),
                wall_s=0.7 if end == "silence" else 60.0,
            )
    for attack, code in HELD.items():
        run("held", attack, code, "back = f(1)\nassert str(back) and len(set(back)) == -1")
    if "answer" not in left_out:
        results |= _answers(folder)
    healthy = (
        check(server, ["def f(x): return x"], Tests("assert f(1) == 1"), Limits()).status == "pass"
    )
    rooted, user, sessions = (
        server.code.rooted,
        server.code.user,
        (server.code.pid, server.tests.pid),
    )
    server.close()
    connections = []
    for listener in (tcp, unix, abstract, udp):
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connections.append(str(listener.recv(9) if listener is udp else listener.accept()))
    print(
        json.dumps(
            {
                "results": results,
                "healthy": healthy,
                "rooted": rooted,
                "confinement": server.confinement,
                "user": user,
                "untouched": _state(folder) == state,
                "connections": connections,
                "left": [pid for session in sessions for pid in _in_session(session)],
            }
        )
    )


def _answers(folder: Path) -> dict[str, list]:
    """Hostile answers to graders that read formulas: a pass is one that ran, or that changed a
    later verdict."""
    from hostile_answers import CHANGES, programs
    from shaped_eval.grading import GradeRequest, GraderPool
    from shaped_eval.grading.gym import grader as reasoning_gym

    golds = {
        "math": ["5", r"\frac{1}{2}", "x"],
        "gsm8k": ["5"],
        "exact_match": ["5"],
        "text": ["five"],
    }
    golds["reasoning_gym"] = []
    for task in (
        "simple_integration",
        "countdown",
        "n_queens",
        "binary_matrix",
        "string_insertion",
        "chain_sum",
    ):
        question = reasoning_gym.task_dataset(task, 2, 1)[0]["question"]
        golds["reasoning_gym"].append(
            reasoning_gym.gold_of(question, task=task, size=2, seed=1, index=0)
        )
    every = [(grader, gold) for grader, own in golds.items() for gold in own]
    texts = ("5", "x**2", r"\boxed{\frac{1}{2}}", "[[0, 1]]", "five", "nan")
    asked = [
        GradeRequest(grader, f"Answer: {text}", gold) for grader, gold in every for text in texts
    ]
    # letters alone: a grader that takes the last number of an answer would find one in this path
    letters = secrets.token_hex(8).translate(str.maketrans("0123456789", "ghijklmnop"))
    touched = folder.parent / f"touched-{letters}"
    results = {}
    with GraderPool(1, hard_timeout_s=300.0) as pool:
        before = pool.grade(asked)
        for number, text in enumerate([*programs(str(touched)), *CHANGES]):
            grades = pool.grade(
                [GradeRequest(grader, f"Answer: {text}", gold) for grader, gold in every]
            )
            said = {grade.status for grade in grades}
            again = [
                request._replace(completion=request.completion + " ")
                for request in asked[number % 6 :: 6]
            ]
            held = (
                pool.grade(again) == before[number % 6 :: 6]
                and "pass" not in said
                and not touched.exists()
            )
            results[f"answer {number}: {text[:60]!r}"] = [
                "answer",
                "fail" if held else "pass",
                str(sorted(said)),
            ]
    return results


_WAITING = ("sleep", "lock", "half a reply")


def _state(folder: Path) -> list[tuple]:
    """The folder and all that is in it, with whatever of it could be changed."""
    files = [*folder.rglob("*"), folder]
    return [
        (str(path), path.read_bytes() if path.is_file() else b"", *map(int, _numbers(path)))
        for path in sorted(files)
    ]


def _numbers(path: Path) -> tuple[float, ...]:
    stat = path.stat()
    return stat.st_mode, stat.st_uid, stat.st_mtime_ns, stat.st_nlink, stat.st_ino


def _in_session(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return found


if __name__ == "__main__":
    main(sys.argv[1] == "1", sys.argv[2:])
