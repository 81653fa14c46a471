"""Options of `AsyncRLVRTrainer`, beside TRL's `AsyncGRPOConfig`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated
from urllib.parse import urlsplit

import torch
from transformers import TrainingArguments
from trl import ModelConfig
from trl.experimental.async_grpo import AsyncGRPOConfig

from shaped_trl.rlvr.config import RLVRArguments, RLVRConfig, warn_of_truncated_sampling
from shaped_trl.run_record import MAY_CHANGE
from shaped_trl.training.config import default_bf16

TRANSFERS = ("nccl", "folder")


@dataclass
class AsyncRLVRConfig(RLVRArguments, AsyncGRPOConfig):
    """`AsyncGRPOConfig` with clip-higher and dynamic sampling of DAPO (arXiv 2503.14476).

    Its defaults differ from those of `AsyncGRPOConfig` in this: `epsilon_high` is 0.28, not
    `epsilon`; `dynamic_sampling` is on; a run without a learning signal stops (`on_no_signal`), and
    so does one whose loss is not finite (`on_bad_loss`); `bf16` is off on a CPU. `max_steps` is
    required, since discarded groups would prolong an epoch without bound.

    The loss is TRL's only one: the clipped ratio of tokens to the policy that sampled them,
    averaged over the tokens of a micro-batch. There is no KL term.
    """

    weight_transfer: Annotated[str, MAY_CHANGE] = field(
        default="nccl",
        metadata={
            "help": "How the server gets new weights: nccl, from GPU to GPU, or folder, through a "
            "folder in the memory of a machine that trainer and server share. folder needs no GPU."
        },
    )
    max_logprob_difference: Annotated[float | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "Stop if the log-probabilities of trainer and server differ by more than this "
            "after a transfer of weights, on average over the tokens of some prompts. The default "
            "is 0.1, and 0.001 in float32 on a CPU, where the difference is about 1e-5."
        },
    )

    def __post_init__(self):
        self.bf16 = default_bf16(self.bf16, self.fp16)  # type: ignore[has-type]
        self.set_length()
        super().__post_init__()
        self.check_shared()
        self._check_rollouts()
        self._check_transfer()
        warn_of_truncated_sampling(self)

    @property
    def steps_groups(self) -> int:
        """Number of groups of an optimizer step, if all of their completions are in it."""
        completions = (
            self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        )
        return max(1, completions // self.num_generations)

    def _check_rollouts(self) -> None:
        if self.max_steps <= 0:
            raise ValueError(
                f"max_steps={self.max_steps} must be at least 1: discarded groups would prolong an "
                "epoch without bound"
            )
        for name, smallest, why in (
            ("num_generations", 2, "a group of one completion has no advantage"),
            ("weight_sync_steps", 1, "the server would keep the first weights"),
            (
                "max_staleness",
                1,
                "a micro-batch is taken from the queue while the one before is trained on",
            ),
        ):
            if getattr(self, name) < smallest:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {smallest}: {why}")
        if self.max_inflight_tasks == 0:
            raise ValueError(
                "max_inflight_tasks=0 must be at least 1, or -1 for as many as max_staleness allows"
            )
        if self.eval_strategy != "no":
            raise ValueError(
                f"eval_strategy={self.eval_strategy.value!r}: the asynchronous trainer has no "
                "held-out rows; use eval_benchmarks, or evaluate its checkpoints"
            )

    def _check_transfer(self) -> None:
        if self.weight_transfer not in TRANSFERS:
            raise ValueError(
                f"weight_transfer={self.weight_transfer!r}: choose from {', '.join(TRANSFERS)}"
            )
        if self.max_logprob_difference is None:
            exact = self.dtype == "float32" and not torch.cuda.is_available()
            self.max_logprob_difference = 0.001 if exact else 0.1
        if not self.max_logprob_difference > 0:
            raise ValueError(
                f"max_logprob_difference={self.max_logprob_difference} must be above 0"
            )
        url = urlsplit(self.vllm_server_base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(
                f"vllm_server_base_url={self.vllm_server_base_url!r} is not the address of a "
                "server: http://127.0.0.1:8000"
            )


@dataclass
class AsyncModelConfig(ModelConfig):
    """TRL's `ModelConfig`, without what the asynchronous trainer decides: `dtype` is an option of
    `AsyncGRPOConfig`, and attention is TRL's over packed rows."""

    dtype: str | None = field(default=None, init=False)
    attn_implementation: str | None = field(default=None, init=False)


def _names(config: type[TrainingArguments]) -> set[str]:
    return {option.name for option in fields(config)}


def only_synchronous() -> dict[str, str]:
    """Options of `RLVRConfig` that the asynchronous trainer does not have, and what to say of
    them."""
    why = (
        "is not available with asynchronous: true, where a vLLM server generates and TRL has one "
        "loss: clipped ratios of tokens, without a KL term"
    )
    return dict.fromkeys(_names(RLVRConfig) - _names(AsyncRLVRConfig), why)


def only_asynchronous() -> dict[str, str]:
    """Options of `AsyncRLVRConfig` that the synchronous trainer does not have."""
    return dict.fromkeys(_names(AsyncRLVRConfig) - _names(RLVRConfig), "needs asynchronous: true")
