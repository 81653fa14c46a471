"""`generate` of transformers, one batch at a time: the default backend.

Notation: P prompts of a request, M samples of each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shaped_eval.backends.base import BatchLimits, Completion, Completions, Progress, Request, cut
from shaped_eval.backends.prompts import PromptEncoder, from_pretrained
from shaped_eval.errors import UserError
from shaped_eval.provenance import stable_hash

if TYPE_CHECKING:
    import torch

    from shaped_eval.backends.rows import Row
    from shaped_eval.config import SampleConfig


class TransformersBackend:
    """`generate` of transformers on one device: the accelerator that torch finds, else the CPU.

    Of the model's own generation settings only the end tokens are used, because some models ship
    top-k 20 or a repetition penalty. Temperature 0 is greedy.

    Prompts of a batch are padded on the left, where the model allows it
    (`shaped_eval.backends.capacity.takes_padding`). Each sample is drawn from a random stream of
    its own, which depends on the run's seed, the problem and the sample's index
    (`shaped_eval.backends.drawing`). Which samples share a batch changes them only where rounding
    of the logits changes a token, which is rare in float32 and common in bfloat16. The same batches
    give the same samples in any dtype, on the same device, threads and versions. The random state
    of the process is left unchanged.

    Attributes:
        sampler: version of the definition of the samples, which run.json records. It changes
            whenever the same seeds give other samples. Version 1, which was not recorded, drew all
            samples of a batch from one stream. None for a backend without a definition.
        on_step: is called after each step of a batch; None for nothing.
    """

    sampler: int | None = 2
    on_step: Callable[[Progress], None] | None = None
    repeatability = (
        "exact: on the same machine, versions and threads, the same samples, however often "
        "interrupted; in other batches they differ by rounding alone"
    )
    together = True

    def __init__(self, config: SampleConfig) -> None:
        self._config = config
        self._prompts = PromptEncoder(config)
        self._tokenizer = self._prompts.tokenizer
        self.identity = self._prompts.identity
        self.dtype = self._prompts.dtype
        self.device = local_device()

    @property
    def model(self) -> Any:
        """The weights on their device, for code that scores with them instead of generating."""
        return self._model

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForCausalLM

        config = self._config
        model = from_pretrained(AutoModelForCausalLM, config, dtype=config.dtype)
        return model.eval().to(self.device)

    @cached_property
    def _settings(self) -> Any:
        """The settings of generation; they replace the model's own. The tokens are drawn here."""
        return self._make_settings({"do_sample": False})

    def _make_settings(self, sampling: dict[str, Any]) -> Any:
        from transformers import GenerationConfig

        end_ids = _as_list(self._model.generation_config.eos_token_id)
        end_ids += [i for i in _as_list(self._tokenizer.eos_token_id) if i not in end_ids]
        pad_id = end_ids[0] if end_ids else self._tokenizer.pad_token_id or 0
        ends = {"eos_token_id": end_ids or None, "pad_token_id": pad_id}
        self._model.generation_config = GenerationConfig(**ends)
        return GenerationConfig(max_new_tokens=self._config.max_new_tokens, **ends, **sampling)

    def batch_limits(self) -> BatchLimits:
        """What a batch may hold, from `batch_size` or the memory that is free now."""
        from shaped_eval.backends.capacity import batch_limits

        return batch_limits(
            self._config.fixed_batch_size,
            self._prompts.model_config,
            self.device,
            self.dtype,
            vars(self).get("_model"),
        )

    @cached_property
    def _pads(self) -> bool:
        from shaped_eval.backends.capacity import takes_padding

        return takes_padding(self._model)

    def prompt_tokens(self, prompt: str) -> int:
        return len(self._prompts.encode(prompt))

    def context_tokens(self) -> int | None:
        return self._prompts.context_tokens()

    def prepare(self) -> None:
        _ = self._settings

    def complete(self, requests: Sequence[Request]) -> Completions:
        for index, request in enumerate(requests):
            yield index, self.generate(request)

    def generate(self, request: Request) -> list[Completion]:
        """The P·M completions of one request, prompt by prompt."""
        prompts = [self._prompts.encode(prompt) for prompt in request.prompts]
        places = [
            (prompt, request.start + sample)
            for prompt in range(len(prompts))
            for sample in range(request.num_samples)
        ]
        return [
            self._completion(prompts[row.prompt], row.tokens, row.stop_length, request.stop)
            for row in self._rows(prompts, places, request)
        ]

    def _rows(
        self, prompts: list[list[int]], places: list[tuple[int, int]], request: Request
    ) -> list[Row]:
        """The samples at `places`, pairs of a prompt and an index; in halves if memory is short.

        Raises:
            UserError: a single one does not fit in the memory.
        """
        try:
            return self._run(prompts, places, request)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if len(places) == 1:
                tokens = len(prompts[places[0][0]])
                raise UserError(
                    f"model={self._config.model!r}: one sample of {tokens} + {self._room(tokens)} "
                    f"tokens does not fit in the memory of {self.device}: use a smaller "
                    "--max_new_tokens, or a smaller model"
                ) from error
        # outside of the handler, whose error holds the memory of the batch
        half = len(places) // 2
        return [
            *self._rows(prompts, places[:half], request),
            *self._rows(prompts, places[half:], request),
        ]

    def _run(
        self, prompts: list[list[int]], places: list[tuple[int, int]], request: Request
    ) -> list[Row]:
        import torch

        from shaped_eval.backends.drawing import TokenDraw, row_seed
        from shaped_eval.backends.rows import Row, RowLoop

        rows = [Row(prompt, self._room(len(prompts[prompt]))) for prompt, _ in places]
        shared = self._pads
        fed = sorted({row.prompt for row in rows}) if shared else [row.prompt for row in rows]
        ids, mask = self._padded([prompts[prompt] for prompt in fed])
        seeds = [row_seed(_problem_seed(request, prompt), index) for prompt, index in places]
        draw = TokenDraw(
            0.0 if request.greedy else self._config.temperature,
            self._config.top_p,
            seeds,
            self.device,
        )
        loop = RowLoop(
            rows,
            [fed.index(row.prompt) for row in rows] if shared else None,
            draw,
            _as_list(self._settings.eos_token_id),
            _StopStrings(self._tokenizer, request.stop) if request.stop else None,
            self.on_step,
        )
        with torch.no_grad():
            self._model.generate(
                ids, attention_mask=mask, generation_config=self._settings, custom_generate=loop
            )
        return rows

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask [P, L], padded on the left."""
        import torch

        length = max(map(len, prompts))
        assert self._pads or all(len(prompt) == length for prompt in prompts)
        pad_id = self._settings.pad_token_id
        ids = [[pad_id] * (length - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    def _room(self, prompt_tokens: int) -> int:
        """Most tokens of a completion: max_new_tokens, or what the context leaves."""
        context = self.context_tokens()
        limit = self._config.max_new_tokens
        return limit if context is None else min(limit, context - prompt_tokens)

    def _completion(
        self,
        prompt_ids: Sequence[int],
        token_ids: list[int],
        stop_length: int | None,
        stop: Sequence[str],
    ) -> Completion:
        """Cut at the first end token or stop string; without either, the token limit ended it."""
        end_ids = _as_list(self._settings.eos_token_id)
        end = next((index for index, token_id in enumerate(token_ids) if token_id in end_ids), None)
        if end is not None and (stop_length is None or end < stop_length):
            kept = token_ids[:end]
            tokens = end + 1
        else:
            kept = token_ids[:stop_length]
            tokens = len(kept)
        text, stopped = cut(self._prompts.decode_after(prompt_ids, kept), stop)
        ended = stopped or end is not None or stop_length is not None
        return Completion(text, "stop" if ended else "length", tokens)


class _StopStrings:
    """Whether the last tokens of a row contain a stop string.

    The library's own criterion indexes the whole vocabulary first, which takes seconds for a
    tokenizer of 150,000 tokens.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._tail_tokens = tail_tokens(stop)

    def __call__(self, tokens: list[int]) -> bool:
        text = self._tokenizer.decode(
            tokens[-self._tail_tokens :], clean_up_tokenization_spaces=False
        )
        return any(string in text for string in self._stop)


def _problem_seed(request: Request, prompt: int) -> int:
    """The seed of a prompt; of a request without them, from the request's seed."""
    if request.problem_seeds:
        return request.problem_seeds[prompt]
    return int(stable_hash([request.seed, prompt])[:16], 16)


def tail_tokens(stop: Sequence[str]) -> int:
    """Number of last tokens to search for a stop string that the newest token completes.

    Each token holds a byte or more. One token is added, because some tokenizers drop a space at the
    start of what they decode.
    """
    return 1 + max((len(string.encode()) for string in stop), default=0)


def local_device(per_process: int = 1) -> str:
    """The first accelerator of this process, else the CPU.

    Of the processes that share a machine, the one with ``LOCAL_RANK`` r has `per_process` devices,
    of which number r · `per_process` is the first.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return "cpu"
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None:
        return accelerator.type
    number = int(local_rank) * per_process % torch.accelerator.device_count()
    return f"{accelerator.type}:{number}"


def is_out_of_memory(error: RuntimeError) -> bool:
    import torch

    message = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in message
        or "defaultcpuallocator" in message
    )


def _as_list(token_id: int | list[int] | None) -> list[int]:
    if token_id is None:
        return []
    return list(token_id) if isinstance(token_id, list | tuple) else [token_id]
