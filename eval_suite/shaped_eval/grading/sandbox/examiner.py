"""The process that runs the tests of a piece of code; their calls go to the code's process.

Tests come from data sets and from other people's files, so they are confined like the code. What
they call is a proxy, which sends literal arguments and receives a literal reply: an object of an
exact builtin type, or a `Handle` for anything else. The checker is told the result once:

- as soon as it is known that the code has failed; whatever the tests do, catch or continue with
afterwards does not count;
- or that it passes, at the end of all tests, when no call is open and no thread is left.

A process that ends in any other way, or at its limit of CPU time, has not reported a pass.
"""

from __future__ import annotations

import builtins
import random
import reprlib
import symtable
import threading
import time
import warnings
from functools import lru_cache
from types import CodeType
from typing import Any, NoReturn

from shaped_eval.grading.sandbox.wire import (
    CALLED,
    LARGEST_TASK,
    REQUEST_BYTES,
    BadReply,
    Gone,
    pack,
    recv_frame,
    send_frame,
    unpack,
)

START_S = 20.0  # for starting a process on a busy machine

# Iteration in the tests would take the first two as its end: all(map(f, inputs)) would be true.
_NOT_RAISED = (StopIteration, StopAsyncIteration, UnicodeError)

_KNOWN_NAMES = {
    *dir(builtins),
    "__name__",
    "copyright",
    "credits",
    "exit",
    "help",
    "license",
    "quit",
}  # also of `site`

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 60, 60, 40


def serve(report: int, channel: int) -> None:
    """Receive a task from `report`, and send there the result of the code behind `channel`."""
    warnings.simplefilter("ignore")
    task = recv_frame(report, largest=LARGEST_TASK)
    _Session(report, channel).run(task)


class Handle:
    """An object in the other process that is not a literal.

    It equals only itself. It can be passed back or iterated.
    """

    __slots__ = ("_number", "_session", "_type_name")

    def __init__(self, session: _Session, number: int, type_name: str) -> None:
        self._session = session
        self._number = number
        self._type_name = type_name

    def __repr__(self) -> str:
        return f"<{self._type_name} object>"

    def __iter__(self) -> Any:
        return iter(self._session.ask({"iterate": self._number}, f"iter({self!r})"))


class CandidateError(Exception):
    """The code raised an exception that is not one of Python's own."""


class _Session:
    """The tests' view of the code's process."""

    def __init__(self, report: int, channel: int) -> None:
        self._report = report
        self._channel = channel
        self._deadline_s = time.monotonic() + START_S
        self._one_call = threading.Lock()
        self._one_conclusion = threading.Lock()
        self._calls = self._answers = 0
        self._tests = ""
        self._is_open = False  # a call has begun and is not complete
        self._last = "no call"

    def run(self, task: dict[str, Any]) -> NoReturn:
        try:
            # the process has not received the code yet, so it can be trusted
            hello = recv_frame(self._channel, self._deadline_s)
        except (Gone, TimeoutError) as error:
            self._conclude(
                "error", f"the process for the code did not start ({type(error).__name__})"
            )
        if "refused" in hello:
            self._conclude("error", f"the code could not be confined: {hello['refused']}")
        self._deadline_s = time.monotonic() + task["wall_s"]
        self._tests = task["before"] + task["tests"]
        namespace: dict[str, Any] = {"__name__": "tests"}
        try:
            exec(_compiled(task["before"]), namespace)
            body = _compiled(task["tests"])
            names = task["names"]
            if names is None:
                # What the preamble defines belongs to the tests: the code could otherwise replace
                # the function that compares its results.
                names = [name for name in free_names(task["tests"]) if name not in namespace]
        except BaseException as error:  # tests can raise anything
            self._conclude("error", f"the tests cannot be used: {_line(error)}")
        names = list(dict.fromkeys([*task["entry_points"], *names]))
        found = self._load({"programs": task["programs"], "setup": task["setup"], "names": names})
        for name in names:
            if name not in found:
                self._conclude("fail", f"the code does not define {name}")
            namespace[name] = found[name]
        random.seed(0)  # some tests draw their inputs
        try:
            exec(body, namespace)
            if threading.active_count() > 1:
                threading._shutdown()  # type: ignore[attr-defined]  # as at exit
        except BaseException as error:
            self._conclude(*self._meaning(error, all(map(callable, found.values()))))
        if self._calls == 0:
            self._conclude("error", "the tests never called the code")
        with self._one_call:
            self._refuse_half_done()
            self._conclude("pass", f"{self._calls} calls")

    def _meaning(self, error: BaseException, needs_calls: bool) -> tuple[str, str]:
        """Status and reason of the code if its tests have raised this exception."""
        if self._calls == 0 and needs_calls:
            return "error", f"the tests failed before they called the code: {_line(error)}"
        if self._is_open and not self._one_call.locked():
            return "fail", f"{self._last}: {_line(error)} before its reply"
        if isinstance(error, Exception):
            # After a reply, the file may be one that the code named. No reply can add a module to
            # those that the tests name.
            named = (
                isinstance(error, ImportError)
                and error.name is not None
                and error.name in self._tests
            )
            if named or (isinstance(error, OSError | ImportError) and not self._answers):
                return "error", f"the tests need what they do not have here: {_line(error)}"
            return "fail", f"{self._last}: {_line(error)}"
        if isinstance(error, SystemExit) and error.code and self._answers:
            return "fail", f"{self._last}: {_line(error)}"
        return "error", f"the tests ended with {_line(error)}"

    def _conclude(self, status: str, reason: str, gone: bool = False) -> NoReturn:
        """Report the result, and wait to be ended. Only the first conclusion of any thread counts.

        With `gone`, the code's process has ended, and the way it ended decides the result.
        """
        with self._one_conclusion:
            send_frame(self._report, {"status": status, "reason": reason, "gone": gone})
            while True:
                time.sleep(60)

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        reply = self._exchange(message)
        if "raised" in reply:
            self._conclude(
                "fail",
                f"running the code raised {_text(reply['raised'])}: {_text(reply.get('message'))}",
            )
        found = reply.get("found")
        if not isinstance(found, dict):
            self._end(BadReply("no list of names"))
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
        """Make one call in the other process.

        Raises:
            Exception: what the code raised: Python's own exception of that name, or a
                `CandidateError`.
        """
        with self._one_call:
            self._refuse_half_done()
            self._calls += 1
            if self._calls == 1:
                send_frame(self._report, CALLED)
            self._last = f"{name}({', '.join(map(_short, arguments))})"
            # until the value has arrived: a handler of the tests can raise at any step
            self._is_open = True
            reply = self._exchange(message)
            value = None if "raised" in reply else self._value(reply)
            self._answers += 1
            self._is_open = False
            if "raised" in reply:
                self._last += " raised"
                raise _raised(_text(reply["raised"]), _text(reply.get("message")))
            self._last += f" returned {_short(value)}"
            return value

    def _refuse_half_done(self) -> None:
        """Conclude with a fail if an alarm of the tests interrupted a call.

        The reply of that call would otherwise be taken for the reply of the next one.
        """
        if self._is_open:
            self._conclude("fail", f"{self._last}: the tests did not wait for its reply")

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            send_frame(self._channel, message, self._deadline_s, REQUEST_BYTES)
        # the tests' arguments are too large, perhaps because of what the code returned
        except BadReply as error:
            self._conclude("fail" if self._answers else "error", f"the tests send {error}")
        except (Gone, TimeoutError) as error:
            self._end(error)
        try:
            reply = recv_frame(self._channel, self._deadline_s)
            if not isinstance(reply, dict):
                raise BadReply("what is no reply")
        except (Gone, TimeoutError, BadReply) as error:
            self._end(error)
        return reply

    def _value(self, reply: dict[str, Any]) -> Any:
        try:
            if "value" not in reply:
                raise BadReply("a reply without a value")
            return unpack(reply["value"], self._handle)
        except BadReply as error:
            self._end(error)

    def _handle(self, content: Any) -> Handle:
        number, type_name = content
        return Handle(self, int(number), _text(type_name))

    def _end(self, error: Exception) -> NoReturn:
        if isinstance(error, Gone):
            self._conclude("fail", "the process of the code ended", gone=True)
        if isinstance(error, TimeoutError):
            self._conclude("timeout", "no answer within the wall time")
        self._conclude("fail", f"the process of the code sent {error}")


def _raised(kind: str, message: str) -> Exception:
    known = getattr(builtins, kind, None)
    if (
        isinstance(known, type)
        and issubclass(known, Exception)
        and not issubclass(known, _NOT_RAISED)
    ):
        return known(message)
    return CandidateError(f"{kind}: {message}")


def _handle_number(value: Any) -> Any:
    if isinstance(value, Handle):
        return {"o": [value._number]}
    raise TypeError(f"an argument of type {type(value).__name__} is no literal")


def _compiled(text: str) -> CodeType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compile(text, "tests", "exec", dont_inherit=True)


@lru_cache(maxsize=64)
def free_names(text: str) -> tuple[str, ...]:
    """Global names that `text` uses, but neither defines nor finds among the builtins."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        top = symtable.symtable(text, "tests", "exec")
    own = {
        symbol.get_name()
        for symbol in top.get_symbols()
        if symbol.is_assigned() or symbol.is_imported()
    }
    used: dict[str, None] = {}
    tables = [top]
    while tables:
        table = tables.pop(0)
        tables += table.get_children()
        for symbol in table.get_symbols():
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                used[symbol.get_name()] = None
    return tuple(name for name in used if name not in own and name not in _KNOWN_NAMES)


def _short(value: Any) -> str:
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number with more digits than Python prints
        return f"<a large {type(value).__name__}>"


def _text(value: Any) -> str:
    """A text from the other process as one line of printable characters."""
    words = " ".join(value[:300].split()) if isinstance(value, str) else "?"
    return "".join(character if character.isprintable() else "?" for character in words)


def _line(error: BaseException) -> str:
    text = _text(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
