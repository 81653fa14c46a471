"""Who generates completions: one protocol, and the transformers backend behind it.

M samples generated together.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eval_suite.errors import UserError
from eval_suite.provenance import folder_fingerprint
from eval_suite.records import FinishReason

if TYPE_CHECKING:
    import torch

    from eval_suite.sample import SampleConfig

BACKENDS = ("transformers",)


@dataclass(frozen=True)
class Completion:
    """`text` ends before the stop string or end token; `tokens` counts either of them too."""

    text: str
    finish_reason: FinishReason
    tokens: int


class Backend(Protocol):
    """Generates the samples of one prompt. The same arguments give the same completions.

    `identity` says which weights these are, `device` where they run.
    """

    identity: str
    device: str

    def prompt_tokens(self, prompt: str) -> int:
        """Length of `prompt` in tokens, as `generate` would feed it."""
        ...

    def context_tokens(self) -> int | None:
        """Tokens of prompt and completion that the model can attend to; None where it does not say."""
        ...

    def generate(self, prompt: str, num_samples: int, seed: int, stop: Sequence[str]) -> list[Completion]:
        """`num_samples` completions of `prompt`, each ended by the model or by one of the strings `stop`."""
        ...


def check_backend(name: str) -> None:
    """Raise UserError for a backend that is not there."""
    if name not in BACKENDS:
        raise UserError(f"backend={name!r} is not available: use {' or '.join(BACKENDS)}")


def load_backend(config: SampleConfig) -> Backend:
    """The backend `config` names, its weights not yet loaded.

    Raises:
        UserError: an unknown backend, a model that is not there, a chat template that the tokenizer lacks.
    """
    check_backend(config.backend)
    return TransformersBackend(config)


def _from_pretrained(auto_class: Any, model: str, revision: str | None) -> Any:
    """Read a model's configuration or tokenizer; none of the repository's own code is run.

    Raises:
        UserError: neither a folder with a model nor a model on the Hub that this installation can read.
    """
    looks_local = Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1
    if looks_local and not Path(model).is_dir():
        raise UserError(f"model={model!r} does not exist: name a saved model's folder, or a model's Hub id")
    try:
        return auto_class.from_pretrained(model, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model={model!r} cannot be read, neither as a folder nor from the Hub, by {auto_class.__name__} "
            f"({reason}): check the spelling, the folder's files, the network and the access rights"
        ) from error


class TransformersBackend:
    """`generate` of transformers on one device: CUDA where there is one, else the CPU.

    The model's own generation settings are set aside (some ship top-k 20 or a repetition penalty); of them
    only the end tokens count. Temperature 0 is greedy. The M samples of a call are drawn from one seeded
    stream: which completions come out depends on M, and on device, thread count, dtype and library versions,
    but not on earlier calls. The random state of the process is left as it was. The weights are loaded by the
    first call of `generate`.
    """

    def __init__(self, config: SampleConfig) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self._config = config
        self._model_config = _from_pretrained(AutoConfig, config.model, config.revision)
        self._tokenizer = _from_pretrained(AutoTokenizer, config.model, config.revision)
        if Path(config.model).is_dir():
            self.identity = folder_fingerprint(config.model)
        else:
            self.identity = self._model_config._commit_hash or "unknown"
        if config.chat_template and not self._tokenizer.chat_template:
            raise UserError(f"chat_template=True, but the tokenizer of {config.model!r} has none: leave that flag out")
        self.device = _device()

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModelForCausalLM

        config = self._config
        model = AutoModelForCausalLM.from_pretrained(
            config.model, dtype=config.dtype, revision=config.revision, trust_remote_code=False
        )
        return model.eval().to(self.device)

    @cached_property
    def _settings(self) -> Any:
        """Everything that shapes a completion; it replaces the model's own settings."""
        from transformers import GenerationConfig

        config = self._config
        end_ids = _as_list(self._model.generation_config.eos_token_id)
        end_ids += [i for i in _as_list(self._tokenizer.eos_token_id) if i not in end_ids]
        pad_id = end_ids[0] if end_ids else self._tokenizer.pad_token_id or 0
        ends = {"eos_token_id": end_ids or None, "pad_token_id": pad_id}
        self._model.generation_config = GenerationConfig(**ends)
        sampling: dict[str, Any] = {"do_sample": False}
        if config.temperature > 0:
            sampling = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p}
            sampling["top_k"] = 0  # the library's own default is 50
        return GenerationConfig(max_new_tokens=config.max_new_tokens, **ends, **sampling)

    def _encode(self, prompt: str) -> torch.Tensor:
        """Token ids [1, tokens], with the tokenizer's own beginning, or in its chat template."""
        if self._config.chat_template:
            message = [{"role": "user", "content": prompt}]
            encoded = self._tokenizer.apply_chat_template(
                message, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            encoded = self._tokenizer(prompt, return_tensors="pt")
        return encoded["input_ids"]

    def prompt_tokens(self, prompt: str) -> int:
        return self._encode(prompt).shape[1]

    def context_tokens(self) -> int | None:
        return getattr(self._model_config.get_text_config(), "max_position_embeddings", None)

    def generate(self, prompt: str, num_samples: int, seed: int, stop: Sequence[str]) -> list[Completion]:
        import torch

        ids = self._encode(prompt).to(self.device).expand(num_samples, -1)
        watch = _StopStrings(self._tokenizer, stop, prompt_tokens=ids.shape[1], num_samples=num_samples)
        settings = copy.copy(self._settings)
        context = self.context_tokens()
        if context is not None:
            settings.max_new_tokens = min(settings.max_new_tokens, context - ids.shape[1])
        cuda_devices = [torch.cuda.current_device()] if self.device == "cuda" else []
        with torch.random.fork_rng(devices=cuda_devices):
            torch.manual_seed(seed)
            output = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=settings,
                stopping_criteria=[watch] if stop else None,
            )
        generated = output[:, ids.shape[1] :].tolist()
        return [
            self._completion(token_ids, stop_length, stop)
            for token_ids, stop_length in zip(generated, watch.lengths, strict=True)
        ]

    def _completion(self, token_ids: list[int], stop_length: int | None, stop: Sequence[str]) -> Completion:
        """Cut at the first end token or stop string; without either, the token limit ended it."""
        end_ids = _as_list(self._settings.eos_token_id)
        end = next((index for index, token_id in enumerate(token_ids) if token_id in end_ids), None)
        if end is not None and (stop_length is None or end < stop_length):
            kept, tokens = token_ids[:end], end + 1
        else:
            kept = token_ids[:stop_length]
            tokens = len(kept)
        text = self._tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cuts = [position for position in map(text.find, stop) if position >= 0]
        ended = end is not None or stop_length is not None
        return Completion(text[: min(cuts)] if cuts else text, "stop" if ended else "length", tokens)


class _StopStrings:
    """Stopping criterion of `generate` that ends a row when a stop string shows in its last tokens.

    `lengths` [M]: the tokens generated when that happened, None where it did not. A token holds at least one
    byte, which bounds how far back a stop string can begin. (The library's own criterion indexes the whole
    vocabulary first: seconds for a tokenizer of 150,000.)
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], prompt_tokens: int, num_samples: int) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._prompt_tokens = prompt_tokens
        # One more, for some tokenizers drop a space at the start of what they decode.
        self._tail_tokens = 1 + max((len(string.encode()) for string in stop), default=0)
        self.lengths: list[int | None] = [None] * num_samples

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        import torch

        generated = input_ids.shape[1] - self._prompt_tokens
        tails = input_ids[:, -min(generated, self._tail_tokens) :].tolist()
        for row, text in enumerate(self._tokenizer.batch_decode(tails, clean_up_tokenization_spaces=False)):
            if self.lengths[row] is None and any(string in text for string in self._stop):
                self.lengths[row] = generated
        return torch.tensor([length is not None for length in self.lengths], device=input_ids.device)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _as_list(token_id: int | list[int] | None) -> list[int]:
    if token_id is None:
        return []
    return list(token_id) if isinstance(token_id, list | tuple) else [token_id]
