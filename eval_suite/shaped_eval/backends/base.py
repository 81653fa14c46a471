"""What every backend speaks: a request in, completions out.

P prompts of a request, M samples of each.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from shaped_eval.records import FinishReason


@dataclass(frozen=True)
class Request:
    """P prompts of equal length in tokens (only `Backend.together` ones are given more than one), M
    samples of each.

    `seed` decides the samples as far as the backend can make it so; any of `stop` ends a sample.
    `greedy`: as with temperature 0, whatever the run's; the same for all requests of a call.
    """

    prompts: tuple[str, ...]
    num_samples: int
    seed: int
    stop: tuple[str, ...] = ()
    greedy: bool = False


@dataclass(frozen=True)
class Completion:
    """`text` ends before the stop string or end token; `tokens` counts either of them too."""

    text: str
    finish_reason: FinishReason
    tokens: int


# Index of a request, and its completions.
Completions = Generator[tuple[int, list[Completion]], None, None]


class Backend(Protocol):
    """Generates the samples of requests.

    `identity` says which weights these are, `device` where they run, `repeatability` in one
    sentence whether the same requests give the same completions. `together`: requests are worked
    off one after another, so several problems are put into one to fill the device.
    """

    identity: str
    device: str
    repeatability: str
    together: bool

    def prompt_tokens(self, prompt: str) -> int | None:
        """Length of `prompt` in tokens, as it would be fed; None where only a server knows."""
        ...

    def context_tokens(self) -> int | None:
        """Tokens of prompt and completion that the model can attend to; None where it does not
        say."""
        ...

    def prepare(self) -> None:
        """Load the weights, or reach the server, before anything is written.

        Raises:
            UserError: that cannot be done, with what to do.
        """
        ...

    def complete(self, requests: Sequence[Request]) -> Completions:
        """Each request's index and its P·M completions, prompt by prompt, as they are done: in any
        order.

        Raises:
            UserError: what the user can mend, such as a batch that does not fit the memory.
        """
        ...


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` before the first of the strings `stop`, and whether there was one."""
    ends = [position for position in map(text.find, stop) if position >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
