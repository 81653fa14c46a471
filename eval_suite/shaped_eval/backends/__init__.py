"""The backends that generate completions, behind one protocol. Each is imported when it is used."""

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
    """The backend that `config` names, before its weights are loaded or its server is contacted.

    Raises:
        UserError: an unknown backend, a model that does not exist, a tokenizer without the chat
            template that is asked for, or a package that is not installed.
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
