"""`RLVRTrainer`: TRL's GRPOTrainer with dynamic sampling, a length schedule and a detector of runs
that do not learn.

Data flow of one generation batch: prompts from a stream of its own → completions → rewards → groups
whose accuracy varies are kept → refill from the stream until the batch is full → TRL pads, scores
and normalises the kept rows once. The seam is `_generate`: it swaps the rows of the batch in place,
and `_calculate_rewards` hands TRL the rewards that are already known. Without dynamic sampling
everything is GRPOTrainer's, and its rewards are only looked at.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState
from trl import GRPOTrainer
from trl.trainer.utils import pad

from shaped_trl.hub.cards import TrainingCard
from shaped_trl.hub.pushing import HubPushes
from shaped_trl.rlvr.audit import audit_before_training
from shaped_trl.rlvr.card import procedure
from shaped_trl.rlvr.checks import check_run, refuse_unsupported
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.dynamic_sampling import Batch, Completion, DynamicSampler, Group
from shaped_trl.rlvr.groups import Outcome, informative_groups, outcomes
from shaped_trl.rlvr.guard import guard
from shaped_trl.rlvr.ledger import RL_RENAMED, Ledger
from shaped_trl.rlvr.prompt_stream import PromptStream
from shaped_trl.rlvr.signals import NoLearningSignal, SignalDetector
from shaped_trl.training.config import as_config
from shaped_trl.training.interval import ContinuedInterval
from shaped_trl.training.log import JsonlLogCallback, LogPlotCallback
from shaped_trl.training.log_reading import RL_LOG, read_log
from shaped_trl.training.watch import WatchedLoss

logger = logging.getLogger(__name__)


class RLVRTrainer(TrainingCard, HubPushes, WatchedLoss, ContinuedInterval, GRPOTrainer):
    """GRPOTrainer for verifiable rewards (RLVR), with DAPO's dynamic sampling and clip-higher.

    The *first* reward function is the accuracy reward: a group is informative when that one varies
    over the group, whatever a length penalty beside it does. Uninformative groups are discarded and
    other prompts are tried, up to `max_sampling_rounds` and `max_sampling_tokens`; what is missing
    then is filled with discarded groups: their advantage is zero, and their tokens do not count in
    the mean over tokens (loss types that average over rows still count their rows). Prompts come
    from a stream of their own (`PromptStream`), of which `num_train_epochs` knows nothing.
    Evaluation is GRPOTrainer's.

    A reward function that raises gives its sample no reward, and is counted. Rows go to
    `output_dir/rl_log.jsonl`: `reward` is over the batch that is trained on, `raw_reward` and
    `completion_length` over all that was sampled, and the ledger counts what it was spent on.

    Raises:
        ValueError: dynamic sampling with images, tools, a rollout function, environments or a
            streamed data set.
        UserError: from `train`, before the first step: a blind answer passes too often
            (`audit_reward`; only where the accuracy reward is a `VerdictReward`, since other
            rewards may mean anything).
        NoLearningSignal: from `train`, after a checkpoint, when the detector stopped the run.
    """

    _tag_names = ["trl", "grpo", "rlvr", "shaped-trl"]
    _name = "RLVR"
    _batch_rows: list[dict[str, Any]] | None = None

    def __init__(self, model, reward_funcs=None, args: TrainingArguments | None = None, **kwargs):
        args = as_config(RLVRConfig, args, model, "GRPO")
        if args.dynamic_sampling:
            refuse_unsupported(kwargs)
        self.lengths = args.length_schedule()
        super().__init__(model, guard(reward_funcs), args, **kwargs)
        check_run(self)
        self.set_length()
        self.ledger = Ledger()  # since the last row of the log
        self.signals = SignalDetector(args.on_no_signal, args.no_signal_patience)
        self.sampler = self._make_sampler() if args.dynamic_sampling else None
        self.add_callback(_RLVRCallback(self))
        self.add_callback(JsonlLogCallback(RL_LOG, RL_RENAMED))
        self.add_callback(LogPlotCallback(RL_LOG))
        self.watch_loss()
        self.continue_interval()
        self._last_row: dict[str, Any] = {}  # what TRL adds to a row, of the last one
        self._batch: Batch | None = None
        # of the generation batch at hand; whether it has a gradient
        self._cost: tuple[Ledger, bool] | None = None
        self.no_signal: str | None = None
        self.audited = False

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        if not (resume_from_checkpoint or self.audited):
            audit_before_training(self.reward_funcs[0], self.train_dataset, self.args)
            self.audited = True
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.no_signal is not None:
            raise NoLearningSignal(f"stopped at step {self.state.global_step}, {self.no_signal}")
        return result

    # generation

    def _generate_single_turn(self, *args, **kwargs):
        # an evaluation inside a generation batch leaves its length to the loss
        if self.model.training:
            self.set_length()
        return super()._generate_single_turn(*args, **kwargs)

    def set_length(self) -> None:
        """Limit completions to the length of the present step."""
        self.max_completion_length = length = self.lengths(self.state.global_step)
        if self.use_vllm:
            self.vllm_generation.max_completion_length = length
        else:
            self.generation_config.max_new_tokens = self.generation_kwargs["max_new_tokens"] = (
                length
            )

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        if self.sampler is not None:
            self._batch_rows = inputs
        output = super()._generate_and_score_completions(inputs)
        batch, self._batch = self._batch, None
        if batch is not None:
            output = self._corrected(output, batch)
        assert self._cost is not None
        ledger, has_signal = self._cost
        ledger.trained_tokens = int(output["num_items_in_batch"])
        self.ledger += ledger
        self.signals.batch(ledger, has_signal, self._error() if ledger.rewards_raised else None)
        return output

    def _generate(self, prompts):
        if self._batch_rows is None:
            return super()._generate(prompts)
        rows, self._batch_rows = self._batch_rows, None
        assert self.sampler is not None
        G = self.num_generations
        self._batch = batch = self.sampler.batch(len(prompts) * self.accelerator.num_processes // G)
        self._cost = batch.ledger, not all(group.filled for group in batch.groups)
        items = [
            (group.row, item)
            for group in self._own_groups(batch)
            for item in group.completions or []
        ]
        rows[:] = [self.train_dataset[row] for row, _ in items]
        prompts[:] = [row["prompt"] for row in rows]
        for column in sorted({name for _, item in items for name in item.extra}):
            self._pending_extra_logs[column] = [item.extra.get(column) for _, item in items]
        logprobs = [item.logprobs for _, item in items]
        return (
            [item.prompt_ids for _, item in items],
            [item.ids for _, item in items],
            None,
            [item.content for _, item in items],
            logprobs if logprobs[0] is not None else None,
            {},
            None,
            [],
        )

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._batch is not None:
            return self._known_rewards(self._batch)
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.sampler is None and self.model.training:
            _, ledger = self._count(
                rewards, completion_ids_list, self._pending_extra_logs.get("verdict")
            )
            ledger.batches = 1
            total = (
                (rewards * self.reward_weights.to(rewards.device))
                .nansum(dim=1)
                .view(-1, self.num_generations)
            )
            self._cost = ledger, bool(informative_groups(total).any())
        return rewards

    def _known_rewards(self, batch: Batch) -> torch.Tensor:
        """[completions of all processes, F]. TRL leaves a row of NaN out of baselines and means,
        without advantage.

        So are groups that fill the batch, and completions without an accuracy reward, whatever else
        rewards them.
        """
        rewards = torch.cat([group.rewards_GF for group in batch.groups])
        filled = torch.tensor([group.filled for group in batch.groups]).repeat_interleave(
            self.num_generations
        )
        rewards = rewards.masked_fill((filled | rewards[:, 0].isnan()).unsqueeze(1), torch.nan)
        return rewards.to(self.accelerator.device)

    # dynamic sampling

    def _make_sampler(self) -> DynamicSampler:
        args = self.args
        stream = PromptStream(
            len(self.train_dataset),
            args.seed,
            shuffle=self.shuffle_dataset,
            retire_all_right=args.retire_all_right,
            retire_all_wrong=args.retire_all_wrong,
            revisit_retired_after=args.revisit_retired_after,
        )
        return DynamicSampler(
            stream,
            self._roll_out,
            self._score,
            max_rounds=args.max_sampling_rounds,
            max_tokens=args.max_sampling_tokens,
            keep_leftovers=args.keep_leftover_groups,
            rank=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
        )

    def _own_groups(self, batch: Batch) -> list[Group]:
        return [group for group in batch.groups if group.owner == self.accelerator.process_index]

    def _roll_out(self, indices: list[int]) -> tuple[list[Group], Ledger]:
        """One round: this process's part of the rows is generated and graded; see
        `DynamicSampler`."""
        G, each = self.num_generations, len(indices) // self.accelerator.num_processes
        rank = self.accelerator.process_index
        own = indices[rank * each : (rank + 1) * each]
        rows = [row for index in own for row in [self.train_dataset[index]] * G]
        prompts = [row["prompt"] for row in rows]
        prompt_ids, ids, _, contents, logprobs, *_ = super()._generate(prompts)
        self._pending_extra_logs.clear()
        rewards = super()._calculate_rewards(rows, prompts, contents, ids)
        extras = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()
        found, ledger = self._count(rewards, ids, extras.get("verdict"))
        items = [
            Completion(
                list(prompt_ids[i]),
                list(ids[i]),
                contents[i],
                None if logprobs is None else logprobs[i],
                {name: values[i] for name, values in extras.items()},
            )
            for i in range(len(rows))
        ]
        groups = [
            Group(index, position // each, outcome, rewards_GF)
            for position, (index, outcome, rewards_GF) in enumerate(
                zip(indices, found, rewards.cpu().view(len(indices), G, -1), strict=True)
            )
        ]
        for k, group in enumerate(groups[rank * each : (rank + 1) * each]):
            group.completions = items[k * G : (k + 1) * G]
        return groups, ledger

    def _score(self, items: list[Completion]) -> list[list[float]]:
        """Per-token log-probabilities of completions under the present policy."""
        output = self._padded([item.prompt_ids for item in items], [item.ids for item in items])
        logps = self._logps(output)
        return [row[: len(item.ids)].tolist() for row, item in zip(logps, items, strict=True)]

    def _padded(self, prompt_ids: list[list[int]], ids: list[list[int]]) -> dict[str, torch.Tensor]:
        output = {}
        for name, rows, side in (("prompt", prompt_ids, "left"), ("completion", ids, "right")):
            tensors = [torch.tensor(row, device=self.accelerator.device) for row in rows]
            fill = {"padding_side": side, "pad_to_multiple_of": self.pad_to_multiple_of}
            output[f"{name}_ids"] = pad(tensors, padding_value=self._tokenizer.pad_token_id, **fill)
            output[f"{name}_mask"] = pad(
                [torch.ones_like(row) for row in tensors], padding_value=0, **fill
            )
        return output

    def _logps(self, output: dict[str, torch.Tensor]) -> torch.Tensor:
        """[rows, completion length] under the present policy, of rows that are padded as TRL's
        are."""
        with torch.no_grad():
            logps, _, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
                torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
                output["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
            )
        return logps

    def _corrected(self, output: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """Leave out of the loss what was filled in; give left-overs the log-probabilities of their
        own policy."""
        groups = self._own_groups(batch)
        if batch.has_leftovers:
            if "old_per_token_logps" not in output:
                output["old_per_token_logps"] = self._logps(output)
            for i, item in enumerate(item for group in groups for item in group.completions or []):
                if item.old_logps is not None:
                    stored = torch.tensor(
                        item.old_logps, device=output["old_per_token_logps"].device
                    )
                    output["old_per_token_logps"][i, : len(stored)] = stored
        if batch.filled:
            keep = [not group.filled for group in groups for _ in range(self.num_generations)]
            kept = torch.tensor(keep, device=output["completion_mask"].device).unsqueeze(1)
            tokens = (output["completion_mask"] * kept).sum()
            output["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
            if self.beta != 0 or self._entropy_bonus_enabled:  # terms that no advantage multiplies
                output["completion_mask"] = output["completion_mask"] * kept
        return output

    # counts

    def _count(
        self, rewards: torch.Tensor, ids: list, verdicts: list | None
    ) -> tuple[list[Outcome], Ledger]:
        """Outcome and counts of the completions of all processes, in the order of their rewards
        [completions, F]."""
        device, rows = self.accelerator.device, range(len(ids))
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        raised = set(getattr(self.reward_funcs[0], "raised", ()))
        facts = [
            [
                len(ids[i]),
                ids[i][-1] not in ends,
                verdicts is not None and verdicts[i] == "unparsed",
                i in raised,
            ]
            for i in rows
        ]
        lengths, *flags = self.accelerator.gather(
            torch.tensor(facts, dtype=torch.int64, device=device)
        ).T.cpu()
        truncated, unparsed, raises = (flag.bool() for flag in flags)
        accuracy = rewards[:, 0].cpu()
        by_group = (-1, self.num_generations)
        found = outcomes(accuracy.view(by_group), truncated.view(by_group), unparsed.view(by_group))
        ledger = Ledger(
            rounds=1,
            completions=len(accuracy),
            completions_right=int((accuracy > 0).sum()),
            completions_truncated=int(truncated.sum()),
            completions_unparsed=int((unparsed & ~truncated).sum()),
            completions_ungraded=int(accuracy.isnan().sum()),
            completions_between=int((~accuracy.isnan() & (accuracy != 0) & (accuracy != 1)).sum()),
            rewards_raised=int(raises.sum()),
            rollout_tokens=int(lengths.sum()),
            longest=int(lengths.max()),
            reward_sum=float(accuracy.nansum()),
        )
        ledger.add_groups(found)
        return found, ledger

    def _error(self) -> str | None:
        """What the accuracy reward raised last, on any process; called by all."""
        errors = gather_object([getattr(self.reward_funcs[0], "error", None)])
        return next((error for error in errors if error), None)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and "loss" in logs:
            logs.update(self.ledger.metrics())
            if self.sampler is not None:
                logs["prompt_epoch"] = self.sampler.stream.epoch
                logs["prompts_retired"] = len(self.sampler.stream.retired)
            self.ledger = Ledger()
        # the summary, which in TRL has what was not logged yet; here the last row has all
        if "train_loss" in logs:
            logs |= self._last_row
        before = set(logs)
        super().log(logs, start_time)
        if self.model.training and "loss" in logs:
            self._last_row = {name: value for name, value in logs.items() if name not in before}

    def interval_state(self) -> dict[str, Any]:
        return super().interval_state() | {"metrics": dict(self._metrics["train"])}

    def restore_interval(self, saved: dict[str, Any]) -> None:
        super().restore_interval(saved)
        self._metrics["train"].update(saved["metrics"])

    def card_procedure(self) -> str:
        return procedure(self.args, read_log(Path(self.args.output_dir) / RL_LOG))

    def _save_checkpoint(self, model, trial):
        self.exported = {"ledger": vars(self.ledger), "signals": self.signals.state_dict()}
        if self.sampler is not None:
            self.exported["sampler"] = self.sampler.gather_state()
        super()._save_checkpoint(model, trial)

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on with the counts, the detector and the prompts of a checkpoint."""
        self.ledger = Ledger(**saved["ledger"])
        self.signals.load_state_dict(saved["signals"])
        if self.sampler is not None and "sampler" in saved:
            self.sampler.load_state_dict(saved["sampler"])


class _RLVRCallback(TrainerCallback, ExportableState):
    """Keeps the trainer's own state in its checkpoints' trainer_state.json, and lets the detector
    speak."""

    def __init__(self, trainer: RLVRTrainer):
        self.trainer = trainer

    def state(self) -> dict[str, Any]:
        return getattr(self.trainer, "exported", {})

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.no_signal = None
        self.trainer.set_length()
        saved = (state.stateful_callbacks or {}).get(type(self).__name__)
        if state.global_step > 0 and saved:
            self.trainer.restore(saved)

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        entropies = trainer._metrics["train"]["entropy"][-args.gradient_accumulation_steps :]
        if any(entropies):  # it is logged as 0 where every completion is masked
            trainer.signals.step(sum(entropies) / len(entropies))
        if state.global_step >= state.max_steps:
            control.should_log = True  # the rest of the ledger
        if state.global_step % max(args.generation_period_steps, 1):
            return  # a checkpoint here would lose the rest of the generation batch
        said = trainer.signals.verdict()
        if said is None:
            return
        if trainer.signals.choice == "warn":
            logger.warning(said)
            return
        trainer.no_signal = said
        control.should_log = control.should_save = control.should_training_stop = True
