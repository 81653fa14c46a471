"""Options of `ShapedTrainer`, beside TRL's `SFTConfig`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, TypeVar

import torch
from shaped_eval.backends.prompts import weights_dtype
from shaped_kernels import RewardShape
from shaped_kernels.function import IMPLEMENTATIONS
from shaped_kernels.triton_rows import why_not_triton
from transformers import PreTrainedConfig, TrainingArguments
from transformers.utils import is_liger_kernel_available
from trl import SFTConfig

from shaped_trl.run_record import MAY_CHANGE
from shaped_trl.training.schedules import ShapeSchedule, from_json
from shaped_trl.training.trl_names import get_config_model_id
from shaped_trl.training.watch import WatchArguments

Config = TypeVar("Config", bound=TrainingArguments)
SAVED_DTYPES = ("auto", "float32", "bfloat16", "float16")


def default_bf16(bf16: bool | None, fp16: bool) -> bool:
    """TRL's default (bf16 unless fp16) on an accelerator; float32 on a CPU, where bf16 is slow."""
    return (torch.accelerator.is_available() and not fp16) if bf16 is None else bf16


def as_config(
    config: type[Config], args: TrainingArguments | None, model: Any, suffix: str
) -> Config:
    """Convert the arguments of a base class of `config`, or None, to `config`.

    Without arguments, `output_dir` is the model's name and `suffix`, as in TRL.

    Raises:
        TypeError: the class of `args` has fields that `config` does not have.
    """
    if args is None:
        name = model if isinstance(model, str) else get_config_model_id(model.config)
        return config(output_dir=f"{name.split('/')[-1]}-{suffix}")
    if isinstance(args, config):
        return args
    given = {field.name: getattr(args, field.name) for field in fields(args) if field.init}
    unknown = sorted(given.keys() - {field.name for field in fields(config)})
    if unknown:
        raise TypeError(
            f"args={type(args).__name__} has {', '.join(unknown)}, "
            f"which {config.__name__} does not have"
        )
    if given.get("steps_per_generation") is not None:
        # GRPOConfig has computed one of the two from the other, and accepts only one of them.
        given["generation_batch_size"] = None
    return config(**given)


@dataclass
class SavingArguments:
    """How the model is saved when a run of the command line has ended."""

    save_dtype: Annotated[str, MAY_CHANGE] = field(
        default="auto",
        metadata={
            "help": "Type of the weights that are saved at the end: float32, bfloat16, float16, or "
            "auto, which is the type of the checkpoint that the run started from, also where they "
            "are trained in another (--dtype). A new model, an adapter and the checkpoints of the "
            "run keep the type in which they are trained."
        },
    )

    def check_saving(self) -> None:
        """Raises ValueError if `save_dtype` is not one of `SAVED_DTYPES`."""
        if self.save_dtype not in SAVED_DTYPES:
            raise ValueError(
                f"save_dtype={self.save_dtype!r}: choose from {', '.join(SAVED_DTYPES)}"
            )

    def save_as(self, checkpoint: PreTrainedConfig) -> None:
        """Let "auto" mean the dtype of `checkpoint`, if its configuration names one."""
        if self.save_dtype == "auto" and (name := weights_dtype(checkpoint)) in SAVED_DTYPES:
            self.save_dtype = name


@dataclass
class ShapedConfig(WatchArguments, SavingArguments, SFTConfig):
    """`SFTConfig` plus the reward shape of arXiv 2512.22955 (Eq. 10–13).

    The defaults are cross-entropy.

    Defaults that differ from `SFTConfig`'s: a run whose loss is not finite stops (`on_bad_loss`),
    `bf16` is off on a CPU, and the tokens of the whole run are counted. TRL's `loss_type="dft"` is
    `positive="power"` here.

    The fields `beta`, `lambda_head`, `lambda_tail`, `top_k`, `positive`, `alpha`, `threshold` and
    `loss_temperature` are those of `shaped_kernels.RewardShape`, which documents their equations
    and checks their ranges.
    `shaped_trl.training.schedules` documents `shape_schedule`.
    """

    beta: float = field(
        default=0.0,
        metadata={
            "help": "β of the target's reward (Eq. 11), at least -1, in the form that "
            "--positive names. A value below 0 sharpens the distribution (precision); "
            "one above 0 keeps it broad (diversity). 0 is cross-entropy."
        },
    )
    lambda_head: float = field(
        default=0.0,
        metadata={
            "help": "Reward of the top_k most probable tokens, other than the target (Eq. 12)."
        },
    )
    lambda_tail: float = field(
        default=0.0,
        metadata={
            "help": "Reward of the tokens outside the top_k most probable ones (Eq. 12). A "
            "negative value such as -0.1 penalises the tail."
        },
    )
    top_k: int = field(
        default=100,
        metadata={
            "help": "Size of the head set K of Eq. 12: how many of the most probable tokens "
            "belong to it."
        },
    )
    positive: str = field(
        default="exponent",
        metadata={
            "help": "Form of the target's reward r. exponent is (1/p)^((1-p)^beta), most likely "
            "the paper's Eq. 11. product is (1/p)(1-p)^beta, this project's variant. "
            "The others weigh the target's log-probability and do not use beta: power by p^alpha; "
            "threshold by 1 if p is above --threshold, else by 0; entropy by the entropy among the "
            "top_k most probable tokens, divided by ln(top_k)."
        },
    )
    alpha: float = field(
        default=1.0,
        metadata={"help": "Exponent of the form power. 1 gives DFT (arXiv 2508.05629)."},
    )
    threshold: float = field(
        default=0.0,
        metadata={
            "help": "Probability above which the form threshold trains on a target: at least 0 and "
            "below 1 (ProFit, arXiv 2601.09195)."
        },
    )
    loss_temperature: float = field(
        default=1.0,
        metadata={
            "help": "Compute the loss from the logits divided by this temperature, and multiply it "
            "by the temperature (the β of GEM, arXiv 2408.16673). Metrics are those of the model's "
            "own distribution."
        },
    )
    shape_schedule: dict | str | None = field(
        default=None,
        metadata={
            "help": "Change beta, lambda_head or lambda_tail during training. The kind is "
            'constant, linear, cosine or piecewise: \'{"beta": {"kind": "linear", '
            '"start": 0.0, "end": -0.25, "from_step": 100, "to_step": 500}}\'.'
        },
    )
    z_loss: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the squared logsumexp of the logits, which is added to the loss and "
            "keeps it near 0. 1e-4 is usual in pre-training; 0 turns it off."
        },
    )
    prompt_loss_weight: float | None = field(
        default=None,
        metadata={
            "help": "Train on the prompts as well, with their loss multiplied by this number. The "
            "loss is divided by the number of tokens of prompts and completions. Evaluation stays "
            "on completions. By default prompts are not trained on."
        },
    )
    router_bias_rate: float = field(
        default=0.0,
        metadata={
            "help": "Loss-free load balancing of a mixture of experts: how much a router's bias "
            "moves in one step. 0.001 is a common value; 0 turns it off."
        },
    )
    hub_license: Annotated[str | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "Licence of the model, for its card. By default the card states none.",
        },
    )
    loss_impl: str = field(
        default="auto",
        metadata={
            "help": "Implementation of the loss: auto, reference (for tests), chunked or triton. "
            "auto is triton on a GPU and chunked elsewhere."
        },
    )

    def __post_init__(self):
        if isinstance(self.shape_schedule, str):  # the command line passes JSON
            self.shape_schedule = from_json(self.shape_schedule)
        self.reward_schedule()
        self._check_weights()
        self.check_watch()
        self.check_saving()
        if self.loss_type != "nll":
            raise ValueError(
                f"loss_type={self.loss_type!r} does not work with ShapedTrainer: leave it out; "
                "for DFT set positive='power'"
            )
        if self.include_num_input_tokens_seen in (False, "no"):  # type: ignore[has-type]
            # The log counts the tokens of the whole run, also after it was resumed.
            self.include_num_input_tokens_seen = "non_padding"
        self.bf16 = default_bf16(self.bf16, self.fp16)  # type: ignore[has-type]
        super().__post_init__()
        self._check_loss_impl()
        if self.use_liger_kernel:
            self._keep_liger_off_the_loss()

    def _check_weights(self) -> None:
        if not (math.isfinite(self.z_loss) and self.z_loss >= 0):
            raise ValueError(f"z_loss={self.z_loss!r} is not a finite number of at least 0")
        if self.z_loss and self.loss_temperature != 1:
            raise ValueError(
                f"z_loss={self.z_loss!r} does not go with "
                f"loss_temperature={self.loss_temperature!r}: leave one of them out"
            )
        weight = self.prompt_loss_weight
        if weight is None:
            return
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"prompt_loss_weight={weight!r} is not a finite number of at least 0; leave it out "
                "to train on completions alone"
            )
        if self.assistant_only_loss or self.completion_only_loss:
            name = "assistant_only_loss" if self.assistant_only_loss else "completion_only_loss"
            raise ValueError(
                f"prompt_loss_weight={weight!r} does not go with {name}=True: leave one of them out"
            )

    def _check_loss_impl(self) -> None:
        """Refuse before any model is loaded what the loss would refuse at the first step."""
        choices = ("auto", *IMPLEMENTATIONS)
        if self.loss_impl not in choices:
            raise ValueError(
                f"loss_impl={self.loss_impl!r} is unknown: choose from {', '.join(choices)}"
            )
        if self.loss_impl == "triton" and (
            reason := why_not_triton(torch.empty(1, 1, device=self.device))
        ):
            raise ValueError(f"loss_impl='triton' {reason}; leave it out")

    def _keep_liger_off_the_loss(self) -> None:
        """Let Liger replace layers only: its cross-entropy would replace the model's forward."""
        if not is_liger_kernel_available():
            raise ValueError(
                'use_liger_kernel=True needs liger-kernel: pip install "shaped-trl[gpu]"'
            )
        losses = ("fused_linear_cross_entropy", "cross_entropy")
        given = self.liger_kernel_config or {}  # type: ignore[has-type]
        for name in losses:
            if given.get(name):
                raise ValueError(
                    f"liger_kernel_config {name}={given[name]!r} does not work with "
                    "ShapedTrainer, which has its own loss: leave it out"
                )
        self.liger_kernel_config = given | dict.fromkeys(losses, False)

    def reward_shape(self) -> RewardShape:
        """The validated shape.

        Raises:
            ValueError: a field is out of range.
        """
        return RewardShape(
            beta=self.beta,
            lambda_head=self.lambda_head,
            lambda_tail=self.lambda_tail,
            top_k=self.top_k,
            positive=self.positive,
            alpha=self.alpha,
            threshold=self.threshold,
            loss_temperature=self.loss_temperature,
        )

    def reward_schedule(self) -> ShapeSchedule | None:
        """The validated schedule of the shape, or None if the shape does not change.

        Raises:
            ValueError: as in `ShapeSchedule.parse`.
        """
        shape = self.reward_shape()
        return (
            None if self.shape_schedule is None else ShapeSchedule.parse(self.shape_schedule, shape)
        )
