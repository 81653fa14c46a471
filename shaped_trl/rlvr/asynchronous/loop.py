"""`RolloutLoop`: TRL's loop of generation and grading, with dynamic sampling. It lives in the
rollout process.

Generation never waits for grading: TRL's loop generates on while groups wait for their grades. A
group is graded when its last completion has arrived; it goes to the trainer if its accuracy varies,
and is only reported otherwise. New prompts are drawn whenever fewer than `max_inflight_tasks`
completions are under way.

G completions per prompt. The private names of TRL in this module are listed in
`shaped_trl.training.trl_names`.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from shaped_eval.backends.prompts import decode_after
from shaped_eval.errors import UserError
from trl.experimental.async_grpo.async_rollout_worker import (
    RolloutGroup,
    RolloutSample,
    TurnRecord,
    _AsyncRolloutLoop,
    _chain_to_sequences,
)

from shaped_trl.rlvr.asynchronous.reports import Delivery, Report
from shaped_trl.rlvr.counting import count_groups, facts_of
from shaped_trl.rlvr.groups import Outcome
from shaped_trl.rlvr.lengths import LengthSchedule
from shaped_trl.rlvr.prompt_stream import PromptStream

PLAIN = {"role": "assistant"}  # how a tokenizer says that it parses no tools


@dataclass(frozen=True)
class Clock:
    """The optimizer step behind a version of the weights.

    The version that a run begins with, `version`, has the weights of `step`. Each later one is sent
    at the next multiple of `sync_steps`.
    """

    step: int = 0
    version: int = 1
    sync_steps: int = 1

    def __call__(self, version: int) -> int:
        if version <= self.version:
            return self.step
        return (self.step // self.sync_steps + version - self.version) * self.sync_steps


class RolloutLoop(_AsyncRolloutLoop):
    """TRL's loop over the prompts of a stream.

    Args:
        stream: the prompts, by row of the data set.
        lengths: longest completion by optimizer step.
        clock: the step behind a version of the weights.
        dynamic_sampling: whether groups without a signal are discarded.
        vocabulary: number of tokens of the model.
        kwargs: those of TRL's loop.
    """

    def __init__(
        self,
        *,
        stream: PromptStream,
        lengths: LengthSchedule,
        clock: Clock,
        dynamic_sampling: bool,
        vocabulary: int,
        processing_class: Any,
        **kwargs: Any,
    ):
        # TRL refuses a tokenizer whose chat template it does not know, since it parses calls of
        # tools. There are none here.
        if getattr(processing_class, "response_template", None) is None:
            processing_class.response_template = PLAIN
        super().__init__(processing_class=processing_class, **kwargs)
        self.stream, self.lengths, self.clock = stream, lengths, clock
        self.dynamic_sampling, self.vocabulary = dynamic_sampling, vocabulary
        self.rows: dict[int, int] = {}  # of the groups that are under way, by their number
        self.versions: dict[int, int] = {}  # of the weights when a group began

    def _repeat_iterator(self) -> Iterator[tuple[int, dict[str, Any]]]:
        # TRL's loop takes the next completion to sample from here whenever it has a free slot, and
        # its own iterator goes through the data set in order.
        group_id = 0
        while True:
            (row,) = self.stream.draw(1)
            self.rows[group_id] = row
            self.versions[group_id] = self.model_version
            for _ in range(self.num_generations):
                yield group_id, self.dataset[row]
            group_id += 1

    def limit(self, group_id: int) -> int:
        """The longest completion of a group, in tokens: that of the step at which it began."""
        return self.lengths(self.clock(self.versions[group_id]))

    async def _generate_one(self, prompt, tool_dict, tools, group_id=0):
        # TRL renders each prompt as a chat and may go on over several turns with tools. Here a
        # prompt is a chat or a text, as for GRPOTrainer, and is answered in one turn.
        began = time.monotonic()
        chat = not isinstance(prompt, str)
        prompt_ids = self._chat_ids(prompt) if chat else self.tokenizer(text=prompt)["input_ids"]
        # `_generate_one_turn` reads `max_tokens` before it first waits, so that no other task can
        # come between.
        self.max_tokens = limit = self.limit(group_id)
        ids, logps = await self._generate_one_turn(prompt_ids)
        check_reply(ids, logps, self.vocabulary, limit)
        text = decode_after(self.tokenizer, prompt_ids, ids)
        completion = [{"role": "assistant", "content": text}] if chat else text
        sequences, tally = _chain_to_sequences(
            [TurnRecord(prompt_ids, ids, logps)], uuid.uuid4().hex, self._fork_threshold_tokens
        )
        self._push_rollout_metrics(
            turns=1,
            sequences=1,
            completion_ids=ids,
            tally=tally,
            loop_exhausted=False,
            duration_s=time.monotonic() - began,
        )
        return completion, ids, sequences, 0, 0, None

    def _chat_ids(self, prompt: list[dict[str, str]]) -> list[int]:
        return self.tokenizer.apply_chat_template(
            prompt, return_dict=False, add_generation_prompt=True, **self.chat_template_kwargs
        )

    async def _score_group(self, group: RolloutGroup) -> list[RolloutSample]:
        # TRL calls the reward functions here, in threads, and normalises the rewards of the group
        # to advantages. What it returns goes to the trainer.
        extras: dict[str, list] = {}
        step = self.clock(self.versions[group.group_id])
        group.reward_kwargs |= {
            "trainer_state": SimpleNamespace(global_step=step),
            "log_extra": extras.__setitem__,
        }
        samples = await super()._score_group(group)
        reward = self.reward_funcs[0]
        accuracy = torch.tensor(
            [math.nan if value is None else value for value in reward.rewards], dtype=torch.float64
        )
        _leave_out_ungraded(samples, accuracy.isnan().numpy())
        report = self._report(group, accuracy, extras.get("verdict"), reward)
        kept = samples if report.kept else [_without_tokens(samples[0])]
        first, *others = kept
        return [Delivery(**_values(first), report=report), *others]

    def _report(
        self, group: RolloutGroup, accuracy: torch.Tensor, verdicts: list | None, reward: Any
    ) -> Report:
        ends = {*self.eos_token_ids, self.tokenizer.pad_token_id}
        facts = facts_of(group.completions_ids, verdicts, reward.raised, ends)
        (outcome,), ledger = count_groups(accuracy, facts, self.num_generations)
        row = self.rows.pop(group.group_id)
        del self.versions[group.group_id]
        right, wrong = int((accuracy > 0).sum()), int((accuracy <= 0).sum())
        self.stream.report(row, outcome, right, wrong)
        return Report(
            group.group_id,
            row,
            outcome,
            kept=outcome is Outcome.INFORMATIVE or not self.dynamic_sampling,
            ledger=ledger,
            cursor=self.stream.cursor(),
            unfinished=self.stream.unfinished(),
            error=reward.error if reward.raised else None,
        )


def check_reply(ids: Any, logps: Any, vocabulary: int, limit: int) -> None:
    """Refuse a completion of the server that no model of this vocabulary can have written.

    Args:
        ids: its tokens.
        logps: their log-probabilities.
        vocabulary: number of tokens.
        limit: longest completion, in tokens.

    Raises:
        UserError: what is wrong with it.
    """
    problem = None
    if not isinstance(ids, list) or not isinstance(logps, list) or not 1 <= len(ids) <= limit:
        problem = f"not a list of 1 to {limit} tokens with their log-probabilities"
    elif len(ids) != len(logps):
        problem = f"{len(ids)} tokens with {len(logps)} log-probabilities"
    elif not all(type(token) is int and 0 <= token < vocabulary for token in ids):
        problem = f"a token outside the vocabulary of {vocabulary:,}"
    elif not all(isinstance(logp, int | float) and -math.inf < logp <= 1e-3 for logp in logps):
        problem = "a log-probability that is not finite, or above 0"
    if problem is not None:
        raise UserError(f"the vLLM server's reply has {problem}: does it serve this run's model?")


def _leave_out_ungraded(samples: list[RolloutSample], ungraded: np.ndarray) -> None:
    """Give completions without an accuracy reward no advantage, whatever else rewards them."""
    if not ungraded.any():
        return
    rewards = np.array([sample.metrics["reward"] for sample in samples])
    rewards[ungraded] = np.nan
    graded = rewards[~ungraded]
    for sample, reward in zip(samples, rewards, strict=True):
        sample.metrics["reward"] = float(reward)
        sample.metrics["reward_std"] = float(graded.std()) if graded.size else math.nan
        sample.advantage = (
            0.0
            if math.isnan(reward)
            else float((reward - graded.mean()) / (graded.std() + 1e-8))  # as TRL does
        )


def _without_tokens(sample: RolloutSample) -> RolloutSample:
    """The sample for the table of completions alone."""
    none = np.zeros(0, dtype=np.int64)
    empty = dict.fromkeys(("input_ids", "completion_mask", "old_log_probs"), none)
    return RolloutSample(**_values(sample) | empty)


def _values(sample: RolloutSample) -> dict[str, Any]:
    return {field.name: getattr(sample, field.name) for field in fields(RolloutSample)}
