"""The order in which prompts are tried: one seeded stream for all rounds and processes, whose
position is saved and resumed.

With `weighting="uniform"` the stream is a permutation of the data set in each epoch, so that every
prompt is tried once before any is repeated. With `"difficulty"` each prompt is drawn at random: one
of five (`UNIFORM_SHARE`) from all prompts alike, the others with the weight p(1−p), where p is the
share of right answers that the prompt has had. The weight is its mean under the Beta distribution
that follows from a uniform prior and the answers so far, so that a prompt that was never tried has
the weight 1/6. Older answers count half as much with each new group, since the policy changes. An
epoch is then as many draws as there are prompts, and a prompt that is under way is not drawn.

Prompts that teach nothing can be retired:

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
WEIGHTINGS = ("uniform", "difficulty")
UNIFORM_SHARE = 0.2


class PromptStream:
    """Row numbers of a data set of `size` rows, in the order in which they are tried.

    The order depends on the arguments and on the calls of `draw` and `report` alone, so that equal
    calls in all processes keep their streams equal. `state_dict` is JSON. `open` has the rows that
    were drawn and not yet reported; a stream that continues from a state begins with them.
    """

    def __init__(
        self,
        size: int,
        seed: int,
        *,
        shuffle: bool = True,
        weighting: str = "uniform",
        retire_all_right: int = 0,
        retire_all_wrong: int = 0,
        revisit_retired_after: int = 0,
    ):
        self.size, self.seed, self.shuffle, self.weighting = size, seed, shuffle, weighting
        self.limits = {Outcome.ALL_RIGHT: retire_all_right, Outcome.ALL_WRONG: retire_all_wrong}
        self.revisit_retired_after = revisit_retired_after
        self.epoch = self.position = self.drawn = 0
        self.open: list[int] = []
        self.streaks: dict[int, tuple[Outcome, int]] = {}
        self.retired: dict[int, int] = {}  # row -> epoch in which it was retired
        self.answers: dict[int, tuple[float, float]] = {}  # row -> right and wrong ones, faded
        self._again: list[int] = []  # rows to be drawn before any other
        self._order = self._permutation()

    def draw(self, count: int) -> list[int]:
        """The next `count` rows."""
        again, self._again = self._again[:count], self._again[count:]
        missing = count - len(again)
        rows = again + (
            self._permuted(missing) if self.weighting == "uniform" else self._weighted(missing)
        )
        self.drawn += missing
        self.open += rows
        return rows

    def _permuted(self, count: int) -> list[int]:
        rows: list[int] = []
        while len(rows) < count:
            if self.position == self.size:
                self._next_epoch()
            row = self._order[self.position]
            self.position += 1
            if row not in self.retired:
                rows.append(row)
        return rows

    def _weighted(self, count: int) -> list[int]:
        taken = set(self.open) | set(self._again)
        rows: list[int] = []
        for number in range(self.drawn, self.drawn + count):
            while number // self.size > self.epoch:
                self._next_epoch()
            rows.append(self._by_difficulty(random.Random(f"{self.seed}+{number}"), taken))
            taken.add(rows[-1])
        return rows

    def _by_difficulty(self, rng: random.Random, taken: set[int]) -> int:
        there = [row for row in range(self.size) if row not in self.retired]
        free = [row for row in there if row not in taken] or there
        if rng.random() < UNIFORM_SHARE:
            return rng.choice(free)
        return rng.choices(free, [self.weight(row) for row in free])[0]

    def weight(self, row: int) -> float:
        """Mean of p(1−p) for a row, where p ~ Beta(right + 1, wrong + 1)."""
        right, wrong = self.answers.get(row, (0.0, 0.0))
        a, b = right + 1, wrong + 1
        return a * b / ((a + b) * (a + b + 1))

    def report(self, row: int, outcome: Outcome, right: int = 0, wrong: int = 0) -> None:
        """Record the outcome of a group of `row`, and how many of its answers were right or
        wrong."""
        if row in self.open:
            self.open.remove(row)
        if self.weighting == "difficulty":
            old = self.answers.get(row, (0.0, 0.0))
            self.answers[row] = old[0] / 2 + right, old[1] / 2 + wrong
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

    def cursor(self) -> tuple[int, int, int]:
        """Epoch, position in it, and number of rows drawn."""
        return self.epoch, self.position, self.drawn

    def unfinished(self) -> list[int]:
        """The rows under way, and those that are to be drawn again."""
        return [*self.open, *self._again]

    def follow(self, cursor: tuple[int, int, int], open_rows: list[int]) -> None:
        """Go to where another stream with the same arguments and reports is.

        Args:
            cursor: that stream's.
            open_rows: its unfinished rows.
        """
        while self.epoch < cursor[0]:
            self._next_epoch()
        _, self.position, self.drawn = cursor
        self.open, self._again = list(open_rows), []

    def state_dict(self) -> dict[str, Any]:
        """The state for `load_state_dict`, as JSON."""
        return {
            "size": self.size,
            "epoch": self.epoch,
            "position": self.position,
            "drawn": self.drawn,
            "streaks": [[row, kind.value, length] for row, (kind, length) in self.streaks.items()],
            "retired": list(self.retired.items()),
            "answers": [[row, *counts] for row, counts in self.answers.items()],
            "open": self.unfinished(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of another stream of the same data set and seed. Rows that were
        under way there are drawn first.

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
        # not in the checkpoints of earlier versions
        self.answers = {row: (right, wrong) for row, right, wrong in state.get("answers", [])}
        self.open, self._again = [], list(state.get("open", []))
        self._order = self._permutation()
