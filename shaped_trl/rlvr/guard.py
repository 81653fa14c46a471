"""Guards around reward functions: one that raises costs its samples their reward, and the run goes
on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from shaped_eval.untrusted.texts import one_line
from torch import nn

from shaped_trl.training.trl_names import get_callable_name, is_async_callable

logger = logging.getLogger(__name__)
Rewards = list[float | None]


class Extras(dict[str, list]):
    """What a reward function gives to `log_extra`. As with TRL, several calls add to a column."""

    def extend(self, column: str, values: list) -> None:
        self.setdefault(column, []).extend(values)


class GuardedReward:
    """A TRL reward function around another one: if that raises, it is called on the samples one by
    one.

    Samples on which it raises alone get None, which TRL takes for "no reward". Returning anything
    but a number or None for each sample counts as raising. Of the last call, `rewards` has what it
    returned, `raised` the indices of such samples, and `error` the last exception in words. Values
    given to `log_extra` before an exception are not logged.

    Args:
        function: a synchronous reward function; its name names the reward in the log.
    """

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.__name__ = get_callable_name(function)
        self.raised: list[int] = []
        self.rewards: Rewards = []
        self.error: str | None = None
        self._warned = False
        self._columns: set[str] = set()

    def __call__(
        self, prompts: list, log_extra: Callable[[str, list], None], **columns: Any
    ) -> Rewards:
        self._begin()
        extras = Extras()
        try:
            returned = self.function(prompts=prompts, log_extra=extras.extend, **columns)
            rewards = _checked(returned, len(prompts))
        except Exception as error:  # the user's function may raise anything; it is counted
            self._note(error)
            rewards, extras = [], Extras()
            for i, (own, own_extras) in enumerate(_samples(prompts, columns)):
                try:
                    rewards += _checked(self.function(log_extra=own_extras.extend, **own), 1)
                except Exception as alone:  # as above, of this sample
                    self._note(alone, i)
                    rewards.append(None)
                else:
                    _enter(extras, own_extras, i, len(prompts))
        return self._end(rewards, extras, log_extra)

    def _begin(self) -> None:
        self.raised, self.error = [], None

    def _end(
        self, rewards: Rewards, extras: Extras, log_extra: Callable[[str, list], None]
    ) -> Rewards:
        self.rewards = rewards
        self._columns |= extras.keys()
        for name in sorted(self._columns):  # in each call, or TRL's table would repeat older values
            values = extras.get(name, [])
            if values and len(values) != len(rewards):
                logger.warning(
                    f"reward {self.__name__!r} gave {len(values)} values of {one_line(name)!r} to "
                    f"log_extra for {len(rewards)} completions: they are not logged"
                )
            log_extra(name, values if len(values) == len(rewards) else [None] * len(rewards))
        return rewards

    def _note(self, error: Exception, sample: int | None = None) -> None:
        self.error = f"{type(error).__name__}: {one_line(str(error))[:200]}"
        if not self._warned:
            self._warned = True
            logger.warning(
                f"reward {self.__name__!r} raised {self.error}; what raises gets no reward"
            )
        if sample is not None:
            self.raised.append(sample)


class GuardedCoroutine(GuardedReward):
    """`GuardedReward` for an asynchronous reward function."""

    async def __call__(  # type: ignore[override]
        self, prompts: list, log_extra: Callable[[str, list], None], **columns: Any
    ) -> Rewards:
        self._begin()
        extras = Extras()
        try:
            returned = await self.function(prompts=prompts, log_extra=extras.extend, **columns)
            rewards = _checked(returned, len(prompts))
        except Exception as error:  # as in GuardedReward
            self._note(error)
            rewards, extras = [], Extras()
            for i, (own, own_extras) in enumerate(_samples(prompts, columns)):
                try:
                    rewards += _checked(await self.function(log_extra=own_extras.extend, **own), 1)
                except Exception as alone:
                    self._note(alone, i)
                    rewards.append(None)
                else:
                    _enter(extras, own_extras, i, len(prompts))
        return self._end(rewards, extras, log_extra)


def _samples(prompts: list, columns: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Extras]]:
    """Arguments for a call on each sample alone, and what is to have its extras."""
    for i, prompt in enumerate(prompts):
        own = {
            name: [value[i]] if isinstance(value, list) and len(value) == len(prompts) else value
            for name, value in columns.items()
        }
        yield own | {"prompts": [prompt]}, Extras()


def _enter(extras: Extras, own_extras: Extras, i: int, length: int) -> None:
    for name, values in own_extras.items():
        extras.setdefault(name, [None] * length)[i] = values[0] if values else None


def _checked(rewards: Iterable[float | None], length: int) -> Rewards:
    found = [None if reward is None else float(reward) for reward in rewards]
    if len(found) != length:
        raise ValueError(f"{len(found)} rewards for {length} completions")
    return found


def guard(functions: Any) -> list | None:
    """The reward functions with guards; reward models and names of models stay as they are."""
    if functions is None:
        return None
    return [_guarded(f) for f in (functions if isinstance(functions, list) else [functions])]


def _guarded(function: Any) -> Any:
    if isinstance(function, (str, nn.Module, GuardedReward)):
        return function
    return GuardedCoroutine(function) if is_async_callable(function) else GuardedReward(function)
