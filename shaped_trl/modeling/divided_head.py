"""Divide a model's output embedding by a temperature: its distribution then is softmax(z/T)."""

from __future__ import annotations

import torch
from shaped_eval.errors import UserError
from torch import Tensor, nn
from transformers import PreTrainedModel


def divide_head(model: PreTrainedModel, temperature: float) -> None:
    """Divide the weight and the bias of the output embedding by `temperature`, in place.

    The likeliest token stays the same everywhere, and the entropy at T = 1 becomes that of the
    given model at this temperature. A head that is tied to the input embedding is untied first,
    because the input must not change. The weights become float32, since rounding the quotients to
    16 bits would move the logits by up to 0.4%.

    Raises:
        UserError: the temperature is not above 0; or the logits are not linear in the head, as in a
            model that caps them, so that the distribution is not softmax(z/T). The model cannot be
            used any more then.
    """
    if not temperature > 0:
        raise UserError(f"temperature={temperature!r}: give a number above 0")
    model.float().eval()
    before = _probe(model)
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight = nn.Parameter(head.weight / temperature)
        if getattr(head, "bias", None) is not None:
            head.bias = nn.Parameter(head.bias / temperature)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
        config.dtype = torch.float32
    if not torch.allclose(_probe(model), before / temperature, rtol=1e-3, atol=1e-4):
        raise UserError(
            f"{type(model).__name__}: its logits are not linear in its head, as with a soft cap, "
            "so that a divided head is not the model at another temperature"
        )


@torch.no_grad()
def _probe(model: PreTrainedModel) -> Tensor:
    """The logits of four tokens, with any ids of the vocabulary."""
    ids = torch.arange(1, 5, device=model.device)[None]
    return model(input_ids=ids).logits[0]
