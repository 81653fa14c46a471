"""Who generates completions: one protocol, and the backends behind it, each imported when it is
asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shaped_eval.backends.base import Backend, Completion, Request
from shaped_eval.backends.static import TransformersBackend

if TYPE_CHECKING:
    from shaped_eval.config import SampleConfig

__all__ = [
    "Backend",
    "Completion",
    "Request",
    "TransformersBackend",
    "load_backend",
]


def load_backend(config: SampleConfig) -> Backend:
    """The backend `config` names, its weights not yet loaded, its server not yet asked.

    Raises:
        UserError: a model that is not there, a chat template that the tokenizer
            lacks, a package that is not installed.
    """
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
