"""`DynamicGeneration`: a GRPOTrainer whose generation batches may come from dynamic sampling.

Data flow of one generation batch: prompts from a stream of their own → completions → rewards →
groups whose accuracy varies are kept → more prompts until the batch is full → TRL pads, scores and
normalises the kept rows once. The seam is `_generate`: it replaces the rows of the batch in place,
and `_calculate_rewards` gives TRL the rewards that are already known. Without dynamic sampling
everything is GRPOTrainer's, and its rewards are only counted.

The private names of TRL in this module are listed in `shaped_trl.training.trl_names`.
G generations per prompt, F reward functions.
"""

from __future__ import annotations

from typing import Any

import torch
from shaped_eval.backends.prompts import decode_after
from trl import GRPOTrainer

from shaped_trl.rlvr.counting import count_round
from shaped_trl.rlvr.dynamic_sampling import Batch, Completion, DynamicSampler, Group
from shaped_trl.rlvr.groups import Outcome, informative_groups
from shaped_trl.rlvr.ledger import Ledger
from shaped_trl.rlvr.prompt_stream import PromptStream
from shaped_trl.training.trl_names import Generated, pad


class DynamicGeneration(GRPOTrainer):
    """GRPOTrainer that trains on the batches of `sampler`, where there is one.

    Its arguments are an `RLVRConfig`. A subclass sets `sampler` once the trainer is built, to
    `make_sampler()` or to None. `batch_counts` holds, after each generation batch of training, its
    counts and whether it has a gradient.
    """

    sampler: DynamicSampler | None = None
    batch_counts: tuple[Ledger, bool] | None = None
    _batch_rows: list[dict[str, Any]] | None = None
    _batch: Batch | None = None

    def make_sampler(self) -> DynamicSampler:
        """A sampler of the training set's prompts, as the arguments describe it."""
        args = self.args
        stream = PromptStream(
            len(self.train_dataset),
            args.seed,
            shuffle=self.shuffle_dataset,
            weighting=args.prompt_weighting,
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

    def _generate_and_score_completions(self, inputs):
        # TRL makes a whole generation batch here, of the rows `inputs`: it calls `_generate` and
        # `_calculate_rewards`, pads, computes log-probabilities and advantages, and fills the table
        # of completions. Dynamic sampling replaces the rows in `_generate`, which TRL gives only
        # the prompts: so they are kept in `_batch_rows`. Afterwards, groups that only fill the
        # batch are taken out of the loss.
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        if self.sampler is not None:
            self._batch_rows = inputs
        output = super()._generate_and_score_completions(inputs)
        batch, self._batch = self._batch, None
        return output if batch is None else self._corrected(output, batch)

    def _generate(self, prompts):
        # TRL tokenizes the prompts, generates, decodes, and logs lengths; it then unpacks eight
        # values. With dynamic sampling, the sampler has already done all that, round by round (see
        # `_roll_out`). TRL goes on with its own lists `inputs` and `prompts`, so both are changed
        # in place to the rows that were kept.
        if self._batch_rows is None:
            return tuple(self._generated(prompts))
        rows, self._batch_rows = self._batch_rows, None
        assert self.sampler is not None
        G = self.num_generations
        self._batch = batch = self.sampler.batch(len(prompts) * self.accelerator.num_processes // G)
        self.batch_counts = batch.ledger, not all(group.filled for group in batch.groups)
        items = [
            (group.row, item)
            for group in self._own_groups(batch)
            for item in group.completions or []
        ]
        rows[:] = [self.train_dataset[row] for row, _ in items]
        prompts[:] = [row["prompt"] for row in rows]
        # TRL collects here what reward functions gave to `log_extra`, and moves it to the table of
        # completions at the end of the batch: these rows' values come back from their rounds.
        for column in sorted({name for _, item in items for name in item.extra}):
            self._pending_extra_logs[column] = [item.extra.get(column) for _, item in items]
        logprobs = [item.logprobs for _, item in items]
        return Generated(
            prompt_ids=[item.prompt_ids for _, item in items],
            completion_ids=[item.ids for _, item in items],
            tool_mask=None,
            completions=[item.content for _, item in items],
            logprobs=logprobs if logprobs[0] is not None else None,  # type: ignore[arg-type]
            extra_fields={},
            images=None,
            tool_images=[],
        )

    def _generated(self, prompts: list[Any]) -> Generated:
        """What TRL generates, with each completion decoded after its prompt, as in evaluation.

        TRL decodes completions alone, so that with tokenizers such as Llama 2's a body of code
        loses the first space of its indentation. What TRL parses (`response_template`), and chats
        with calls of tools, stay as they are.
        """
        generated = Generated.of(super()._generate(prompts))
        if self.tools or _has_responses(self._tokenizer):
            return generated
        for i, ids in enumerate(generated.completion_ids):
            text = decode_after(self._tokenizer, generated.prompt_ids[i], ids)
            alone = generated.completions[i]
            generated.completions[i] = (
                text if isinstance(alone, str) else [alone[0] | {"content": text}]
            )
        return generated

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        # TRL calls the reward functions on this process's completions and gathers their rewards
        # from all processes, NaN for None: [completions of all processes, F]. The completions of
        # dynamic sampling have their rewards already, and a second call could give other ones.
        # Without dynamic sampling, this is the only place where rewards can be counted.
        if self._batch is not None:
            return self._known_rewards(self._batch)
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.sampler is None and self.model.training:
            verdicts = self._pending_extra_logs.get("verdict")
            _, ledger = self._count(rewards, completion_ids_list, verdicts)
            ledger.batches = 1
            weighted = rewards * self.reward_weights.to(rewards.device)
            # A completion without any reward is left out, as TRL does.
            total = weighted.nansum(dim=1).masked_fill(rewards.isnan().all(dim=1), torch.nan)
            total = total.view(-1, self.num_generations)
            self.batch_counts = ledger, bool(informative_groups(total).any())
        return rewards

    def _known_rewards(self, batch: Batch) -> torch.Tensor:
        """[completions of all processes, F]. TRL leaves rows of NaN out of baselines and means, and
        gives them no advantage.

        Such rows are those of groups that only fill the batch, and of completions without an
        accuracy reward, whatever else rewards them.
        """
        rewards = torch.cat([group.rewards_GF for group in batch.groups])
        filled = torch.tensor([group.filled for group in batch.groups]).repeat_interleave(
            self.num_generations
        )
        rewards = rewards.masked_fill((filled | rewards[:, 0].isnan()).unsqueeze(1), torch.nan)
        return rewards.to(self.accelerator.device)

    def _own_groups(self, batch: Batch) -> list[Group]:
        return [group for group in batch.groups if group.owner == self.accelerator.process_index]

    def _roll_out(self, indices: list[int]) -> tuple[list[Group], Ledger]:
        """One round: generate and grade this process's part of the rows; see `DynamicSampler`."""
        G, each = self.num_generations, len(indices) // self.accelerator.num_processes
        rank = self.accelerator.process_index
        own = indices[rank * each : (rank + 1) * each]
        rows = [row for index in own for row in [self.train_dataset[index]] * G]
        prompts = [row["prompt"] for row in rows]
        generated = self._generated(prompts)
        # Emptied before and after: what is pending now belongs to these completions alone.
        self._pending_extra_logs.clear()
        rewards = super()._calculate_rewards(
            rows, prompts, generated.completions, generated.completion_ids
        )
        extras = dict(self._pending_extra_logs)
        self._pending_extra_logs.clear()
        outcomes, ledger = self._count(rewards, generated.completion_ids, extras.get("verdict"))
        items = [
            Completion(
                list(generated.prompt_ids[i]),
                list(generated.completion_ids[i]),
                generated.completions[i],
                None if generated.logprobs is None else generated.logprobs[i],
                {name: values[i] for name, values in extras.items()},
            )
            for i in range(len(rows))
        ]
        groups = [
            Group(index, position // each, outcome, rewards_GF)
            for position, (index, outcome, rewards_GF) in enumerate(
                zip(indices, outcomes, rewards.cpu().view(len(indices), G, -1), strict=True)
            )
        ]
        for k, group in enumerate(groups[rank * each : (rank + 1) * each]):
            group.completions = items[k * G : (k + 1) * G]
        return groups, ledger

    def _count(
        self, rewards: torch.Tensor, ids: list[list[int]], verdicts: list | None
    ) -> tuple[list[Outcome], Ledger]:
        return count_round(
            rewards,
            ids,
            verdicts,
            raised=getattr(self.reward_funcs[0], "raised", ()),
            ends={*self.eos_token_ids, self._tokenizer.pad_token_id},
            num_generations=self.num_generations,
            accelerator=self.accelerator,
        )

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
        """[rows, completion length] under the present policy, of rows that are padded as TRL pads
        them."""
        with torch.no_grad():
            # TRL's own forward, so that old and new log-probabilities differ by the policy alone.
            logps, _, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
                torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
                output["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
            )
        return logps

    def _corrected(self, output: dict[str, Any], batch: Batch) -> dict[str, Any]:
        """TRL's batch, with groups that only fill it left out of the loss, and with the
        log-probabilities of the policy that wrote them for groups left over from another batch."""
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
            # The loss has terms that no advantage multiplies: KL, and TRL's entropy bonus. And
            # bnpo divides by the tokens of the mask.
            if self.beta != 0 or self._entropy_bonus_enabled or self.loss_type == "bnpo":
                output["completion_mask"] = output["completion_mask"] * kept
        return output


def _has_responses(tokenizer: Any) -> bool:
    """Whether TRL parses completions of this tokenizer, in either of transformers' two ways."""
    names = ("response_template", "response_schema")
    return any(getattr(tokenizer, name, None) is not None for name in names)
