"""Tokenizers that decode as two families do."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PROMPT = "def add(a, b):\n"
BODY = "    return a + b"
ALPHABET = sorted(set(PROMPT + BODY + "é🙂") - {" ", "\n", "é", "🙂"})


def like_llama_2() -> PreTrainedTokenizerFast:
    """Spaces are ▁, one is put before a text, and the decoder takes one from its beginning."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    core = Tokenizer(
        models.BPE(
            {name: i for i, name in enumerate(["<eos>", "<unk>", *bytes_, "▁", "▁▁", *ALPHABET])},
            [("▁", "▁")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>")


def like_gpt_2() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({"<eos>": 0} | {one: i for i, one in enumerate(alphabet, 1)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>")
