"""A reward function that raises costs its samples their reward, not the run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch import nn
from trl.trainer.utils import get_callable_name, is_async_callable

logger = logging.getLogger(__name__)


class GuardedReward:
    """A TRL reward function around another one: where that raises, its samples are tried one by one.

    Those that raise alone get None, which TRL takes for "no reward here". `raised` has the indices of the last call,
    `error` the last exception in words. What was given to `log_extra` before the exception is not logged.

    Args:
        function: a synchronous reward function; its name names the reward in the log.
    """

    def __init__(self, function: Callable[..., list[float | None]]):
        self.function = function
        self.__name__ = get_callable_name(function)
        self.raised: list[int] = []
        self.error: str | None = None

    def __call__(self, prompts: list, log_extra: Callable[[str, list], None], **columns: Any) -> list[float | None]:
        self.raised = []
        extras: dict[str, list] = {}
        try:
            rewards = self.function(prompts=prompts, log_extra=extras.__setitem__, **columns)
        except Exception as error:  # a user's function: whatever it raises is counted and named
            self._note(error)
            rewards, extras = self._one_by_one(prompts, columns)
        for name, values in extras.items():
            log_extra(name, values)
        return rewards

    def _one_by_one(self, prompts: list, columns: dict[str, Any]) -> tuple[list[float | None], dict[str, list]]:
        rewards: list[float | None] = []
        extras: dict[str, list] = {}
        for i, prompt in enumerate(prompts):
            own = {name: [value[i]] if _is_column(value, len(prompts)) else value for name, value in columns.items()}
            said: dict[str, list] = {}
            try:
                rewards += self.function(prompts=[prompt], log_extra=said.__setitem__, **own)
            except Exception as error:  # as above, of this sample alone
                self._note(error)
                self.raised.append(i)
                rewards.append(None)
                continue
            for name, values in said.items():
                extras.setdefault(name, [None] * len(prompts))[i] = values[0]
        return rewards, extras

    def _note(self, error: Exception) -> None:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if self.error is None:
            logger.warning(f"reward {self.__name__!r} raised {words}; what raises gets no reward")
        self.error = words


def _is_column(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def guard(functions: Any) -> list | None:
    """The reward functions, the synchronous ones guarded; models, their names and coroutines stay as they are."""
    if functions is None:
        return None
    functions = functions if isinstance(functions, list) else [functions]
    left_alone = (str, nn.Module, GuardedReward)
    return [f if isinstance(f, left_alone) or is_async_callable(f) else GuardedReward(f) for f in functions]
