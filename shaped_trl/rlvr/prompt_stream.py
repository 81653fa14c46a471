"""Which prompts are tried next: one seeded stream for all rounds and processes, whose position is
saved and resumed.

The stream is a permutation of the data set for each epoch, so every prompt is tried once before one
comes again. Prompts that teach nothing can be left out:

- after `retire_all_right` all-right groups in a row, or `retire_all_wrong` groups in a row without
  a right answer, a prompt is retired (0: never);
- it comes back `revisit_retired_after` epochs later (0: never), and needs as many groups in a row
  to go again;
- if every prompt is retired, all of them come back.
"""

from __future__ import annotations

import logging
import random
from typing import Any

from shaped_trl.rlvr.groups import Outcome

logger = logging.getLogger(__name__)

WITHOUT_A_RIGHT_ANSWER = {Outcome.ALL_WRONG, Outcome.TRUNCATED, Outcome.UNPARSED}


class PromptStream:
    """Row numbers of a data set of `size` rows, in the order in which they are tried.

    Everything follows from the arguments, what was drawn and what was reported, so that equal calls
    in all processes keep their streams equal. `state_dict` is JSON.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        shuffle: bool = True,
        retire_all_right: int = 0,
        retire_all_wrong: int = 0,
        revisit_retired_after: int = 0,
    ):
        self.size, self.seed, self.shuffle = size, seed, shuffle
        self.limits = {Outcome.ALL_RIGHT: retire_all_right, Outcome.ALL_WRONG: retire_all_wrong}
        self.revisit_retired_after = revisit_retired_after
        self.epoch = self.position = self.drawn = 0
        self.streaks: dict[int, tuple[Outcome, int]] = {}
        self.retired: dict[int, int] = {}  # row -> epoch in which it went
        self._order = self._permutation()

    def draw(self, count: int) -> list[int]:
        """The next `count` rows."""
        rows: list[int] = []
        while len(rows) < count:
            if self.position == self.size:
                self._next_epoch()
            row = self._order[self.position]
            self.position += 1
            if row not in self.retired:
                rows.append(row)
        self.drawn += count
        return rows

    def report(self, row: int, outcome: Outcome) -> None:
        """Say what became of a group of `row`."""
        kind = Outcome.ALL_WRONG if outcome in WITHOUT_A_RIGHT_ANSWER else outcome
        limit = self.limits.get(kind, 0)
        if limit == 0:
            self.streaks.pop(row, None)
            return
        before, length = self.streaks.get(row, (kind, 0))
        length = length + 1 if before is kind else 1
        self.streaks[row] = (kind, length)
        if length >= limit:
            del self.streaks[row]
            self.retired[row] = self.epoch
            if len(self.retired) == self.size:
                logger.warning(f"all {self.size} prompts are retired: all of them are tried again")
                self.retired.clear()

    def _next_epoch(self) -> None:
        self.epoch, self.position = self.epoch + 1, 0
        self._order = self._permutation()
        if self.revisit_retired_after:
            back = self.epoch - self.revisit_retired_after
            self.retired = {row: epoch for row, epoch in self.retired.items() if epoch > back}

    def _permutation(self) -> list[int]:
        order = list(range(self.size))
        if self.shuffle:
            random.Random(f"{self.seed}-{self.epoch}").shuffle(order)
        return order

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here."""
        return {
            "size": self.size,
            "epoch": self.epoch,
            "position": self.position,
            "drawn": self.drawn,
            "streaks": [[row, kind.value, length] for row, (kind, length) in self.streaks.items()],
            "retired": list(self.retired.items()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another stream of the same data set and seed was.

        Raises:
            ValueError: the state is of a data set of another size.
        """
        if state["size"] != self.size:
            raise ValueError(
                f"the checkpoint's prompt stream is over {state['size']:,} prompts, the data set has {self.size:,}: "
                "continue with the same prompts, or begin in another output_dir"
            )
        self.epoch, self.position, self.drawn = state["epoch"], state["position"], state["drawn"]
        self.streaks = {row: (Outcome(kind), length) for row, kind, length in state["streaks"]}
        self.retired = dict(state["retired"])
        self._order = self._permutation()
