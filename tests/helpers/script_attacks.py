"""Runs the attacks as programs that read standard input, and looks at what they did.

A forgery calls its function and prints the result; a break-out prints "done" if it worked. SCRIPTS
attack what is particular to such programs: the input, the output, and the end of the process.

    python script_attacks.py NAMESPACES [LEFT OUT]     prints one JSON object

NAMESPACES is 1 or 0; left out may be slow and loop.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path

from attacks import _WAITING, BREAK_OUTS, FORGERIES, LOOPS, SLOW, _in_session, _read, _state

SCRIPTS = _read("scripts")
# A program of this kind has its input and output open, and its threads run in its own place.
ALLOWED = ("open descriptors", "standard input", "threads")
# these use up their second of CPU time, or print all that they may
SLOW_SCRIPTS = (
    *SLOW,
    "a loop at the exit",
    "a loop when the output is flushed",
    "a recursion without end",
    "memory without end",
    "lines without end",
    "numbers without end",
)


def main(namespaces: bool, left_out: list[str]) -> None:
    from shaped_eval.grading.code.outputs import difference
    from shaped_eval.grading.sandbox.checker import Limits
    from shaped_eval.grading.sandbox.runner import SCRIPT, run_script
    from shaped_eval.grading.sandbox.server import SandboxServer

    os.environ["ATTACK_SECRET"] = "secret"
    folder = Path(tempfile.mkdtemp(prefix="attacked-"))
    victim = folder / "victim"
    victim.write_text("precious")
    state = _state(folder)
    tcp = socket.create_server(("127.0.0.1", 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    unix_path = tempfile.mkdtemp(prefix="attacked-") + "/socket"
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(unix_path)
    unix.listen()
    where = {
        "victim": str(victim),
        "folder": str(folder),
        "tcp": tcp.getsockname()[1],
        "udp": udp.getsockname()[1],
        "unix": unix_path,
        "abstract": "attacked-" + secrets.token_hex(8),
        "checker": os.getpid(),
        "packages": [sys.modules["attacks"].__file__],
        "checker_file": sys.modules[run_script.__module__].__file__,
    }
    server = SandboxServer(SCRIPT, namespaces)
    results = {}

    def run(kind: str, attack: str, program: str, expected: str) -> None:
        if kind in left_out or ("slow" in left_out and attack in SLOW_SCRIPTS):
            return
        limits = Limits(1, 512, 0.7 if attack in _WAITING else 60.0)
        found = run_script(server, [program], "", "1 2\n", limits)
        status, reason = found.status, found.reason
        if status == "pass" and (wrong := difference(found.output, expected)):
            status, reason = "fail", wrong
        results[f"{kind}: {attack}"] = [kind, status, reason]

    for kind, attacks in (("forgery", FORGERIES), ("loop", LOOPS)):
        for attack, code in attacks.items():
            secret = f"secret-{secrets.token_hex(4)}"
            run(kind, attack, f"{code}\nprint(f(1))", secret)
    for attack, code in BREAK_OUTS.items():
        if attack not in ALLOWED:
            run("break-out", attack, f"{code}\nprint(f({where!r}))", "done")
    for attack, code in SCRIPTS.items():
        run("script", attack, code, f"secret-{secrets.token_hex(4)}")
    honest = run_script(server, ["print(sum(map(int, input().split())))"], "", "1 2\n", Limits())
    rooted, session = server.rooted, server.pid
    server.close()
    connections = []
    for listener in (tcp, unix, udp):
        listener.setblocking(False)
        try:
            connections.append(str(listener.recv(9) if listener is udp else listener.accept()))
        except BlockingIOError:
            continue
    print(
        json.dumps(
            {
                "results": results,
                "healthy": honest.output == "3\n",
                "rooted": rooted,
                "untouched": _state(folder) == state,
                "connections": connections,
                "left": _in_session(session),
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1] == "1", sys.argv[2:])
