"""The private names of TRL and transformers that this package overrides, calls or reads.

TRL and transformers may change these without notice. `check_names` compares them with what is
installed when a trainer is built, so that a changed version is refused in one line before a model
is loaded. Each override says in a comment what the library does there and why we step in.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from types import CodeType
from typing import Any, NamedTuple

from shaped_eval.errors import UserError

# As in pyproject.toml.
TESTED = {"trl": ">=1.16,<2", "transformers": ">=5.17"}


def refusal(change: str) -> str:
    """One line that says what changed, what is installed and what was tested."""
    found = ", ".join(f"{name} {version(name)}" for name in TESTED)
    tested = ", ".join(f"{name}{versions}" for name, versions in TESTED.items())
    return f"{found}: {change}; shaped-trl is tested with {tested}: install these versions"


# TRL documents none of these functions. The other modules import them from here.
try:
    from trl.trainer.utils import (
        add_fused_lm_head,
        get_callable_name,
        get_config_model_id,
        is_async_callable,
        pad,
        print_prompt_completions_sample,
    )
except ImportError as error:
    raise UserError(refusal(str(error))) from error

__all__ = [
    "Generated",
    "add_fused_lm_head",
    "check_names",
    "get_callable_name",
    "get_config_model_id",
    "is_async_callable",
    "pad",
    "print_prompt_completions_sample",
    "refusal",
]

# Methods that we override, with their parameters: these are all that the library may pass to us.
OVERRIDDEN: dict[str, dict[str, tuple[str, ...]]] = {
    "Trainer": {
        "_get_grad_norm": ("model", "grad_norm"),
        "_load_best_model": (),
        "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
        "_push_from_checkpoint": ("checkpoint_folder",),
        "_save_checkpoint": ("model", "trial"),
        "_save_rng_state": ("output_dir",),
        "_track_num_input_tokens": ("inputs",),
    },
    "SFTTrainer": {
        "_prepare_dataset": (
            *("dataset", "processing_class", "args"),
            *("packing", "formatting_func", "dataset_name"),
        ),
        "_prepare_inputs": ("inputs",),
    },
    "GRPOTrainer": {
        "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
        "_generate": ("prompts",),
        "_generate_and_score_completions": ("inputs",),
        "_prepare_inputs": ("generation_batch",),
    },
    "AsyncGRPOTrainer": {"_prepare_inputs": ("inputs",), "_sync_weight": ()},
}

# Methods that we call or wrap, with the parameters that we give: others may follow them.
CALLED: dict[str, dict[str, tuple[str, ...]]] = {
    "Trainer": {
        "_finish_current_push": (),
        "_set_signature_columns_if_needed": (),
    },
    "SFTTrainer": {},
    "GRPOTrainer": {
        "_generate_single_turn": ("prompt_ids", "images", "multimodal_fields", "num_generations"),
        "_get_per_token_logps_and_entropies": (
            *("model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"),
        ),
    },
    "AsyncGRPOTrainer": {},
}

# The loop of rollouts of AsyncGRPOTrainer, of which `RolloutLoop` is one.
LOOP = "trl.experimental.async_grpo.async_rollout_worker"

# Attributes of a trainer that we read or set, which its methods set while they run.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "Trainer": (
        "_globalstep_last_logged",
        "_signature_columns",
        "_total_loss_scalar",
        "_tr_loss",
        "_train_batch_size",
    ),
    "SFTTrainer": ("_name", "_paper", "_tag_names"),
    "GRPOTrainer": (
        "_entropy_bonus_enabled",
        "_metrics",
        "_name",
        "_pending_extra_logs",
        "_tag_names",
        "_tokenizer",
    ),
    "AsyncGRPOTrainer": (
        "_loop_kwargs",
        "_lora_name",
        "_lora_sync",
        "_metrics",
        "_name",
        "_tag_names",
    ),
}

# Functions and class attributes that no trainer has: module, and the name in it.
ELSEWHERE = (
    ("transformers", "PreTrainedModel._is_stateful"),
    ("transformers", "PreTrainedConfig._attn_implementation"),
    ("trl.trainer.grpo_trainer", "print_prompt_completions_sample"),
    ("trl.trainer.utils", "_ChunkedLogProbFunction"),
    ("trl.trainer.utils", "_use_triton"),
)
ELSEWHERE_OF = {
    "AsyncGRPOTrainer": (
        (LOOP, "print_prompt_completions_sample"),
        (LOOP, "_chain_to_sequences"),
        (LOOP, "_AsyncRolloutLoop._generate_one"),
        (LOOP, "_AsyncRolloutLoop._generate_one_turn"),
        (LOOP, "_AsyncRolloutLoop._push_rollout_metrics"),
        (LOOP, "_AsyncRolloutLoop._repeat_iterator"),
        (LOOP, "_AsyncRolloutLoop._score_group"),
        ("trl.experimental.async_grpo.packing", "TreeRow.pack"),
        ("trl.experimental.async_grpo.async_grpo_trainer", "get_peak_flops_per_device"),
    ),
}


class Generated(NamedTuple):
    """What `GRPOTrainer._generate` returns: a list with an entry for each completion, or None.

    prompt_ids, completion_ids: token ids, without padding.
    tool_mask: which tokens the model wrote itself; None without tools.
    completions: texts, or chats of one message.
    logprobs: of the completions' tokens by the engine that sampled them; None without an engine.
    extra_fields: what a rollout function returned beside these.
    images, tool_images: of the prompts and of tools' replies.
    """

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    tool_mask: list[list[int]] | None
    completions: list[Any]
    logprobs: list[list[float]] | None
    extra_fields: dict[str, Any]
    images: list[Any] | None
    tool_images: list[Any]

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> Generated:
        """The values with their names. Raises UserError where their number is another one."""
        if len(values) != len(cls._fields):
            raise UserError(
                refusal(
                    f"GRPOTrainer._generate returns {len(values)} values, not {len(cls._fields)}"
                )
            )
        return cls(*values)


def check_names(trainer: type) -> None:
    """Compare the private names of a trainer of TRL with those that this package was written for.

    Args:
        trainer: `SFTTrainer`, `GRPOTrainer` or `AsyncGRPOTrainer`.

    Raises:
        UserError: a name is missing, or a method takes other parameters: which one, and the
            versions of TRL and transformers that were tested.
    """
    change = next(_changes(trainer), None)
    if change is not None:
        raise UserError(refusal(change))


def _changes(trainer: type) -> Iterator[str]:
    owners = ("Trainer", trainer.__name__)
    for owner in owners:
        for name, expected in OVERRIDDEN[owner].items():
            found = _parameters(trainer, name)
            if found != expected:
                yield _changed_method(trainer, name, found, expected)
        for name, expected in CALLED[owner].items():
            found = _parameters(trainer, name)
            if found is None or found[: len(expected)] != expected:
                yield _changed_method(trainer, name, found, expected)
    known = _attributes(trainer)
    for owner in owners:
        for name in ATTRIBUTES[owner]:
            if name not in known:
                yield f"{trainer.__name__} does not have the attribute {name}"
    for module, path in (*ELSEWHERE, *ELSEWHERE_OF.get(trainer.__name__, ())):
        found_there: Any = import_module(module)
        for name in path.split("."):
            found_there = getattr(found_there, name, None)
        if found_there is None:
            yield f"{module} does not have {path}"


def _changed_method(
    trainer: type, name: str, found: tuple[str, ...] | None, expected: tuple[str, ...]
) -> str:
    if found is None:
        return f"{trainer.__name__} does not have the method {name}"
    return f"{trainer.__name__}.{name} takes ({', '.join(found)}), not ({', '.join(expected)})"


def _parameters(trainer: type, name: str) -> tuple[str, ...] | None:
    """The names of a method's parameters without self; None where there is no such method."""
    method = getattr(trainer, name, None)
    return None if method is None else tuple(inspect.signature(method).parameters)[1:]


def _attributes(trainer: type) -> set[str]:
    """The attributes that a class has, and those that its methods and its bases' mention.

    What a method sets on `self` is known to Python when the method runs and not before, so that the
    names are read from the methods' code.
    """
    names = set(dir(trainer))
    for base in trainer.__mro__:
        for member in vars(base).values():
            code = getattr(inspect.unwrap(member), "__code__", None) if callable(member) else None
            if isinstance(code, CodeType):
                names.update(code.co_names)
    return names
