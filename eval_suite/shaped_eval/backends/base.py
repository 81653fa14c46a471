"""The interface of every backend: a request in, completions out.

Notation: P prompts of a request, M samples of each.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from shaped_eval.records import FinishReason


@dataclass(frozen=True)
class BatchLimits:
    """What a batch may hold, for a backend that generates several problems together.

    Attributes:
        rows: most samples.
        tokens: most tokens, R · (longest prompt + longest completion); None for any number.
        prompt_tokens: most tokens of prompts, of which each counts once; None for any number.
        padded: whether prompts of different lengths may share a batch.
    """

    rows: int
    tokens: int | None = None
    prompt_tokens: int | None = None
    padded: bool = False


@dataclass(frozen=True)
class Request:
    """P prompts, with M samples of each.

    Only a backend with `together` set is given more than one prompt. They are of equal length in
    tokens unless the backend pads.

    Attributes:
        seed: determines the samples as far as the backend can guarantee it.
        stop: strings, any of which ends a sample.
        problem_seeds: one for each prompt, of the run and the problem. With the index of the
            sample it determines a sample, with backends that draw each one by itself.
        start: index of the first of the M samples.
        greedy: use temperature 0, whatever the run's temperature; the same for all requests of a
            call.
    """

    prompts: tuple[str, ...]
    num_samples: int
    seed: int
    stop: tuple[str, ...] = ()
    greedy: bool = False
    problem_seeds: tuple[int, ...] = ()
    start: int = 0


@dataclass(frozen=True)
class Completion:
    """`text` ends before the stop string or end token; `tokens` includes either of them."""

    text: str
    finish_reason: FinishReason
    tokens: int


@dataclass(frozen=True)
class Progress:
    """How far a batch is.

    Attributes:
        ended: samples that have ended.
        running: those that have not.
        length: tokens of each running sample.
        tokens: those of all samples together.
    """

    ended: int
    running: int
    length: int
    tokens: int


# Yields the index of a request and its completions.
Completions = Generator[tuple[int, list[Completion]], None, None]


class Backend(Protocol):
    """Generates the samples of requests.

    Attributes:
        identity: identifies the weights.
        device: where they run.
        repeatability: says in one sentence whether the same requests give the same completions.
        together: whether the backend works on one request at a time, so that several problems are
            put into one request to fill the device.
    """

    identity: str
    device: str
    repeatability: str
    together: bool

    def prompt_tokens(self, prompt: str) -> int | None:
        """Length of the encoded `prompt` in tokens; None where only a server knows it."""
        ...

    def context_tokens(self) -> int | None:
        """Most tokens of prompt and completion together; None where the model does not say."""
        ...

    def prepare(self) -> None:
        """Load the weights, or reach the server, before anything is written.

        Raises:
            UserError: that is not possible. The message says what to do.
        """
        ...

    def complete(self, requests: Sequence[Request]) -> Completions:
        """Yield each request's index and its P·M completions, prompt by prompt.

        Requests may finish in any order.

        Raises:
            UserError: something that the user can fix, such as a batch that does not fit in memory.
        """
        ...


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` before the first occurrence of a string of `stop`, and whether there was one."""
    ends = [position for position in map(text.find, stop) if position >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
