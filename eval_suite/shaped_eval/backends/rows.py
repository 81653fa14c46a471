"""The loop that generates the rows of one batch, in place of the one in `generate`.

transformers' `generate` prepares the cache, the masks and the positions, and then calls
`custom_generate`, which is a `RowLoop` here. Notation: P prompts, R rows, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from shaped_eval.backends.base import Progress
from shaped_eval.backends.drawing import TokenDraw

# What `generate` keeps for each row and token, with rows in the last dimension but one.
_PER_ROW = ("attention_mask", "position_ids", "token_type_ids")
# What it calls its cache: the first name up to transformers 5.23, the second one from 5.24 on.
_CACHES = ("past_key_values", "cache")


@dataclass
class Row:
    """One sample in progress.

    Attributes:
        prompt: the place of its prompt in the request.
        room: most tokens that it may get.
        tokens: those it has, including an end token.
        stop_length: their number when a stop string was complete; None without one.
    """

    prompt: int
    room: int
    tokens: list[int] = field(default_factory=list)
    stop_length: int | None = None


class RowLoop:
    """Generates all rows of a batch.

    Each row draws from its own stream, and a row that has ended leaves the batch, so that the last
    ones run alone. A prompt is processed once for all of its samples.

    Args:
        rows: they are filled.
        prompts: for each row the place of its prompt in what `generate` gets, if that is each
            prompt once, and rows can be taken out of the cache. None if it gets a prompt for each
            row; then all rows run until the last one ends.
        draw: gives the next tokens of the rows.
        ends: tokens that end a row.
        find_stop: says whether the last tokens of a row contain a stop string; None without any.
        on_step: is called after each step.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        prompts: list[int] | None,
        draw: TokenDraw,
        ends: Sequence[int],
        find_stop: Callable[[list[int]], bool] | None,
        on_step: Callable[[Progress], None] | None,
    ) -> None:
        self._rows = rows
        self._draw = draw
        self._ends = frozenset(ends)
        self._find_stop = find_stop
        self._prompts = prompts
        self._on_step = on_step
        self._running = list(rows)

    def __call__(
        self,
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: Any = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """What `generate` calls. The library's processors and criteria are not used."""
        inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
        outputs = model(**inputs, return_dict=True)
        kwargs = model._update_model_kwargs_for_generation(outputs, kwargs)
        logits_RV = outputs.logits[:, -1].float()
        if self._prompts is not None and self._prompts != list(range(len(input_ids))):
            prompts_R = torch.tensor(self._prompts, device=input_ids.device)
            input_ids, kwargs = input_ids[prompts_R], _chosen(kwargs, prompts_R)
            logits_RV = logits_RV[prompts_R]
        step = 0
        while True:
            tokens_R = self._draw(logits_RV, step)
            input_ids = torch.cat([input_ids, tokens_R[:, None]], dim=-1)
            going = self._add(tokens_R.tolist())
            if not going:
                return input_ids
            if self._prompts is not None and len(going) < len(input_ids):
                rows_R = torch.tensor(going, device=input_ids.device)
                input_ids, kwargs = input_ids[rows_R], _chosen(kwargs, rows_R)
                self._draw.keep(rows_R)
                self._running = [self._running[index] for index in going]
            step += 1
            inputs = model.prepare_inputs_for_generation(
                input_ids, next_sequence_length=1 if kwargs["use_cache"] else None, **kwargs
            )
            outputs = model(**inputs, return_dict=True)
            kwargs = model._update_model_kwargs_for_generation(outputs, kwargs)
            logits_RV = outputs.logits[:, -1].float()

    def _add(self, tokens: Sequence[int]) -> list[int]:
        """Give each running row its token; return the places of those that go on."""
        for row, token in zip(self._running, tokens, strict=True):
            if self._ended(row):
                continue
            row.tokens.append(token)
            if self._find_stop is not None and self._find_stop(row.tokens):
                row.stop_length = len(row.tokens)
        going = [place for place, row in enumerate(self._running) if not self._ended(row)]
        if self._on_step is not None:
            lengths = [len(row.tokens) for row in self._rows]
            ended = len(lengths) - len(going)
            self._on_step(Progress(ended, len(going), max(lengths), sum(lengths)))
        return going

    def _ended(self, row: Row) -> bool:
        return bool(row.tokens) and (
            row.stop_length is not None
            or len(row.tokens) >= row.room
            or row.tokens[-1] in self._ends
        )


def _chosen(kwargs: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """The state of `generate` for these rows alone, which may repeat."""
    for name in _CACHES:
        if kwargs.get(name) is not None:
            kwargs[name].batch_select_indices(rows)
    chosen = {
        name: kwargs[name].index_select(-2, rows)
        for name in _PER_ROW
        if isinstance(kwargs.get(name), torch.Tensor)
    }
    return {**kwargs, **chosen}
