"""A prompt as the token ids that a model is fed, for the backends that run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_suite.errors import UserError
from eval_suite.provenance import folder_fingerprint
from eval_suite.weights import check_weights

if TYPE_CHECKING:
    from eval_suite.sample import SampleConfig


def from_pretrained(auto_class: Any, model: str, revision: str | None) -> Any:
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


class Prompts:
    """Configuration and tokenizer of `config.model`; the weights stay where they are.

    Raises:
        UserError: a model that is not there, a chat template that the tokenizer lacks.
    """

    def __init__(self, config: SampleConfig) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.model_config = from_pretrained(AutoConfig, config.model, config.revision)
        self.tokenizer = from_pretrained(AutoTokenizer, config.model, config.revision)
        check_weights(config.model, "model", needed=config.backend == "transformers")
        self.chat_template = config.chat_template
        if config.chat_template and not self.tokenizer.chat_template:
            raise UserError(f"chat_template=True, but the tokenizer of {config.model!r} has none: leave that flag out")
        if Path(config.model).is_dir():
            self.identity = folder_fingerprint(config.model)
        else:
            self.identity = self.model_config._commit_hash or "unknown"

    def encode(self, prompt: str) -> list[int]:
        """Token ids, with the tokenizer's own beginning, or in its chat template."""
        if self.chat_template:
            message = [{"role": "user", "content": prompt}]
            encoded = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)
        else:
            encoded = self.tokenizer(prompt)
        return list(encoded["input_ids"])

    def context_tokens(self) -> int | None:
        """The model's context, None where its configuration does not say."""
        return getattr(self.model_config.get_text_config(), "max_position_embeddings", None)
