"""`ShapedTrainer`: TRL's SFTTrainer with the reward-shaped next-token loss."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from shaped_kernels import METRICS
from transformers import IntervalStrategy, PreTrainedModel, TrainingArguments
from trl import SFTTrainer

from shaped_trl.data.mixtures import SOURCE
from shaped_trl.hub.cards import TrainingCard
from shaped_trl.hub.pushing import HubPushes
from shaped_trl.modeling.architectures import load_saved_weights, saves_other_names
from shaped_trl.modeling.balancing import LossFreeBalancing
from shaped_trl.modeling.lm_head import Exact, shape_lm_head, unshape
from shaped_trl.modeling.noted_shape import note_shape
from shaped_trl.training.card import procedure
from shaped_trl.training.config import ShapedConfig, as_config
from shaped_trl.training.engines import (
    check_accumulation,
    check_parallelism,
    keep_outputs_exact,
    let_cpus_shard,
    parallel_size,
)
from shaped_trl.training.interval import ContinuedInterval
from shaped_trl.training.liger import ShapedForwardCheck
from shaped_trl.training.log import JsonlLogCallback, LogPlotCallback, print_briefly
from shaped_trl.training.log_reading import TRAIN_LOG, perplexity, read_log
from shaped_trl.training.metrics import (
    ROW,
    Breakdown,
    EvaluationCollator,
    Ranks,
    in_float64,
    mask_repeated,
    source_names,
    sums_device,
)
from shaped_trl.training.trl_names import check_names
from shaped_trl.training.watch import WatchedLoss
from shaped_trl.training.weights import LOSS_WEIGHTS, WeightedRows

# The metrics of every step. The rank is not among them, since it costs a pass over the logits. The
# logsumexp is added to them if there is a z-loss.
MEANS = tuple(name for name in METRICS if name not in ("target_rank", "logsumexp"))
# Per-token metric of the loss -> its name in the log, which is TRL's or transformers' if they
# have one.
TARGETS = ("labels", "shift_labels", "num_items_in_batch", LOSS_WEIGHTS)
LOG_NAMES = {"is_top1": "mean_token_accuracy"}


class ShapedTrainer(TrainingCard, HubPushes, WatchedLoss, ContinuedInterval, WeightedRows):
    """SFTTrainer for pre- and mid-training with a `RewardShape` (arXiv 2512.22955).

    Data, packing, masks, PEFT and distribution are SFTTrainer's. Rows of the log go to
    `output_dir/train_log.jsonl`, and are drawn in `train_log.png` at each save and at the end. They
    have, weighted by tokens and reduced over processes: loss (of the shape), nll, perplexity,
    entropy, target_prob, head_mass, tail_mass, mean_token_accuracy, and num_tokens (since the run
    began). An evaluation has the same with `eval_`: `eval_nll` compares arms with different shapes,
    while `eval_loss` is each arm's own objective. An evaluation also has the columns of
    `metrics.py`: ranks, rare targets, positions, and sources if its rows have a column `source`. A
    training row has the ranks of its own step, not of the interval. With a `shape_schedule`, each
    scheduled field is logged with its value at the row's step, and with a `z_loss` the logsumexp of
    the logits. `weights.py` describes the weights that training tokens may have.

    `predict` and `compute_metrics` get logits from a second forward, which builds them as a whole.
    Without `args`, or with arguments of TRL or transformers, the loss is cross-entropy.

    Raises:
        ValueError: `compute_loss_func` or label smoothing would be another loss; an adapter is on
            the language-model head; or gradients are accumulated under tensor parallelism, where
            transformers adds them up wrongly.
        RuntimeError: training begins, and something such as Liger has replaced the model's forward
            after our patch.
        UserError: the installed TRL is not one that this package was written for.
    """

    # TRL takes these for the model card: its tags, the name of the method and its paper.
    _tag_names = ["trl", "shaped-trl"]
    _name = "reward-shaped next-token prediction"
    _paper = {
        "title": "Diversity or Precision? A Deep Dive into Next Token Prediction",
        "id": "2512.22955",
        "citation": "@misc{diversityorprecision2025, title={{Diversity or Precision? A Deep Dive "
        "into Next Token Prediction}}, year={2025}, eprint={2512.22955}, archivePrefix={arXiv}}",
    }

    def __init__(self, model, args: TrainingArguments | None = None, **kwargs):
        check_names(SFTTrainer)
        args = as_config(ShapedConfig, args, model, "SFT")
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func is another loss than the shaped one: leave it out")
        if args.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={args.label_smoothing_factor} would change the shape of "
                "the "
                "loss: set it to 0"
            )
        tp_size = getattr(model, "tp_size", None) or parallel_size(args, "tp")
        check_parallelism(args, tp_size)
        let_cpus_shard(args, tp_size > 1)
        if isinstance(model, PreTrainedModel | PeftModel):  # an earlier trainer may have patched it
            unshape(model.get_base_model() if isinstance(model, PeftModel) else model)
        self.weigh(self.training_sources(kwargs.get("train_dataset")), args.prompt_loss_weight)
        super().__init__(model, args, **kwargs)
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        self._means = (*MEANS, "logsumexp") if args.z_loss else MEANS
        self.head = shape_lm_head(
            base,
            args.reward_shape(),
            metrics=self._means,
            impl=args.loss_impl,
            z_loss=args.z_loss,
        )
        self._vocabulary: int = base.config.get_text_config().vocab_size
        self.shape_schedule = args.reward_schedule()
        note_shape(base.config, args.reward_shape(), args.shape_schedule or ())
        self.balancing = (
            LossFreeBalancing(self.model, args.router_bias_rate) if args.router_bias_rate else None
        )
        if self.balancing is not None:
            self.add_callback(self.balancing)
        check_accumulation(base, self.get_tp_size(), args.gradient_accumulation_steps)
        keep_outputs_exact(self.accelerator)
        self.add_callback(ShapedForwardCheck(base))
        print_briefly(self)
        self.add_callback(JsonlLogCallback("train_log.jsonl"))
        self.add_callback(LogPlotCallback("train_log.jsonl"))
        self.watch_loss()
        self.continue_interval()
        self._sums: dict[str, dict[str, torch.Tensor]] = {"train": {}, "eval": {}}
        self._ranks: Ranks | None = None  # of the training step that is logged next
        self._breakdown: Breakdown | None = None  # of the current evaluation

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.shape_schedule is not None:
            # The current update is number global_step + 1; an evaluation comes after update number
            # global_step.
            step = self.state.global_step + int(self.model.training)
            self.head.shape = self.shape_schedule.at(step, self.state.max_steps)
        with_rank = self._is_logged() if self.model.training else self._breakdown is not None
        self.head.metrics = (*self._means, "target_rank") if with_rank else self._means
        sources, rows = inputs.pop(SOURCE, None), inputs.pop(ROW, None)
        if LOSS_WEIGHTS in inputs:
            inputs = {**inputs, LOSS_WEIGHTS: Exact(inputs[LOSS_WEIGHTS])}
        if rows is not None:
            mask_repeated(inputs, rows, self.accelerator)
        inputs["use_cache"] = False
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        outputs = model(**inputs)
        items = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
        loss = outputs.shaped_loss / torch.as_tensor(
            items, device=outputs.shaped_loss.device
        ).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # num_items_in_batch counts the tokens of all ranks, while DDP averages the gradients
            # over ranks.
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        if self.aux_loss_enabled:
            # The auxiliary loss is a mean per micro-batch, while the token loss is already divided
            # by the tokens of the whole accumulated batch.
            steps = (
                self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            )
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        self._accumulate(outputs)
        if not self.model.training and self._breakdown is not None:
            self._breakdown.add(outputs, inputs, sources)
        if not return_outputs:
            return loss
        # The model's own forward returns the logits that `predict` and `compute_metrics` read.
        with torch.no_grad():
            return loss, model(
                **{name: value for name, value in inputs.items() if name not in TARGETS}
            )

    def predict(self, *args, **kwargs):
        result = super().predict(*args, **kwargs)
        self._sums["eval"] = {}  # `predict` is not an evaluation
        return result

    def _accumulate(self, outputs: Any) -> None:
        """Add a micro-batch's `ShapedCausalLMOutput` to the sums. Only `log` synchronises them."""
        sums = self._sums["train" if self.model.training else "eval"]
        row = {"tokens": outputs.label_mask.sum(), "shaped_loss": outputs.shaped_loss}
        row |= {LOG_NAMES.get(name, name): getattr(outputs, name).sum() for name in self._means}
        if outputs.aux_loss is not None:
            row |= {"aux_loss": outputs.aux_loss, "batches": torch.ones_like(outputs.aux_loss)}
        for name, value in row.items():
            value = in_float64(value)
            sums[name] = sums[name] + value if name in sums else value
        if self.model.training and outputs.target_rank is not None:
            self._ranks = self._ranks or Ranks(self._vocabulary, outputs.target_rank.device)
            self._ranks.add(outputs)

    def _is_logged(self) -> bool:
        """Whether the Trainer will log after the current update."""
        step = self.state.global_step + 1
        every = (
            self.args.logging_strategy == IntervalStrategy.STEPS
            and step % self.state.logging_steps == 0
        )
        return every or (self.args.logging_first_step and step == 1)

    def _track_num_input_tokens(self, inputs):
        # The Trainer counts a batch's tokens here for `num_input_tokens_seen`. Of one without a
        # mask it leaves out all that equal the padding token, which may be the end of each text.
        # Under tensor parallelism it counts the batch once for each process that holds it.
        before = self.state.num_input_tokens_seen
        if "attention_mask" not in inputs and "input_ids" in inputs:
            inputs = {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
        super()._track_num_input_tokens(inputs)
        added = self.state.num_input_tokens_seen - before
        self.state.num_input_tokens_seen = before + added // self.get_tp_size()

    def get_eval_dataloader(self, eval_dataset=None):
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        names = source_names(self.eval_dataset[rows] if isinstance(rows, str) else rows)
        self._breakdown = Breakdown(self._vocabulary, names, self.args.device)
        # The Trainer drops columns of the rows that are not in `_signature_columns`, which this
        # method of TRL's fills at first use. The column of sources must reach our collator.
        self._set_signature_columns_if_needed()
        collator, columns = self.data_collator, self._signature_columns
        self.data_collator = EvaluationCollator(self._evaluation_collator(), names)
        self._signature_columns = [*columns, SOURCE] if names else columns
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator, self._signature_columns = collator, columns

    def _evaluation_collator(self):
        """A collator that keeps unpacked sequences as rows if attention masks densely.

        A single row of all sequences, as in packed training, would be masked as a whole.
        """
        collator = self.data_collator
        if (
            self.args.eval_packing is False
            and getattr(collator, "padding_free", False)
            and self.masks_densely()
        ):
            collator = copy.copy(collator)
            collator.padding_free = False
        return collator

    def masks_densely(self) -> bool:
        """Whether attention computes all pairs of a row and no layer has a state along the row."""
        model = self.accelerator.unwrap_model(self.model)
        config = model.config.get_text_config()
        # transformers has no public name for either: `_attn_implementation` is the attention that
        # was chosen, and `_is_stateful` is true of models such as Mamba.
        return (
            config._attn_implementation in ("sdpa", "eager", "flex_attention")
            and not model._is_stateful
        )

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # The Trainer loads a checkpoint's weights into the model here, by the names in the model.
        # Some architectures save them under other names, which `from_pretrained` translates and the
        # Trainer does not.
        if self._saves_other_names():
            load_saved_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self):
        # The same at the end of training, for `load_best_model_at_end`.
        if self._saves_other_names():
            load_saved_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _saves_other_names(self) -> bool:
        whole = isinstance(self.model, PreTrainedModel) and not self.is_fsdp_enabled
        return whole and saves_other_names(self.model)

    def card_procedure(self) -> str:
        return procedure(self.args, read_log(Path(self.args.output_dir) / TRAIN_LOG))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        # "eval_loss" -> "eval_". With several evaluation sets the Trainer's prefix also names the
        # set.
        prefix = (
            ""
            if mode == "train"
            else next((key[:-4] for key in logs if key.endswith("_loss")), "eval_")
        )
        logs.update({prefix + name: value for name, value in self._drain(mode).items()})
        logs[f"{prefix}num_tokens"] = self.state.num_input_tokens_seen
        if self.balancing is not None and mode == "train":
            logs.update(self.balancing.drain())
        if self.shape_schedule is not None and "loss" in logs:
            logs.update(
                {name: getattr(self.head.shape, name) for name in self.shape_schedule.curves}
            )
        # SFTTrainer.log is left out, since it would add its own metrics under other names.
        super(SFTTrainer, self).log(logs, start_time)

    def interval_state(self) -> dict[str, Any]:
        sums = self._sums["train"]
        values = torch.stack(list(sums.values())) if sums else torch.empty(0)
        totals = self.accelerator.reduce(values, "sum").tolist() if sums else []
        balancing = {} if self.balancing is None else {"balancing": self.balancing.interval_state()}
        return super().interval_state() | {"sums": list(zip(sums, totals, strict=True))} | balancing

    def restore_interval(self, saved: dict[str, Any]) -> None:
        super().restore_interval(saved)
        if self.is_world_process_zero():  # the saved sums are those of all processes
            device = sums_device(self.args.device)
            # Pairs instead of a mapping, which trainer_state.json would sort: processes add up the
            # sums in this order.
            self._sums["train"] = {
                name: torch.tensor(value, dtype=torch.float64, device=device)
                for name, value in saved["sums"]
            }
        if self.balancing is not None:
            self.balancing.restore_interval(saved.get("balancing", []))

    def _drain(self, mode: str) -> dict[str, float]:
        """Return the means over the interval and all processes, and start the sums again at zero.

        The means are weighted by tokens. The columns of `metrics.py` are added.
        """
        sums, self._sums[mode] = self._sums[mode], {}
        parts: Ranks | Breakdown | None
        if mode == "train":
            parts, self._ranks = self._ranks, None
        else:
            parts, self._breakdown = self._breakdown, None
        if not sums:
            return {}
        values = torch.stack(list(sums.values()))
        total = dict(zip(sums, self.accelerator.reduce(values, "sum").tolist(), strict=True))
        tokens = max(total.pop("tokens"), 1.0)
        batches = total.pop("batches", 1.0)
        means = {
            name: value / (batches if name == "aux_loss" else tokens)
            for name, value in total.items()
        }
        loss = means.pop("shaped_loss")
        if mode == "eval":
            means["loss"] = loss
        means["perplexity"] = perplexity(means["nll"])
        if parts is not None:
            means |= parts.columns(partial(self.accelerator.reduce, reduction="sum"))
        return means
