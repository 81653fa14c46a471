"""Who generates completions: one protocol, and the backends behind it, each imported when it is
asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shaped_eval.backends.base import Backend, Completion, Request
from shaped_eval.backends.static import TransformersBackend
from shaped_eval.errors import UserError

if TYPE_CHECKING:
    from shaped_eval.sample import SampleConfig

__all__ = [
    "BACKENDS",
    "Backend",
    "Completion",
    "Request",
    "TransformersBackend",
    "check_backend",
    "load_backend",
]

BACKENDS = ("transformers", "vllm", "openai")


def check_backend(name: str) -> None:
    """Raise UserError for a backend that is not there."""
    if name not in BACKENDS:
        raise UserError(f"backend={name!r} is not available: use {' or '.join(BACKENDS)}")


def load_backend(config: SampleConfig) -> Backend:
    """The backend `config` names, its weights not yet loaded, its server not yet asked.

    Raises:
        UserError: an unknown backend, a model that is not there, a chat template that the tokenizer
            lacks, a package that is not installed.
    """
    check_backend(config.backend)
    if config.backend == "openai":
        from shaped_eval.backends.openai import OpenAIBackend

        return OpenAIBackend(config)
    if config.backend == "vllm":
        from shaped_eval.backends.vllm import VLLMBackend

        return VLLMBackend(config)
    if config.continuous_batching:
        from shaped_eval.backends.continuous import ContinuousBackend

        return ContinuousBackend(config)
    return TransformersBackend(config)
