"""`generate` of transformers, one request at a time: the backend with repeatable samples.

Letters: P prompts of a request, M samples of each.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shaped_eval.backends.base import Completion, Completions, Request, cut
from shaped_eval.backends.prompts import PromptEncoder, from_pretrained
from shaped_eval.errors import UserError

if TYPE_CHECKING:
    import torch

    from shaped_eval.config import SampleConfig


class TransformersBackend:
    """`generate` of transformers on one device: CUDA where it is available, else the CPU.

    Of the model's own generation settings only the end tokens are used, because some models ship
    top-k 20 or a repetition penalty. Temperature 0 is greedy. The P·M samples of a request are
    drawn from one seeded stream. The completions depend on P and M, and on device, thread count,
    dtype and library versions, but not on earlier requests. The prompts of a request have equal
    lengths, because padding would change the arithmetic and, in some architectures, what is
    attended to. The random state of the process is left unchanged.
    """

    repeatability = (
        "exact: on the same machine, versions and threads, the same samples, however often "
        "interrupted"
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
        """All settings of generation; they replace the model's own."""
        return self._make_settings(self._config.temperature)

    @cached_property
    def _greedy_settings(self) -> Any:
        return self._make_settings(0.0)

    def _make_settings(self, temperature: float) -> Any:
        from transformers import GenerationConfig

        config = self._config
        end_ids = _as_list(self._model.generation_config.eos_token_id)
        end_ids += [i for i in _as_list(self._tokenizer.eos_token_id) if i not in end_ids]
        pad_id = end_ids[0] if end_ids else self._tokenizer.pad_token_id or 0
        ends = {"eos_token_id": end_ids or None, "pad_token_id": pad_id}
        self._model.generation_config = GenerationConfig(**ends)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": config.top_p}
            sampling["top_k"] = 0  # the library's own default is 50
        return GenerationConfig(max_new_tokens=config.max_new_tokens, **ends, **sampling)

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
        import torch

        encoded = [self._prompts.encode(prompt) for prompt in request.prompts]
        ids = torch.tensor(encoded, device=self.device)
        ids = ids.repeat_interleave(request.num_samples, dim=0)
        watch = _StopStrings(
            self._tokenizer, request.stop, prompt_tokens=ids.shape[1], num_rows=len(ids)
        )
        settings = copy.copy(self._greedy_settings if request.greedy else self._settings)
        settings.max_new_tokens = self._room(ids.shape[1])
        cuda_devices = [ids.device.index or 0] if ids.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda_devices):
            torch.manual_seed(request.seed)
            try:
                output = self._model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    generation_config=settings,
                    stopping_criteria=[watch] if request.stop else None,
                )
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise UserError(
                    f"batch_size={self._config.batch_size}: {len(ids)} samples of {ids.shape[1]} "
                    f"+ {settings.max_new_tokens} tokens do not fit at once in the memory of "
                    f"{self.device}: use a smaller --batch_size, and another --out, because the "
                    "batch size is part of what determines the samples"
                ) from error
        generated = output[:, ids.shape[1] :].tolist()
        return [
            self._completion(
                encoded[row // request.num_samples], token_ids, stop_length, request.stop
            )
            for row, (token_ids, stop_length) in enumerate(
                zip(generated, watch.lengths, strict=True)
            )
        ]

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
    """Stopping criterion of `generate` that ends a row when its last tokens contain a stop string.

    `lengths` [P·M]: the number of tokens generated by then, None where no stop string occurred. The
    library's own criterion indexes the whole vocabulary first, which takes seconds for a tokenizer
    of 150,000 tokens.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], prompt_tokens: int, num_rows: int
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._prompt_tokens = prompt_tokens
        self._tail_tokens = tail_tokens(stop)
        self.lengths: list[int | None] = [None] * num_rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        import torch

        generated = input_ids.shape[1] - self._prompt_tokens
        tails = input_ids[:, -min(generated, self._tail_tokens) :].tolist()
        for row, text in enumerate(
            self._tokenizer.batch_decode(tails, clean_up_tokenization_spaces=False)
        ):
            if self.lengths[row] is None and any(string in text for string in self._stop):
                self.lengths[row] = generated
        return torch.tensor(
            [length is not None for length in self.lengths], device=input_ids.device
        )


def tail_tokens(stop: Sequence[str]) -> int:
    """Number of last tokens to search for a stop string that the newest token completes.

    Each token holds a byte or more. One token is added, because some tokenizers drop a space at the
    start of what they decode.
    """
    return 1 + max((len(string.encode()) for string in stop), default=0)


def local_device(per_process: int = 1) -> str:
    """The first GPU of this process, else the CPU.

    Of the processes that share a machine, the one with ``LOCAL_RANK`` r has `per_process` GPUs, of
    which number r · `per_process` is the first.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None:
        return "cuda"
    return f"cuda:{int(local_rank) * per_process % torch.cuda.device_count()}"


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
