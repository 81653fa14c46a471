"""Divide a model's output embedding by a temperature: its distribution then is softmax(z/T)."""

from __future__ import annotations

import torch
from shaped_eval.errors import UserError
from torch import nn
from transformers import PreTrainedModel


def divide_head(model: PreTrainedModel, temperature: float) -> None:
    """Divide the weight and the bias of the output embedding by `temperature`, in place.

    The likeliest token stays the same everywhere, and the entropy at T = 1 becomes that of the
    given model at this temperature. A head that is tied to the input embedding is untied first,
    because the input must not change. The weights become float32, since rounding the quotients to
    16 bits would move the logits by up to 0.4%.

    Raises:
        UserError: the temperature is not above 0; or the model caps its logits, so that its
            distribution at T is not that of a divided head.
    """
    if not temperature > 0:
        raise UserError(f"temperature={temperature!r}: give a number above 0")
    text = model.config.get_text_config()
    if getattr(text, "final_logit_softcapping", None):
        raise UserError(
            f"final_logit_softcapping={text.final_logit_softcapping!r}: the head of a model with "
            "capped logits cannot be divided by a temperature"
        )
    model.float()
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight = nn.Parameter(head.weight / temperature)
        if getattr(head, "bias", None) is not None:
            head.bias = nn.Parameter(head.bias / temperature)
    for config in {id(each): each for each in (model.config, text)}.values():
        config.tie_word_embeddings = False
        config.dtype = torch.float32
