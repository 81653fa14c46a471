"""An event loop whose clock jumps to the next event: seconds pass without being waited for."""

from __future__ import annotations

import asyncio
import selectors


class _Selector(selectors.DefaultSelector):
    def __init__(self, clock: VirtualLoop):
        super().__init__()
        self.clock = clock

    def select(self, timeout=None):
        found = super().select(0)
        if not found and timeout:
            self.clock.now += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time` is virtual: it stands still while anything can run."""

    def __init__(self):
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now
