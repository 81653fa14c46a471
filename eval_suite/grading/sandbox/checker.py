"""The trusted side of one piece of code: run its tests here, each call of theirs in the other process.

The tests are the data set's or the user's, and run with the rights of this process. What they call is a proxy: it
sends literal arguments and takes a literal reply, an object of an exact builtin type, or a `Handle` for anything
else. The verdict is made here, of what the tests' own comparisons say.
"""

from __future__ import annotations

import builtins
import os
import random
import reprlib
import signal
import symtable
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any

from eval_suite.grading.sandbox.server import Ended, SandboxServer
from eval_suite.grading.sandbox.wire import BadReply, Gone, pack, recv_frame, send_frame, unpack
from eval_suite.records import Status

CPU_SLACK_S = 0.1  # the kernel's clock ticks

# Iteration in the tests would take the first two for an end: all(map(f, inputs)) would hold.
_NOT_RAISED = (StopIteration, StopAsyncIteration, UnicodeError)

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 60, 60, 40


@dataclass(frozen=True)
class TestResult:
    """What became of a piece of code.

    status: ``pass``; ``fail`` (a wrong result, an exception, or the end of its process); ``timeout``; ``error``
        (of the tests themselves, or of the sandbox).
    reason: one line; of a pass, how many calls it answered.
    """

    __test__ = False  # for pytest

    status: Status
    reason: str


@dataclass(frozen=True)
class Tests:
    """What to ask of a piece of code.

    tests: Python text. It passes if it ends without an exception, and has called the code.
    names: what the tests take from the code; None for all names that they use and nobody else defines.
    before: Python text run before the tests, on the trusted side, whose definitions they use; `names` come after.
    setup: Python text run after the code, in its process, such as to make objects that are no literals.
    """

    __test__ = False

    tests: str
    names: Sequence[str] | None = None
    before: str = ""
    setup: str = ""


class Handle:
    """An object in the other process that is no literal. Equal to itself only; can be passed back, or iterated."""

    __slots__ = ("_number", "_session", "_type_name")

    def __init__(self, session: _Session, number: int, type_name: str) -> None:
        self._session, self._number, self._type_name = session, number, type_name

    def __repr__(self) -> str:
        return f"<{self._type_name} object>"

    def __iter__(self) -> Any:
        return iter(self._session.ask({"iterate": self._number}, f"iter({self!r})"))


class CandidateError(Exception):
    """The code raised an exception that is none of Python's own."""


class _Stop(BaseException):
    """The end of the tests. No Exception, so that no ``except Exception`` of theirs holds it up.

    `gone`: the process has ended, and how it did decides the result.
    """

    def __init__(self, status: Status, reason: str, gone: bool = False) -> None:
        super().__init__(reason)
        self.result = TestResult(status, reason)
        self.gone = gone


@dataclass(frozen=True)
class Limits:
    """Of one piece of code with all its calls. CPU time decides, so that a busy machine changes no verdict.

    cpu_s: CPU time, in whole seconds. memory_mb: address space. wall_s: for code that waits without working.
    """

    cpu_s: int = 10
    memory_mb: int = 1024
    wall_s: float = 60.0


def check(server: SandboxServer, programs: Sequence[str], tests: Tests, limits: Limits) -> TestResult:
    """Run the first of `programs` that compiles, and `tests` against it.

    Raises:
        OSError: the sandbox itself failed; use another `server`.
    """
    session = _Session(server.start(limits.cpu_s, limits.memory_mb), time.monotonic() + limits.wall_s)
    gone = False
    try:
        result = session.run(programs, tests)
    except _Stop as stop:
        result, gone = stop.result, stop.gone
    finally:
        os.close(session.channel)
        ended = server.reap()
    return _why(ended, limits) if gone else result


def _why(ended: Ended, limits: Limits) -> TestResult:
    """Why a process ended by itself, or by the kernel's hand."""
    if ended.signal in (signal.SIGKILL, signal.SIGXCPU) and ended.cpu_s >= limits.cpu_s - CPU_SLACK_S:
        return TestResult("timeout", f"more than {limits.cpu_s} s of CPU time")
    how = f" ({signal.strsignal(ended.signal)})" if ended.signal else ""
    return TestResult("fail", f"the process of the code ended{how}")


class _Session:
    """The tests' view of the other process."""

    def __init__(self, channel: int, deadline_s: float) -> None:
        self.channel = channel
        self._deadline_s = deadline_s
        self.calls = 0
        self._last = "no call"

    def run(self, programs: Sequence[str], tests: Tests) -> TestResult:
        try:
            hello = recv_frame(self.channel, self._deadline_s)  # none of the code is there yet: it can be trusted
        except (Gone, TimeoutError) as error:
            return TestResult("error", f"the process for the code did not start ({type(error).__name__})")
        if "refused" in hello:
            return TestResult("error", f"the code could not be confined: {hello['refused']}")
        namespace: dict[str, Any] = {"__name__": "tests"}
        try:
            exec(_compiled(tests.before), namespace)
            body = _compiled(tests.tests)
            names = free_names(tests.tests) if tests.names is None else tests.names
        except Exception as error:
            return TestResult("error", f"the tests cannot be used: {_line(error)}")
        found = self._load({"programs": list(programs), "setup": tests.setup, "names": list(names)})
        for name in names:
            if name not in found:
                return TestResult("fail", f"the code does not define {name}")
            namespace[name] = found[name]
        random.seed(0)  # some tests draw their inputs
        try:
            exec(body, namespace)
        except Exception as error:
            if self.calls == 0 and all(map(callable, found.values())):
                return TestResult("error", f"the tests failed before they called the code: {_line(error)}")
            return TestResult("fail", f"{self._last}: {_line(error)}")
        if self.calls == 0:
            return TestResult("error", "the tests never called the code")
        return TestResult("pass", f"{self.calls} calls")

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        reply = self._exchange(message)
        if "raised" in reply:
            raise _Stop("fail", f"running the code raised {_text(reply['raised'])}: {_text(reply.get('message'))}")
        found = reply.get("found")
        if not isinstance(found, dict):
            raise _end(BadReply("no list of names"))
        return {
            name: self._proxy(name) if "callable" in entry else self._value(entry)
            for name, entry in found.items()
            if isinstance(entry, dict)
        }

    def _proxy(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            packed = pack([list(arguments), options], _handle_number)
            return self.ask({"call": name, "arguments": packed}, name, arguments)

        call.__name__ = call.__qualname__ = name
        return call

    def ask(self, message: dict[str, Any], name: str, arguments: tuple[Any, ...] = ()) -> Any:
        """One call in the other process.

        Raises:
            Exception: what the code raised, as Python's own exception of that name, or a `CandidateError`.
        """
        self.calls += 1
        self._last = f"{name}({', '.join(map(_short, arguments))})"
        reply = self._exchange(message)
        if "raised" in reply:
            kind, text = _text(reply["raised"]), _text(reply.get("message"))
            self._last += " raised"
            known = getattr(builtins, kind, None)
            if isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, _NOT_RAISED):
                raise known(text)
            raise CandidateError(f"{kind}: {text}")
        value = self._value(reply)
        self._last += f" returned {_short(value)}"
        return value

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            send_frame(self.channel, message, self._deadline_s)
        except BadReply as error:  # ours: the tests' arguments are too large
            raise _Stop("error", f"the tests send {error}") from error
        except (Gone, TimeoutError) as error:
            raise _end(error) from error
        try:
            reply = recv_frame(self.channel, self._deadline_s)
            if not isinstance(reply, dict):
                raise BadReply("what is no reply")
        except (Gone, TimeoutError, BadReply) as error:
            raise _end(error) from error
        return reply

    def _value(self, reply: dict[str, Any]) -> Any:
        try:
            if "value" not in reply:
                raise BadReply("a reply without a value")
            return unpack(reply["value"], self._handle)
        except BadReply as error:
            raise _end(error) from error

    def _handle(self, content: Any) -> Handle:
        number, type_name = content
        return Handle(self, int(number), _text(type_name))


def _end(error: Exception) -> _Stop:
    if isinstance(error, Gone):
        return _Stop("fail", "the process of the code ended", gone=True)
    if isinstance(error, TimeoutError):
        return _Stop("timeout", "no answer within the wall time")
    return _Stop("fail", f"the process of the code sent {error}")


def _handle_number(value: Any) -> Any:
    if isinstance(value, Handle):
        return {"o": [value._number]}
    raise TypeError(f"an argument of type {type(value).__name__} is no literal")


@lru_cache(maxsize=64)
def _compiled(text: str) -> CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compile(text, "tests", "exec", dont_inherit=True)


@lru_cache(maxsize=64)
def free_names(text: str) -> tuple[str, ...]:
    """Global names that `text` uses and neither defines nor finds among the builtins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        top = symtable.symtable(text, "tests", "exec")
    own = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used: dict[str, None] = {}
    tables = [top]
    while tables:
        table = tables.pop(0)
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                used[symbol.get_name()] = None
    return tuple(name for name in used if name not in own and not hasattr(builtins, name) and name != "__name__")


def _short(value: Any) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"<a large {type(value).__name__}>"


def _text(value: Any) -> str:
    """One line of printable characters of what the other process sent."""
    words = " ".join(value[:300].split()) if isinstance(value, str) else "?"
    return "".join(character if character.isprintable() else "?" for character in words)


def _line(error: Exception) -> str:
    text = _text(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
