"""The order in which prompts are tried: one seeded stream for all rounds and processes, whose
position is saved and resumed.

The stream is a permutation of the data set in each epoch, so that every prompt is tried once before
any is repeated. Prompts that teach nothing can be retired:

- a prompt is retired after `retire_all_right` all-right groups in a row, or after
  `retire_all_wrong` groups in a row without a right answer (0: never);
- it comes back `revisit_retired_after` epochs later (0: never), and is retired again only after as
  many groups in a row;
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

    The order depends on the arguments and on the calls of `draw` and `report` alone, so that equal
    calls in all processes keep their streams equal. `state_dict` is JSON.
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
        self.retired: dict[int, int] = {}  # row -> epoch in which it was retired
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
        """Record the outcome of a group of `row`."""
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
        """The state for `load_state_dict`, as JSON."""
        return {
            "size": self.size,
            "epoch": self.epoch,
            "position": self.position,
            "drawn": self.drawn,
            "streaks": [[row, kind.value, length] for row, (kind, length) in self.streaks.items()],
            "retired": list(self.retired.items()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of another stream of the same data set and seed.

        Raises:
            ValueError: the state is of a data set of another size.
        """
        if state["size"] != self.size:
            raise ValueError(
                f"the checkpoint's prompt stream is over {state['size']:,} prompts, the data set "
                f"has {self.size:,}: continue with the same prompts, or begin in another output_dir"
            )
        self.epoch, self.position, self.drawn = state["epoch"], state["position"], state["drawn"]
        self.streaks = {row: (Outcome(kind), length) for row, kind, length in state["streaks"]}
        self.retired = dict(state["retired"])
        self._order = self._permutation()
