"""Encodes a prompt as the token ids that a model is fed, for backends that run in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.pretrained import (
    check_model_folder,
    model_fingerprint,
    read_pretrained,
)
from shaped_eval.untrusted.weights import check_weights

# Last tokens of a prompt after which its completion is decoded: more than a chat template ends with
# special ones, which have no text.
CONTEXT_OF_DECODING = 16

if TYPE_CHECKING:
    from shaped_eval.config import SampleConfig


def from_pretrained(auto_class: Any, config: SampleConfig, **options: Any) -> Any:
    """Read the part of `config.model` that `auto_class` stands for.

    Code from the model's repository runs only if `config.trust_remote_code` is set.

    Raises:
        UserError: `config.model` is neither a folder with a model nor a model on the Hub that this
            installation can read, or it needs code of its own.
    """
    model = config.model
    trusted = config.trust_remote_code
    check_model_folder(model)
    return read_pretrained(
        auto_class, model, trust_remote_code=trusted, revision=config.revision, **options
    )


class PromptEncoder:
    """The configuration and tokenizer of `config.model`, without its weights.

    Attributes:
        dtype: of the weights that the run uses, such as ``"bfloat16"``; None where the
            checkpoint's configuration does not say.

    Raises:
        UserError: the model does not exist, or its tokenizer lacks the chat template that is asked
            for.
    """

    def __init__(self, config: SampleConfig) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.model_config = from_pretrained(AutoConfig, config)
        self.tokenizer = from_pretrained(AutoTokenizer, config)
        check_weights(config.model, "model", needed=config.backend == "transformers")
        self.dtype = weights_dtype(self.model_config) if config.dtype == "auto" else config.dtype
        self.chat_template = config.chat_template
        if config.chat_template and not self.tokenizer.chat_template:
            raise UserError(
                f"chat_template=True, but the tokenizer of {config.model!r} has no chat template: "
                "leave the flag out"
            )
        if Path(config.model).is_dir():
            self.identity = model_fingerprint(config.model)
        else:
            self.identity = self.model_config._commit_hash or "unknown"

    def encode(self, prompt: str) -> list[int]:
        """Token ids, with the tokenizer's own start tokens or in its chat template."""
        if self.chat_template:
            message = [{"role": "user", "content": prompt}]
            encoded = self.tokenizer.apply_chat_template(
                message, add_generation_prompt=True, return_dict=True
            )
        else:
            encoded = self.tokenizer(prompt)
        return list(encoded["input_ids"])

    def decode_after(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """The text that the tokens `ids` add to a prompt: see the function `decode_after`."""
        return decode_after(self.tokenizer, prompt_ids, ids)

    def context_tokens(self) -> int | None:
        """The model's context length in tokens; None where its configuration does not say."""
        return getattr(self.model_config.get_text_config(), "max_position_embeddings", None)


def decode_after(tokenizer: Any, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
    """The text that the tokens `ids` add to a prompt, without special tokens.

    Decoded alone, a completion would lose its first space with the tokenizers that drop one at the
    beginning of a text, such as Llama 2's.
    """

    def decode(these: Sequence[int]) -> str:
        return tokenizer.decode(these, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    context = list(prompt_ids[-CONTEXT_OF_DECODING:])
    before, text = decode(context), decode([*context, *ids])
    # a tokenizer may write the same tokens in another way when more follow
    return text[len(before) :] if text.startswith(before) else decode(ids)


def weights_dtype(model_config: Any) -> str | None:
    """The dtype that a checkpoint's configuration names; a part for text may name its own."""
    dtype = model_config.dtype or model_config.get_text_config().dtype
    return None if dtype is None else str(dtype).removeprefix("torch.")
