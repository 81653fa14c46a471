"""The backends that generate completions, behind one protocol. Each is imported when it is used.

Installed packages may offer further backends through entry points of the group
`shaped_eval.config.ENTRY_POINTS`. A backend of the user's own is named by its path,
``package.module:name``. Both are classes that take a `SampleConfig` and give a `Backend`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shaped_eval.backends.base import Backend, Completion, Request
from shaped_eval.backends.static import TransformersBackend
from shaped_eval.config import BACKENDS, own_backend
from shaped_eval.errors import UserError
from shaped_eval.untrusted.pretrained import refuse_adapter

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
    """The backend that `config` names, before its weights are loaded or its server is contacted.

    Raises:
        UserError: an unknown backend, a model that does not exist, a tokenizer without the chat
            template that is asked for, a package that is not installed, or a backend of the user's
            own that lacks a part of `Backend`.
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

        refuse_adapter(config.model, "model", "backend='vllm'")
        return VLLMBackend(config)
    if config.continuous_batching:
        from shaped_eval.backends.continuous import ContinuousBackend

        return ContinuousBackend(config)
    return TransformersBackend(config)
