"""`AsyncRLVRTrainer`: TRL's AsyncGRPOTrainer with dynamic sampling, a length schedule and a
detector of runs that do not learn. Experimental.

The private names of TRL in this module are listed in `shaped_trl.training.trl_names`.
"""

from __future__ import annotations

import pickle
from typing import Any

import torch
from datasets import Dataset
from shaped_eval.errors import UserError
from trl.experimental.async_grpo import AsyncGRPOTrainer
from trl.experimental.async_grpo.vllm_client import VLLMClient

from shaped_trl.hub.cards import TrainingCard
from shaped_trl.hub.pushing import HubPushes
from shaped_trl.rlvr.asynchronous.agreement import (
    NUM_PROMPTS,
    difference,
    probe_ids,
    server_logps,
    trainer_logps,
)
from shaped_trl.rlvr.asynchronous.config import AsyncRLVRConfig
from shaped_trl.rlvr.asynchronous.cpu import without_gpu
from shaped_trl.rlvr.asynchronous.deliveries import Deliveries
from shaped_trl.rlvr.asynchronous.loop import Clock
from shaped_trl.rlvr.asynchronous.reports import Report
from shaped_trl.rlvr.asynchronous.server import check_served
from shaped_trl.rlvr.asynchronous.weights import FolderTransfer, server_errors
from shaped_trl.rlvr.asynchronous.worker import RolloutWorker
from shaped_trl.rlvr.bookkeeping import Bookkeeping, BooksCallback
from shaped_trl.rlvr.card import longest
from shaped_trl.rlvr.guard import guard
from shaped_trl.rlvr.ledger import Ledger
from shaped_trl.rlvr.lengths import check_context
from shaped_trl.rlvr.prompt_stream import PromptStream
from shaped_trl.rlvr.signals import NoLearningSignal, logger
from shaped_trl.training.config import as_config
from shaped_trl.training.interval import ContinuedInterval
from shaped_trl.training.trl_names import check_names
from shaped_trl.training.watch import WatchedLoss


class AsyncRLVRTrainer(
    Bookkeeping, TrainingCard, HubPushes, WatchedLoss, ContinuedInterval, AsyncGRPOTrainer
):
    """AsyncGRPOTrainer for verifiable rewards (RLVR), with DAPO's dynamic sampling and clip-higher.

    A vLLM server generates and a process of its own grades while this one trains. The *first*
    reward function is the accuracy reward: the completions of a prompt are trained on only if it
    varies among them. Nothing waits for a full batch: prompts are drawn as long as fewer than
    `max_inflight_tasks` completions are under way.

    Each token is weighted by the ratio of its probability to that under the weights that sampled
    it, clipped as in PPO; completions whose weights are more than `max_staleness` versions old are
    dropped. Rows go to `output_dir/rl_log.jsonl` as from `RLVRTrainer`; `raw_reward`,
    `completion_length` and the ledger are over what was graded in the interval.

    Args:
        model: path or Hub id of the model that the server serves.
        reward_funcs: reward functions, which are pickled for the process that grades.
        args, train_dataset, processing_class, callbacks, optimizers, peft_config: as for
            AsyncGRPOTrainer. The data set has a length and the column `prompt`, texts or chats.

    Raises:
        ValueError: the arguments do not go together.
        UserError: there is no GPU for NCCL; the installed TRL is not one that this package was
            written for; a reward function cannot be pickled. From `train`: the server serves
            something else or is gone, the rollout process has ended, or trainer and server disagree
            about log-probabilities.
        NoLearningSignal: from `train`, when the detector stopped the run.
    """

    _tag_names = ["trl", "async-grpo", "rlvr", "shaped-trl"]
    _name = "asynchronous RLVR"
    stream: PromptStream

    def __init__(
        self,
        model: str,
        reward_funcs: Any,
        args: Any = None,
        train_dataset: Dataset | None = None,
        processing_class: Any = None,
        callbacks: list | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: Any = None,
    ):
        check_names(AsyncGRPOTrainer)
        args = as_config(AsyncRLVRConfig, args, model, "AsyncRLVR")
        self.reward_funcs: Any = guard(reward_funcs)
        _check(model, self.reward_funcs, train_dataset, args)
        assert isinstance(train_dataset, Dataset)
        transfer = None  # TRL's own, by NCCL
        if args.weight_transfer == "folder":
            client = VLLMClient(args.vllm_server_base_url, args.vllm_server_timeout)
            transfer = FolderTransfer(client, args.weight_sync_timeout)
        self.stream = PromptStream(
            len(train_dataset),
            args.seed,
            weighting=args.prompt_weighting,
            retire_all_right=args.retire_all_right,
            retire_all_wrong=args.retire_all_wrong,
            revisit_retired_after=args.revisit_retired_after,
        )
        with without_gpu():
            super().__init__(
                model,
                self.reward_funcs,
                args,
                train_dataset,
                processing_class,
                # before TRL's own, which starts the rollouts
                [_AsyncRLVRCallback(self), *(callbacks or [])],
                rollout_worker=RolloutWorker(args.vllm_server_base_url, args.queue_maxsize),
                weight_transfer=transfer,
                optimizers=optimizers,
                peft_config=peft_config,
            )
        check_context(args.length_schedule().longest, None, self._config)
        self.keep_books()
        self._groups = Ledger()  # since the detector was last told
        self._has_signal = False
        if self.rollout_worker is not None:
            self._set_up_rollouts()

    @property
    def _config(self) -> Any:
        return self.accelerator.unwrap_model(self.model).config

    def _set_up_rollouts(self) -> None:
        args = self.args
        self.rollout_worker.set_up(
            model_name=self._config._name_or_path,
            lora_name=self._lora_name if self._lora_sync else None,
            dataset=self.train_dataset,
            reward_funcs=self.reward_funcs,
            processing_class=self.processing_class,
            eos_token_ids=self.eos_token_ids,
            vocabulary=self._config.get_text_config().vocab_size,
            lengths=args.length_schedule(),
            dynamic_sampling=args.dynamic_sampling,
            # as many graded groups may wait as can be generated at once, or more
            score_queue_maxsize=max(16, args.max_inflight_tasks),
            **{name: getattr(args, name) for name in _LOOP_OPTIONS},
        )
        self.deliveries = Deliveries(
            self.rollout_worker.rollout_buffer,
            self.stream,
            version=lambda: self.model_version,
            max_staleness=args.max_staleness,
            token_budget=lambda: args.token_budget,
            note=self._note,
            note_stale=self._note_stale,
        )
        self.rollout_queue: Any = self.deliveries  # which TRL reads

    # weights

    def _sync_weight(self) -> None:
        # TRL sends the weights here, when training begins and every `weight_sync_steps`, and then
        # counts the version up. The first time, the rollouts have not begun.
        address = self.args.vllm_server_base_url
        with server_errors(address):
            super()._sync_weight()
            worker = self.rollout_worker
            if worker is not None and worker._process is None:
                step, version = self.state.global_step, self.model_version
                clock = Clock(step, version, self.args.weight_sync_steps)
                worker.begin_at(self.stream, clock)
            self._compare_logps()

    def _compare_logps(self) -> None:
        """Compare log-probabilities with the server's, and log the difference."""
        args = self.args
        prompts = self.train_dataset[:NUM_PROMPTS]["prompt"]
        rows = probe_ids(prompts, self.processing_class, args.chat_template_kwargs or {})
        if not rows:
            return
        ours = trainer_logps(self.model, rows, self.accelerator.device)
        if self.rollout_worker is None:
            return
        name = self._config._name_or_path
        if self._lora_sync:
            name = f"{self._lora_name}-v{self.model_version}"
        theirs = server_logps(self.vllm_client.server_url, name, rows)
        mean, most = difference(ours, theirs, args.max_logprob_difference)
        self._metrics["train"]["logprob_difference/mean"].append(mean)
        self._metrics["train"]["logprob_difference/max"].append(most)

    # rollouts

    def _note(self, report: Report) -> None:
        """Count a group that was graded, and tell the detector once as many groups are known as a
        step trains on."""
        self.ledger += report.ledger
        self._groups += report.ledger
        self._has_signal |= report.kept and report.ledger.groups_informative > 0
        if self._groups.groups_sampled < self.args.steps_groups:
            return
        self._groups.batches = 1
        self.signals.batch(self._groups, self._has_signal, report.error)
        self._groups, self._has_signal = Ledger(), False
        reason = self.signals.verdict()
        if reason is not None and self.signals.choice == "stop":
            raise NoLearningSignal(f"stopped at step {self.state.global_step}, {reason}")
        if reason is not None:
            logger.warning(reason)

    def _note_stale(self) -> None:
        self.ledger.completions_stale += 1

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.rollout_worker is not None:
            # TRL's collator gives the mean length of the samples of a micro-batch and the sum.
            samples = inputs["global_n_forward_tokens"][0] / inputs["mean_seq_len"][0]
            self.deliveries.trained(round(float(samples)))
            self.ledger.trained_tokens += int(inputs["global_n_tokens"][0])
        return loss

    def train(self, resume_from_checkpoint=None, *args, **kwargs):
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        except NoLearningSignal:
            # The weights are those of the last whole step. Of several processes the others wait for
            # a batch, so that they cannot save with this one.
            if self.accelerator.num_processes == 1 and self.state.global_step > 0:
                self._save_checkpoint(self.model, None)
            raise

    # what `Bookkeeping` asks for

    def counts(self) -> dict[str, float]:
        counts = self.ledger.metrics()
        without = ("rounds", "groups_surplus", "groups_filled")  # there are no batches
        counts = {name: value for name, value in counts.items() if name not in without}
        return counts | {"completions_stale": float(self.ledger.completions_stale)}

    def restore_interval(self, saved: dict[str, Any]) -> None:
        # TRL has rates as pairs here, which JSON makes lists.
        metrics = {
            name: [tuple(value) if isinstance(value, list) else value for value in values]
            for name, values in saved["metrics"].items()
        }
        super().restore_interval(saved | {"metrics": metrics})

    def settings_in_words(self) -> str:
        args = self.args
        steps = args.weight_sync_steps
        every = "every optimizer step" if steps == 1 else f"every {steps} optimizer steps"
        return (
            "Asynchronous reinforcement learning with verifiable rewards (experimental): GRPO with "
            "a ratio of each token to the policy that sampled it, epsilon "
            f"{args.epsilon} / {args.epsilon_high}, weights sent {every} and at most "
            f"{args.max_staleness} versions old, {args.num_generations} completions a prompt, "
            f"temperature {args.temperature}; longest completion {longest(args)}; dynamic sampling "
            f"(DAPO, arXiv 2503.14476) {'on' if args.dynamic_sampling else 'off'}."
        )

    def prompts_state(self) -> dict[str, Any]:
        here = self.rollout_worker is not None
        return {"stream": self.deliveries.prompts() if here else self.stream.state_dict()}

    def restore_prompts(self, saved: dict[str, Any]) -> None:
        self.stream.load_state_dict(saved["stream"])


# options that TRL's loop takes under the same name
_LOOP_OPTIONS = (
    *("num_generations", "max_inflight_tasks", "temperature", "top_p", "top_k", "min_p"),
    *("repetition_penalty", "request_timeout", "chat_template_kwargs", "log_completions"),
    *("num_completions_to_print", "fork_threshold_tokens"),
)


class _AsyncRLVRCallback(BooksCallback):
    """Looks at the server before anything is sent to it."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        trainer = self.trainer
        if trainer.rollout_worker is not None:
            check_served(trainer.vllm_client, trainer._config._name_or_path, args)


def _check(model: Any, rewards: Any, dataset: Any, args: AsyncRLVRConfig) -> None:
    """Refuse what the asynchronous trainer cannot do, before the model is loaded."""
    if not isinstance(model, str):
        raise UserError(
            f"model={type(model).__name__}: the asynchronous trainer needs the path or the Hub id "
            "of the model, which the server loads as well"
        )
    if not rewards or not all(callable(reward) for reward in rewards):
        raise UserError("reward_funcs must be functions: reward models are not supported")
    if args.weight_transfer == "nccl" and not torch.cuda.is_available():
        raise UserError(
            "weight_transfer='nccl' needs a GPU: use folder, with the server on this machine"
        )
    if not isinstance(dataset, Dataset) or not len(dataset):
        raise UserError("train_dataset must be a data set of known length with a column prompt")
    try:
        pickle.dumps(rewards)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"a reward function cannot be sent to the process that grades ({error}): use a "
            "function of a module, or an object, not a lambda or a function in a function"
        ) from error
