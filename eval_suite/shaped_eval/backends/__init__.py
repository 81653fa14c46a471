"""Who generates completions: one protocol, and the backends behind it, each imported when it is
used.

Beside those in the table there are backends of installed packages, by entry points of the group
`shaped_eval.config.ENTRY_POINTS`, and the user's own, named by their path ``package.module:name``. Either is a class
that takes a `SampleConfig` and gives a `Backend`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shaped_eval.backends.base import Backend, Completion, Request
from shaped_eval.backends.static import TransformersBackend
from shaped_eval.config import BACKENDS, own_backend
from shaped_eval.errors import UserError

if TYPE_CHECKING:
    from shaped_eval.config import SampleConfig

__all__ = [
    "Backend",
    "Completion",
    "Request",
    "TransformersBackend",
    "load_backend",
]

# of `Backend`
PARTS = (
    *("identity", "device", "repeatability", "together"),
    *("prompt_tokens", "context_tokens", "prepare", "complete"),
)


def load_backend(config: SampleConfig) -> Backend:
    """The backend that `config` names. Its weights are not loaded yet, and its server not reached.

    Raises:
        UserError: an unknown backend, a model that is not there, a chat template that the tokenizer
            lacks, a package that is not installed, or a backend of the user's own that lacks a part
            of `Backend`.
    """
    if config.backend not in BACKENDS:
        backend = own_backend(config.backend)(config)
        for name in PARTS:
            if not hasattr(backend, name):
                raise UserError(
                    f"backend={config.backend!r} does not have {name!r}, which "
                    "shaped_eval.backends.Backend asks for"
                )
        return backend
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
