"""Several processes that share one run: the rank of this one, and how they wait for each other.

`accelerate launch` and `torchrun` give the rank in the environment. Only the launcher's key-value
store is used. No process group is created, because vLLM would mistake it for its own.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from shaped_eval.errors import UserError

POLL_S = 0.2


@dataclass
class Processes:
    """This process is number `rank` of `size`. By default it is the only one."""

    rank: int = 0
    size: int = 1
    store: Any = None
    _runs: int = field(default=0, repr=False)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def begin(self) -> None:
        """Start a run that all processes take part in. Each of them calls this once."""
        self._runs += 1

    def announce(self, what: str) -> None:
        """Tell the others that this process has done `what`."""
        if self.store is not None:
            self.store.set(self._key(what, self.rank), "1")

    def wait(self, what: str, ranks: range) -> None:
        """Wait, without a time limit, until all of `ranks` have announced `what`.

        Raises:
            UserError: the process that holds the store has ended.
        """
        keys = [self._key(what, rank) for rank in ranks if rank != self.rank]
        try:
            while keys and not self.store.check(keys):
                time.sleep(POLL_S)
        except RuntimeError as error:  # torch's DistError among them
            raise UserError(
                f"process {self.rank} lost contact with the others: see the message of the first "
                "one"
            ) from error

    def _key(self, what: str, rank: int) -> str:
        return f"sampling/{self._runs}/{what}/{rank}"


def from_environment() -> Processes:
    """The processes that a launcher started, from RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    Raises:
        UserError: some of these variables are missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    from torch.distributed import rendezvous

    try:
        store, rank, size = next(rendezvous("env://", timeout=timedelta(minutes=10)))
    except ValueError as error:  # a variable is missing, which the message names
        reason = " ".join(str(error).split())
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']!r}, but {reason}: start the processes with "
            "`accelerate launch` or torchrun, or unset WORLD_SIZE"
        ) from error
    return Processes(rank, size, store)
