"""`Deliveries`: what the trainer takes from the rollout process.

It stands between the queue and TRL's reader of it. Reports are taken out, completions that would be
trained on too late are dropped, and each prompt is known to be under way until a completion of it
has been in the loss.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from shaped_trl.rlvr.asynchronous.reports import Delivery, Report
from shaped_trl.rlvr.prompt_stream import PromptStream

logger = logging.getLogger(__name__)


class Deliveries:
    """A queue to TRL's reader.

    TRL takes a micro-batch while the one before is trained on, so that the weights may be one
    version newer when it is trained on. Completions are therefore dropped one version earlier than
    `max_staleness`, and none is trained on by weights more than `max_staleness` versions newer than
    those that began it.

    Args:
        source: the queue that the rollout process fills.
        stream: a stream of prompts like that of the rollout process, which follows it.
        version: the present version of the weights.
        max_staleness: the most versions between the weights that began a completion and those that
            train on it.
        token_budget: longest sample that TRL packs, in tokens; None or 0 for no limit.
        note: called with each report.
        note_stale: called for each completion that is too old.
    """

    def __init__(
        self,
        source: Any,
        stream: PromptStream,
        version: Callable[[], int],
        max_staleness: int,
        token_budget: Callable[[], int | None],
        note: Callable[[Report], None],
        note_stale: Callable[[], None],
    ):
        self.source, self.stream = source, stream
        self.version, self.max_staleness = version, max_staleness
        self.token_budget, self.note, self.note_stale = token_budget, note, note_stale
        self.rows: dict[int, int] = {}  # of kept groups of which nothing was trained on yet
        self.delivered: deque[int] = deque()  # groups of the completions that TRL holds
        self.warned_of_length = False

    def get(self, timeout: float) -> Any:
        """The next completion to train on. Raises queue.Empty after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if left <= 0:  # TRL looks for the health of the rollout process then
                raise queue.Empty
            sample = self.source.get(timeout=left)
            report = sample.report if isinstance(sample, Delivery) else None
            if report is not None:
                self._open(report)
                if not report.kept:
                    continue
            if self._is_lost(sample):
                continue
            self.delivered.append(sample.group_id)
            return sample

    def qsize(self) -> int:
        """Number of items that wait in the queue."""
        return self.source.qsize()

    def _open(self, report: Report) -> None:
        ledger = report.ledger
        wrong = ledger.completions - ledger.completions_right - ledger.completions_ungraded
        self.stream.follow(report.cursor, report.unfinished)
        self.stream.report(report.row, report.outcome, ledger.completions_right, wrong)
        if report.kept:
            self.rows[report.group_id] = report.row
        self.note(report)

    def _is_lost(self, sample: Any) -> bool:
        """Whether a completion cannot be trained on. Its prompt is then done with as well."""
        stale = self.version() + 1 - sample.model_version > self.max_staleness
        budget = self.token_budget() or 0
        too_long = 0 < budget < len(sample.input_ids)  # TRL's batcher would drop it
        if stale:
            self.note_stale()
        elif too_long and not self.warned_of_length:
            self.warned_of_length = True
            logger.warning(
                f"completions longer than token_budget={budget} with their prompts are left out: "
                "raise it, or lower max_completion_length"
            )
        if stale or too_long:
            self.rows.pop(sample.group_id, None)
        return stale or too_long

    def trained(self, count: int) -> None:
        """Note that the next `count` completions, in the order of delivery, were trained on.

        TRL's batchers keep that order from one micro-batch to the next.
        """
        for _ in range(count):
            self.rows.pop(self.delivered.popleft(), None)

    def prompts(self) -> dict[str, Any]:
        """The state of the stream for a checkpoint of the present weights.

        A run that continues from it begins with the prompts of which nothing was trained on: those
        under way in the rollout process, and those of groups that wait.
        """
        state = self.stream.state_dict()
        return state | {"open": [*state["open"], *self.rows.values()]}
