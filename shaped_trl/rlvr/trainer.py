"""`RLVRTrainer`: TRL's GRPOTrainer with dynamic sampling.

Data flow of one generation batch: prompts from TRL's sampler → completions → rewards → groups whose accuracy varies
are kept → refill from other prompts until the batch is full → TRL pads, scores and normalises the kept rows once.
The seam is `_generate`: it swaps the rows of the batch in place, and `_calculate_rewards` hands TRL the rewards that
are already known.
"""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOTrainer

from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.dynamic_sampling import (
    Ledger,
    count_uninformative,
    informative_groups,
    refill_order,
    refill_size,
)
from shaped_trl.training.log import RENAMED, JsonlLogCallback

RL_RENAMED = RENAMED | {
    "num_tokens": "tokens",
    "clip_ratio/region_mean": "clip_ratio",
    "clip_ratio/high_mean": "clip_ratio_high",
    "clip_ratio/low_mean": "clip_ratio_low",
    "completions/clipped_ratio": "truncated",
}


class RLVRTrainer(GRPOTrainer):
    """GRPOTrainer for verifiable rewards (RLVR), with DAPO's dynamic sampling and clip-higher.

    The *first* reward function is the accuracy reward: a group is informative when that one varies over the group,
    whatever a length penalty beside it does. Uninformative groups are discarded and other prompts are tried, up to
    `max_sampling_rounds`; then the batch is filled with the groups at hand, whose advantage is zero. Evaluation is
    GRPOTrainer's. Rows go to `output_dir/rl_log.jsonl`: `reward` is over the kept groups, `raw_reward` and
    `completion_length` over all that was sampled.

    Raises:
        ValueError: dynamic sampling with images, tools, a rollout function, environments or a streamed data set.
    """

    _tag_names = ["trl", "grpo", "rlvr", "shaped-trl"]
    _name = "RLVR"

    def __init__(self, model, reward_funcs, args: RLVRConfig, **kwargs):
        if args.dynamic_sampling:
            for name in ("tools", "rollout_func", "environment_factory"):
                if kwargs.get(name) is not None:
                    raise ValueError(f"{name} is not supported with dynamic_sampling: set dynamic_sampling=False")
            if not isinstance(kwargs.get("train_dataset"), Dataset):
                raise ValueError("dynamic_sampling needs a train_dataset of known length: set dynamic_sampling=False")
            if {"image", "images"} & set(kwargs["train_dataset"].column_names):
                raise ValueError("dynamic_sampling does not support images: set dynamic_sampling=False")
        super().__init__(model, reward_funcs, args, **kwargs)
        self.add_callback(JsonlLogCallback("rl_log.jsonl", RL_RENAMED))
        self._batch_rows: list[dict[str, Any]] | None = None
        self._known_rewards: torch.Tensor | None = None

    def _generate_and_score_completions(self, inputs):
        if self.model.training and self.args.dynamic_sampling:
            self._batch_rows = inputs
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts):
        if self._batch_rows is None:
            return super()._generate(prompts)
        rows, self._batch_rows = self._batch_rows, None
        return self._sample_informative(rows, prompts)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._known_rewards is None:
            return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        rewards, self._known_rewards = self._known_rewards, None
        return rewards

    def _sample_informative(self, rows: list[dict[str, Any]], prompts: list) -> tuple:
        """Generate in rounds until the batch holds informative groups only; `rows` and `prompts` change in place.

        Returns what `GRPOTrainer._generate` returns, for the kept rows.
        """
        group, batch_groups = self.num_generations, len(prompts) // self.num_generations
        ledger, kept, spare = Ledger(), [], []
        refill = refill_order(len(self.train_dataset), self.args.seed, self.state.global_step)
        trial = list(rows)
        while True:
            informative, other = self._one_round(trial, ledger)
            kept += informative
            spare += other
            missing = batch_groups - len(kept)
            if missing <= 0 or ledger.rounds >= self.args.max_sampling_rounds:
                break
            size = refill_size(missing, ledger, batch_groups)
            fresh = [self.train_dataset[index] for index in islice(refill, size)]
            trial = [row for row in fresh for _ in range(group)]
        kept = (kept + spare)[:batch_groups]
        for name, value in ledger.metrics().items():
            self._metrics["train"][name].append(value)
        flat = [item for items in kept for item in items]
        rows[:] = [item["row"] for item in flat]
        prompts[:] = [item["row"]["prompt"] for item in flat]
        self._known_rewards = torch.stack([item["rewards"] for item in flat])
        for column in list(self._pending_extra_logs):
            self._pending_extra_logs[column] = [item["extra"].get(column) for item in flat]
        columns = ([item["outputs"][i] for item in flat] for i in range(5))
        prompt_ids, completion_ids, _, completions, logprobs = columns
        return (
            prompt_ids,
            completion_ids,
            None,
            completions,
            logprobs if logprobs[0] is not None else None,
            {},
            None,
            [],
        )

    def _one_round(self, trial: list[dict[str, Any]], ledger: Ledger) -> tuple[list, list]:
        """Generate and grade one completion per row of `trial`; return (informative groups, the other groups)."""
        prompts = [copy.deepcopy(row["prompt"]) for row in trial]
        outputs = super()._generate(prompts)
        prompt_ids, completion_ids, _, completions, logprobs, *_ = outputs
        self._pending_extra_logs.clear()
        rewards = super()._calculate_rewards(trial, prompts, completions, completion_ids)
        columns = [prompt_ids, completion_ids, [None] * len(trial), completions, logprobs or [None] * len(trial)]
        extras = dict(self._pending_extra_logs)
        items = [
            {
                "row": row,
                "rewards": rewards[i],
                "outputs": [column[i] for column in columns],
                "extra": {name: values[i] for name, values in extras.items()},
            }
            for i, row in enumerate(trial)
        ]
        group = self.num_generations
        accuracy = rewards[:, 0].view(-1, group)
        mask = informative_groups(accuracy).tolist()
        groups = [items[i : i + group] for i in range(0, len(items), group)]
        informative = [g for g, keep in zip(groups, mask, strict=True) if keep]
        self._enter(ledger, accuracy, completion_ids, mask)
        return informative, [g for g, keep in zip(groups, mask, strict=True) if not keep]

    def _enter(self, ledger: Ledger, accuracy, completion_ids, mask: list[bool]) -> None:
        ledger.rounds += 1
        ledger.groups_sampled += len(mask)
        ledger.groups_kept += sum(mask)
        count_uninformative(accuracy, ledger)
        lengths = [len(ids) for ids in completion_ids]
        ledger.lengths += lengths
        ledger.rollout_tokens += sum(lengths)
        group = self.num_generations
        ledger.kept_tokens += sum(n for i, n in enumerate(lengths) if mask[i // group])
        ledger.rewards += accuracy[~accuracy.isnan()].tolist()
