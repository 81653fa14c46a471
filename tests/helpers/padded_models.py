"""Rows of a padded batch against rows alone, for tiny models of transformers' causal classes.

python tests/helpers/padded_models.py [CLASS ...]       # a line for each class
"""

from __future__ import annotations

import sys
import warnings

import torch
from causal_models import model_classes, tiny_causal_lm
from shaped_eval.backends.capacity import takes_padding
from shaped_eval.backends.drawing import TokenDraw
from shaped_eval.backends.rows import Row, RowLoop
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import logging

LENGTHS = (3, 9, 14)
ROOMS = (7, 20, 4)  # the longest passes a sliding window of 16
TEMPERATURE, TOP_P = 1.0, 0.9


def _generate(
    model: PreTrainedModel, prompts: list[list[int]], rows: list[Row], seeds: list[int]
) -> list[list[int]]:
    """The tokens of `rows` in one batch. Without padding each has a prompt of its own."""
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    draw = TokenDraw(TEMPERATURE, TOP_P, seeds, "cpu")
    places = [row.prompt for row in rows] if takes_padding(model) else None
    loop = RowLoop(rows, places, draw, [], None, None)
    settings = GenerationConfig(max_new_tokens=max(ROOMS), do_sample=False, pad_token_id=0)
    with torch.no_grad():
        model.generate(ids, attention_mask=mask, generation_config=settings, custom_generate=loop)
    return [row.tokens for row in rows]


def together_and_alone(model: PreTrainedModel) -> tuple[list[list[int]], list[list[int]]]:
    """The tokens of two samples of each prompt, in one padded batch and each by itself."""
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(5, 50, (length,), generator=generator).tolist() for length in LENGTHS]
    places = [(prompt, sample) for prompt in range(len(prompts)) for sample in range(2)]
    seeds = [100 * prompt + sample for prompt, sample in places]
    rows = [Row(prompt, ROOMS[prompt]) for prompt, _ in places]
    together = _generate(model, prompts, rows, seeds)
    alone = [
        _generate(model, [prompts[prompt]], [Row(0, ROOMS[prompt])], [seed])[0]
        for (prompt, _), seed in zip(places, seeds, strict=True)
    ]
    return together, alone


def main(names: list[str]) -> None:
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    for name, model_class in model_classes().items():
        if names and name not in names:
            continue
        try:
            model = tiny_causal_lm(model_class).eval()
            if not takes_padding(model):
                print(name, "equal lengths", flush=True)
                continue
            together, alone = together_and_alone(model)
            print(name, "equal" if together == alone else "DIFFERENT", flush=True)
        except Exception as error:
            print(name, "FAILED", type(error).__name__, str(error)[:100], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
