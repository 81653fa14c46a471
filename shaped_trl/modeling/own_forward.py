"""Running a model's own forward with a stand-in for its output embedding."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from shaped_eval.errors import UserError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput


class OwnForward:
    """The forward of `model` before it was patched, a function of the model and its inputs."""

    def __init__(self, model: PreTrainedModel, function: Callable) -> None:
        self.model = model
        self._function = function

    def __call__(self, **kwargs: Any) -> Any:
        return self._function(self.model, **kwargs)

    def by_name(self, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, also those that were given by position."""
        if not args:
            return kwargs
        signature = inspect.signature(type(self.model).forward)
        given = dict(zip([*signature.parameters][1:], args, strict=False))
        if len(given) < len(args) or given.keys() & kwargs.keys():
            signature.bind(self.model, *args, **kwargs)  # raises as Python does
        return given | kwargs

    @functools.partial(torch.compiler.disable, recursive=False)
    def to_head(
        self, answer: Callable[[Tensor], Tensor], **kwargs: Any
    ) -> tuple[ModelOutput, Tensor]:
        """Run the forward without a cache, with `answer(hidden)` in place of the output embedding.

        Returns:
            The model's output, and the hidden states that the output embedding would have received.

        Raises:
            UserError: the model does not call its output embedding exactly once.
        """
        # With a cache, sdpa builds no block-diagonal mask for packed sequences.
        kwargs |= {"use_cache": False, "return_dict": True}
        with _stood_in(self.model, answer) as stand_in:
            outputs = self(**kwargs)
        if len(stand_in.received) != 1:
            raise UserError(
                f"model={type(self.model).__name__} calls its output embedding "
                f"{len(stand_in.received)} times in its forward, and only models that call it "
                "once are supported"
            )
        return outputs, stand_in.received[0]


class _StandIn(nn.Module):
    """Records its inputs and returns what `answer` gives; has all other attributes of the head."""

    def __init__(self, head: nn.Module, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.received: list[Tensor] = []
        vars(self).update(head=head, answer=answer)  # not as a submodule

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["head"], name)

    def forward(self, hidden: Tensor) -> Tensor:
        self.received.append(hidden)
        return self.answer(hidden)


@contextmanager
def _stood_in(model: PreTrainedModel, answer: Callable[[Tensor], Tensor]) -> Iterator[_StandIn]:
    """Put a stand-in at every place where `model` holds its output embedding.

    The embedding is looked up now, since PEFT and FSDP replace it.
    """
    head = model.get_output_embeddings()
    stand_in = _StandIn(head, answer)
    places = [
        (m, name) for m in model.modules() for name, child in m._modules.items() if child is head
    ]
    try:
        for module, name in places:
            module._modules[name] = stand_in
        yield stand_in
    finally:
        for module, name in places:
            module._modules[name] = head
