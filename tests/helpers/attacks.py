"""Programs that attack the sandbox, and the command that runs all of them and looks at what they did.

FORGERIES do not know the right answer, and must not pass. BREAK_OUTS try to do something; `f(where)` returns "done" if
it worked, and they pass if it did. LOOPS must be ended by a limit.

    python attacks.py NAMESPACES     prints one JSON object; NAMESPACES is 1 or 0
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

FORGERIES: dict[str, str] = {
    "sys.exit(0) when loaded": "import sys\nsys.exit(0)",
    "os._exit(0) when loaded": "import os\nos._exit(0)",
    "sys.exit(0) when called": "import sys\ndef f(x): sys.exit(0)",
    "os._exit(0) when called": "import os\ndef f(x): os._exit(0)",
    "__eq__ that is always true": "class E:\n    def __eq__(self, o): return True\n    __hash__ = None\ndef f(x): return E()",
    "reflected operators": (
        "class E(str):\n    def __eq__(self, o): return True\n    def __ne__(self, o): return False\n"
        "    def __hash__(self): return 0\ndef f(x): return E('x')"
    ),
    "subclass of int": "class E(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\ndef f(x): return E(3)",
    "subclass of float": (
        "class E(float):\n    def __eq__(self, o): return True\n    def __abs__(self): return 0.0\n"
        "    def __sub__(self, o): return 0.0\n    __rsub__ = __sub__\n    __hash__ = float.__hash__\n"
        "def f(x): return E(3)"
    ),
    "subclass of list": (
        "class E(list):\n    def __eq__(self, o): return True\n    def __iter__(self): return iter('abc')\n"
        "def f(x): return E([1])"
    ),
    "__class__ that lies": (
        "class E:\n    @property\n    def __class__(self): return str\n    def __eq__(self, o): return True\n"
        "def f(x): return E()"
    ),
    "metaclass that lies": (
        "class M(type):\n    def __instancecheck__(c, o): return True\n    def __subclasscheck__(c, o): return True\n"
        "    def mro(c): return [c, str, object]\n"
        "class E(str, metaclass=M):\n    def __str__(self): return self\n    def __eq__(self, o): return True\n"
        "def f(x): return E()"
    ),
    "evil repr": (
        "class E:\n    def __repr__(self): raise SystemExit(0)\n    __str__ = __format__ = __repr__\ndef f(x): return E()"
    ),
    "exception with an evil str": (
        "class E(Exception):\n    def __str__(self): import os; os._exit(0)\ndef f(x): raise E()"
    ),
    "theft from frames": (
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for v in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
        "            for s in (v.values() if isinstance(v, dict) else v if isinstance(v, (list, tuple)) else [v]):\n"
        "                if isinstance(s, str) and s.startswith('secret'): return s\n"
        "        frame = frame.f_back\n    return 'none'"
    ),
    "theft through gc": (
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n"
        "        for s in (o.values() if type(o) is dict else o if type(o) in (list, tuple) else ()):\n"
        "            if isinstance(s, str) and 'secret-' in s and len(s) < 60: return s\n    return 'none'"
    ),
    "theft from memory": (
        "import ctypes, re\ndef f(x):\n"
        "    for start in range(id(x) & ~0xfffff, (id(x) & ~0xfffff) + 0x100000, 0x1000):\n"
        "        found = re.search(rb'secret-[0-9a-f]{8}', ctypes.string_at(start, 0x1000))\n"
        "        if found: return found.group().decode()\n    return 'none'"
    ),
    "theft from code objects": (
        "import gc, types\ndef f(x):\n    for o in gc.get_objects():\n        c = getattr(o, '__code__', None)\n"
        "        if isinstance(c, types.CodeType):\n            for s in c.co_consts:\n"
        "                if isinstance(s, str) and s.startswith('secret'): return s\n    return 'none'"
    ),
    "the tests as a module": (
        "def f(x):\n    import tests, __main__\n    return [v for m in (tests, __main__) for v in vars(m).values()][-1]"
    ),
    "the pass marker printed": (
        "import sys\nfor stream in (sys.stdout, sys.stderr, sys.__stdout__):\n"
        "    print('pass', 'PASSED', '{\"status\": \"pass\"}', 'OK', file=stream, flush=True)\n"
        "def f(x):\n    print('pass', flush=True)"
    ),
    "patched builtins": (
        "import builtins\nfor n in ('all', 'any', 'isinstance', 'repr', 'len', 'AssertionError', 'str', 'list', 'print'):\n"
        "    setattr(builtins, n, lambda *a, **k: True)\ndef f(x): return True"
    ),
    "patched modules": (
        "import math, json, os, struct, select, sys\nmath.isclose = lambda *a, **k: True\n"
        "json.dumps = lambda *a, **k: '{\"status\": \"pass\", \"value\": true}'\nos.read = lambda *a: b''\n"
        "sys.exc_info = lambda: (None, None, None)\ndef f(x): return 1"
    ),
    "patched sandbox": (
        "import sys\nfor n, m in list(sys.modules.items()):\n    if n.startswith('eval_suite'):\n"
        "        for a in ('pack', 'check', 'Tests'):\n"
        "            setattr(m, a, lambda *a, **k: {'status': 'pass', 'passed': True})\ndef f(x): return 1"
    ),
    "another status in the reply": (
        "import json, os, struct\ndef f(x):\n    for m in ({'status': 'pass'}, {'passed': True, 'value': True}):\n"
        "        d = json.dumps(m).encode(); os.write(3, struct.pack('>I', len(d)) + d)"
    ),
    "forged file descriptor": (
        "import json, os, struct\ndef f(x):\n    d = json.dumps({'status': 'pass', 'answer': 'passes'}).encode()\n"
        "    for fd in range(3, 300):\n"
        "        for data in (struct.pack('>I', len(d)) + d, struct.pack('!i', len(d)) + d, d + b'\\n'):\n"
        "            try: os.write(fd, data)\n            except OSError: pass"
    ),
    "replies in advance": (
        "import json, os, struct\nd = json.dumps({'value': True}).encode()\n"
        "os.write(3, (struct.pack('>I', len(d)) + d) * 50)\ndef f(x): return 1"
    ),
    "a reply of enormous length": "import os\ndef f(x):\n    os.write(3, b'\\xff\\xff\\xff\\xff' + b'x' * 100000)",
    "a reply that is no literal": (
        "import os, struct\ndef f(x):\n    d = b'{\"value\": {\"x\": 1}}'; os.write(3, struct.pack('>I', len(d)) + d)"
    ),
    "a reply of unequal pairs": (
        "import os, struct\ndef f(x):\n    d = b'{\"value\": {\"d\": [[[], 1], 2]}}'\n"
        "    os.write(3, struct.pack('>I', len(d)) + d)"
    ),
    "a handle of nothing": (
        "import os, struct\ndef f(x):\n    d = b'{\"value\": {\"o\": [-1, \"\\\\u0000\"]}}'\n"
        "    os.write(3, struct.pack('>I', len(d)) + d)"
    ),
    "closed channel": "import os\ndef f(x): os.closerange(0, 100)",
    "segfault": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "abort": "import ctypes\ndef f(x): ctypes.CDLL(None).abort()",
    "huge return": "def f(x): return 'x' * (50 * 2**20)",
    "huge list": "def f(x): return [0] * 20_000_000",
    "shared list that is huge when written": "def f(x):\n    a = [0]\n    for _ in range(60): a = [a, a]\n    return a",
    "cyclic return": "def f(x):\n    a = []; a.append(a); return a",
    "deeply nested return": "def f(x):\n    a = []\n    for _ in range(100_000): a = [a]\n    return a",
    "deeply nested reply": (
        "import os, struct\ndef f(x):\n    d = b'{\"value\": ' + b'[' * 10**6 + b']' * 10**6 + b'}'\n"
        "    os.write(3, struct.pack('>I', len(d)) + d)"
    ),
    "huge number": "def f(x): return 10 ** 2_000_000",
    "deep recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "deep recursion in C": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x):\n    class E:\n"
        "        def __repr__(self): return repr([self])\n    return repr(E())"
    ),
    "deeply nested code": "x = " + "(" * 90 + "1" + ")" * 90 + "\ny = " + "-" * 200_000 + "1\ndef f(x): return 1",
    "memory": "def f(x):\n    a = []\n    while True: a.append(bytearray(2**26))",
    "memory at once": "def f(x): return len(bytearray(2**40))",
    "StopIteration": "def f(x): raise StopIteration",
    "GeneratorExit": "def f(x): raise GeneratorExit",
    "KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "AssertionError": "def f(x): raise AssertionError('pass')",
    "sys.settrace": (
        "import sys\ndef t(frame, event, arg):\n    frame.f_locals['reply'] = {'status': 'pass'}\n    return t\n"
        "sys.settrace(t); sys.setprofile(t)\ndef f(x): return 1"
    ),
    "atexit": "import atexit\natexit.register(print, 'pass')\ndef f(x): return 1",
    "evil import": (
        "import sys\nclass I:\n    def find_spec(self, *a): print('pass'); return None\n"
        "sys.meta_path.insert(0, I()); sys.excepthook = lambda *a: None\ndef f(x): return 1"
    ),
    "not a number": "def f(x): return float('nan')",
    "nothing": "",
    "not callable": "f = 'pass'",
}

BREAK_OUTS: dict[str, str] = {
    "delete outside": "import os\ndef f(w):\n    os.remove(w['victim']); return 'done'",
    "delete trees outside": (
        "import os, shutil\ndef f(w):\n    shutil.rmtree(w['folder']); return 'done'"
    ),
    "read outside": "def f(w):\n    return 'done' if 'precious' in open(w['victim']).read() else 0",
    "read the tests' library": (
        "import os\ndef f(w):\n    return 'done' if open(w['checker_file']).read() else 0"
    ),
    "read passwords": "def f(w):\n    return 'done' if open('/etc/passwd').read() else 0",
    "list outside": "import os\ndef f(w):\n    return 'done' if os.listdir(w['folder']) else 0",
    "write outside": "def f(w):\n    open(w['victim'], 'w').write('mine'); return 'done'",
    "append outside": "def f(w):\n    open(w['victim'], 'a').write('mine'); return 'done'",
    "create outside": "import os\ndef f(w):\n    open(w['folder'] + '/new', 'w').close(); return 'done'",
    "make a folder outside": "import os\ndef f(w):\n    os.mkdir(w['folder'] + '/new'); return 'done'",
    "rename outside": "import os\ndef f(w):\n    os.rename(w['victim'], w['victim'] + '2'); return 'done'",
    "move out": (
        "import os\ndef f(w):\n    open('own', 'w').close(); os.rename('own', w['folder'] + '/own'); return 'done'"
    ),
    "hard link": "import os\ndef f(w):\n    os.link(w['victim'], 'own'); return 'done'",
    "symbolic link": (
        "import os\ndef f(w):\n    os.symlink(w['victim'], 'own'); open('own', 'w').write('mine'); return 'done'"
    ),
    "truncate": "import os\ndef f(w):\n    os.truncate(w['victim'], 0); return 'done'",
    "truncate by opening": (
        "import os\ndef f(w):\n    for mode in (0, 3):\n        try: os.open(w['victim'], mode | os.O_TRUNC)\n"
        "        except OSError: continue\n        return 'done'"
    ),
    "truncate the library": (
        "import os, colorsys\ndef f(w):\n    for mode in (0, 3):\n"
        "        try: os.open(colorsys.__file__, mode | os.O_TRUNC)\n        except OSError: continue\n"
        "        return 'done'"
    ),
    "chmod": "import os\ndef f(w):\n    os.chmod(w['victim'], 0o777); return 'done'",
    "utime": "import os\ndef f(w):\n    os.utime(w['victim'], (0, 0)); return 'done'",
    "chown": "import os\ndef f(w):\n    os.chown(w['victim'], os.getuid(), os.getgid()); return 'done'",
    "extended attributes": "import os\ndef f(w):\n    os.setxattr(w['victim'], 'user.x', b'1'); return 'done'",
    "disk fill": (
        "import os\ndef f(w):\n    total = 0\n    try:\n        for i in range(100_000):\n"
        "            with open(f'{i}', 'wb') as file: total += file.write(bytes(2**20))\n"
        "    except OSError: pass\n    return 'done' if total > 64 * 2**20 else total"
    ),
    "one large file": (
        "import os\ndef f(w):\n    file = os.open('big', os.O_CREAT | os.O_RDWR)\n"
        "    os.ftruncate(file, 2**40); return 'done'"
    ),
    "tcp": "import socket\ndef f(w):\n    socket.create_connection(('127.0.0.1', w['tcp']), 1).send(b'x'); return 'done'",
    "udp": (
        "import socket\ndef f(w):\n    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "    s.sendto(b'x', ('127.0.0.1', w['udp'])); return 'done'"
    ),
    "unix socket": "import socket\ndef f(w):\n    s = socket.socket(socket.AF_UNIX); s.connect(w['unix']); return 'done'",
    "abstract socket": (
        "import socket\ndef f(w):\n    s = socket.socket(socket.AF_UNIX); s.connect('\\0' + w['abstract']); return 'done'"
    ),
    "socket pair": "import socket\ndef f(w):\n    socket.socketpair(); return 'done'",
    "fork": "import os\ndef f(w):\n    if os.fork() == 0: os._exit(0)\n    return 'done'",
    "fork bomb": "import os\ndef f(w):\n    while True:\n        os.fork()",
    "daemon": (
        "import os, time\ndef f(w):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
        "            time.sleep(30)\n        os._exit(0)\n    return 'done'"
    ),
    "session": "import os\ndef f(w):\n    os.setsid(); return 'done'",
    "threads": (
        "import threading\ndef f(w):\n    t = threading.Thread(target=print); t.start(); t.join(); return 'done'"
    ),
    "multiprocessing": (
        "import multiprocessing\ndef f(w):\n    p = multiprocessing.Process(target=print); p.start(); return 'done'"
    ),
    "subprocess": "import subprocess\ndef f(w):\n    subprocess.run(['/bin/true'], check=True); return 'done'",
    "posix_spawn": (
        "import os\ndef f(w):\n    os.posix_spawn('/bin/true', ['true'], {}); return 'done'"
    ),
    "exec": "import os, sys\ndef f(w):\n    os.execv(sys.executable, [sys.executable, '-c', 'print(1)'])",
    "exec from memory": (
        "import os\ndef f(w):\n    d = os.memfd_create('x'); os.write(d, b'#!/bin/sh\\n'); os.execve(d, ['x'], {})"
    ),
    "system by ctypes": (
        "import ctypes\ndef f(w):\n    r = ctypes.CDLL(None).system(b'true'); return 'done' if r == 0 else r"
    ),
    "kill the parent": "import os\ndef f(w):\n    os.kill(os.getppid(), 9); return 'done'",
    "kill the checker": "import os\ndef f(w):\n    os.kill(w['checker'], 9); return 'done'",
    "kill all": "import os\ndef f(w):\n    os.kill(-1, 9); return 'done'",
    "kill the group": "import os\ndef f(w):\n    os.killpg(0, 9); return 'done'",
    "signal by file owner": (
        "import fcntl\ndef f(w):\n    fcntl.fcntl(3, fcntl.F_SETOWN, w['checker']); return 'done'"
    ),
    "signal by choice": "import fcntl\ndef f(w):\n    fcntl.fcntl(3, 10, 9); return 'done'",
    "signal by pidfd": (
        "import os, signal\ndef f(w):\n    signal.pidfd_send_signal(os.pidfd_open(w['checker']), 9); return 'done'"
    ),
    "limits of the parent": (
        "import os, resource\ndef f(w):\n    resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)); return 'done'"
    ),
    "higher limits": (
        "import resource\ndef f(w):\n    resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40)); return 'done'"
    ),
    "priority": "import os\ndef f(w):\n    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19); return 'done'",
    "/proc/self/mem": "def f(w):\n    open('/proc/self/mem', 'r+b'); return 'done'",
    "memory of the checker": "def f(w):\n    open(f'/proc/{w[\"checker\"]}/mem', 'rb'); return 'done'",
    "open files of the checker": (
        "import os\ndef f(w):\n    return 'done' if os.listdir(f'/proc/{w[\"checker\"]}/fd') else 0"
    ),
    "environment of the parent": (
        "import os\ndef f(w):\n    return 'done' if open(f'/proc/{os.getppid()}/environ').read() else 0"
    ),
    "environment": "import os\ndef f(w):\n    return 'done' if 'ATTACK_SECRET' in str(dict(os.environ)) else 0",
    "open descriptors": (
        "import os\ndef f(w):\n    for fd in range(4, 4096):\n        try: os.fstat(fd)\n        except OSError: continue\n"
        "        return 'done'"
    ),
    "read from a device": "def f(w):\n    return 'done' if open('/dev/mem', 'rb').read(1) or 1 else 0",
    "become root": "import os\ndef f(w):\n    os.setuid(0 if os.getuid() else 1); return 'done'",
    "mode of own umask": "import os\ndef f(w):\n    os.chroot('/'); return 'done'",
    "shared memory": (
        "from multiprocessing import shared_memory\ndef f(w):\n"
        "    shared_memory.SharedMemory('attack', create=True, size=10); return 'done'"
    ),
    "standard input": "def f(w):\n    return 'done' if input() is not None else 0",
    "the terminal": "def f(w):\n    return 'done' if open('/dev/tty', 'w') else 0",
    "leave the folder": "import os\ndef f(w):\n    os.chdir(w['folder']); open('x', 'w'); return 'done'",
}
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
        "    e = ctypes.get_errno()\n    return 'done' if r != -1 or e not in (1, 38) else e"  # EPERM, ENOSYS
    )
    for name, number in _RAW_CALLS.items()
}

LOOPS: dict[str, str] = {
    "infinite loop": "def f(x):\n    while True: pass",
    "infinite loop when loaded": "while True: pass",
    "swallowed timeout": (
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass"
    ),
    "loop in C": "def f(x): return sum(iter(int, 1))",
    "loop that ignores signals": (
        "import signal\nfor s in signal.valid_signals():\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\ntry: signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "except OSError: pass\ndef f(x):\n    while True: pass"
    ),
    "sleep": "import time\ndef f(x): time.sleep(1000)",
    "lock": "import _thread\ndef f(x):\n    lock = _thread.allocate_lock(); lock.acquire(); lock.acquire()",
    "half a reply": "import os, time\ndef f(x):\n    os.write(3, b'\\0\\0'); time.sleep(1000)",
}


def main(namespaces: bool) -> None:
    from eval_suite.grading.sandbox.checker import Limits, Tests, check
    from eval_suite.grading.sandbox.server import SandboxServer

    os.environ["ATTACK_SECRET"] = "secret"
    folder = Path(tempfile.mkdtemp(prefix="attacked-"))
    victim = folder / "victim"
    victim.write_text("precious")
    state = _state(folder)
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
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
        "checker_file": sys.modules[check.__module__].__file__,
    }
    server = SandboxServer(namespaces)
    results = {}
    for kind, attacks in (("forgery", FORGERIES), ("break-out", BREAK_OUTS), ("loop", LOOPS)):
        for attack, code in attacks.items():
            if kind == "break-out":
                tests = f"assert f({where!r}) == 'done'"
            else:
                expected = f"secret-{secrets.token_hex(4)}"
                tests = f"expected = {expected!r}\nassert f(1) == expected\nassert all(map(f, [1, 2])) and f(3) == expected"
            result = check(server, [code], Tests(tests), Limits(1, 512, 1.5 if attack in _WAITING else 20.0))
            results[attack] = [kind, result.status, result.reason]
    healthy = check(server, ["def f(x): return x"], Tests("assert f(1) == 1"), Limits()).status == "pass"
    rooted, user, session = server.rooted, server.user, server.pid
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
                "user": user,
                "untouched": _state(folder) == state,
                "connections": connections,
                "left": _in_session(session),
            }
        )
    )


_WAITING = ("sleep", "lock", "half a reply")


def _state(folder: Path) -> list[tuple]:
    """All that could be changed in the folder and in the interpreter's library, and names of what lies in /tmp."""
    files = [*folder.rglob("*"), folder]
    return [
        (str(path), path.read_bytes() if path.is_file() else b"", *map(int, _numbers(path))) for path in sorted(files)
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
    main(sys.argv[1] == "1")
