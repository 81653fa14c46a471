"""The loop of rollouts against a scripted server, on a virtual clock.

How long a completion takes and how a prompt comes out is known in advance, so that what the loop
does can be computed by a plain simulation.
"""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from accelerate import PartialState
from rlvr_tiny import G, scripted_prompts
from tiny import tiny_tokenizer
from virtual_clock import VirtualLoop

from shaped_trl.rlvr.asynchronous.deliveries import Deliveries
from shaped_trl.rlvr.asynchronous.loop import Clock, RolloutLoop
from shaped_trl.rlvr.asynchronous.reports import Report
from shaped_trl.rlvr.guard import guard
from shaped_trl.rlvr.lengths import LengthSchedule
from shaped_trl.rlvr.prompt_stream import PromptStream

SLOTS = 10  # completions under way; not a multiple of G
STEP = 2 * G  # completions of an optimizer step


def seconds(group_id: int, k: int) -> float:
    """How long the k-th completion of a group takes to generate."""
    return random.Random(f"{group_id}-{k}").uniform(0.2, 3.0)


class Graded:
    """The reward that the column `kind` scripts; it takes `seconds`."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.__name__ = "accuracy"

    async def __call__(self, completions, kind, **kwargs):
        await asyncio.sleep(self.seconds)
        return [float(k == "right" or (k == "mixed" and i % 2 == 0)) for i, k in enumerate(kind)]


class ScriptedLoop(RolloutLoop):
    """The server answers `limit` tokens after `seconds`, with log-probability −1."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.asked: dict[int, int] = {}  # completions of a group
        self.begun: list[tuple[float, int]] = []  # when, of which group

    async def _generate_one(self, prompt, tool_dict, tools, group_id=0):
        self.group_id = group_id
        return await super()._generate_one(prompt, tool_dict, tools, group_id)

    async def _generate_one_turn(self, prompt_ids):
        group_id, tokens = self.group_id, self.max_tokens
        k = self.asked[group_id] = self.asked.get(group_id, -1) + 1
        self.begun.append((self._loop.time(), group_id))
        await asyncio.sleep(seconds(group_id, k))
        return [5] * (tokens - 1) + [1], [-1.0] * tokens


@dataclass
class Run:
    """A loop and a scripted trainer, which trains `train_s` seconds on each step."""

    grading_s: float = 0.0
    train_s: float = 1.0
    max_staleness: int = 4
    kinds: tuple[str, ...] | None = None
    state: dict | None = None
    options: dict[str, Any] = field(default_factory=dict)
    reports: list[tuple[float, Report]] = field(default_factory=list)
    trained: list[tuple[int, Any]] = field(default_factory=list)  # version, completion
    stale: int = 0

    def __post_init__(self):
        PartialState(cpu=True)  # which the loggers of accelerate need
        self.version = SimpleNamespace(value=1)
        dataset = scripted_prompts() if self.kinds is None else scripted_prompts(self.kinds)
        self.dataset = dataset
        streams = [PromptStream(len(dataset), seed=3, **self.options) for _ in range(2)]
        if self.state is not None:
            for stream in streams:
                stream.load_state_dict(self.state)
        self.buffer: queue.Queue = queue.Queue()
        self.loop = ScriptedLoop(
            model_name="scripted",
            dataset=dataset,
            reward_funcs=guard([Graded(self.grading_s)]),
            processing_class=tiny_tokenizer(),
            eos_token_ids=[1],
            rollout_buffer=self.buffer,
            model_version_value=self.version,
            heartbeat_value=SimpleNamespace(value=0.0),
            failed_event=threading.Event(),
            exception_info_queue=queue.Queue(),
            metrics_queue=queue.Queue(),
            num_generations=G,
            max_inflight_tasks=SLOTS,
            stream=streams[0],
            lengths=LengthSchedule((0, 3), (4, 6)),
            clock=Clock(),
            dynamic_sampling=True,
            vocabulary=63,
        )
        self.deliveries = Deliveries(
            self.buffer,
            streams[1],
            version=lambda: self.version.value,
            max_staleness=self.max_staleness,
            token_budget=lambda: None,
            note=lambda report: self.reports.append((self.loop._loop.time(), report)),
            note_stale=self._note_stale,
        )

    def _note_stale(self) -> None:
        self.stale += 1

    async def _batch(self) -> list[Any]:
        batch: list[Any] = []
        while len(batch) < STEP:
            try:
                batch.append(self.deliveries.get(timeout=1e-4))
            except queue.Empty:
                await asyncio.sleep(0.01)
        return batch

    async def _train(self, steps: int, stop: asyncio.Event) -> None:
        following = await self._batch()
        for _ in range(steps):
            # as TRL does, the next batch is taken before this one is trained on
            batch, following = following, await self._batch()
            await asyncio.sleep(self.train_s)
            self.trained += [(self.version.value, sample) for sample in batch]
            self.deliveries.trained(len(batch))
            self.version.value += 1
        stop.set()

    def until(self, steps: int) -> Run:
        """Run until the trainer has taken so many steps."""
        stop = asyncio.Event()

        async def both() -> None:
            loop = asyncio.create_task(self.loop._run_loops(stop))
            training = asyncio.create_task(self._train(steps, stop))
            done, _ = await asyncio.wait([loop, training], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await loop

        self.loop._loop.close()
        self.loop._loop = clock = VirtualLoop()
        try:
            clock.run_until_complete(asyncio.wait_for(both(), timeout=10_000))
        finally:
            self.loop._tool_pool.shutdown()
            clock.close()
        return self
