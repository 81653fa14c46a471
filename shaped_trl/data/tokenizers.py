"""Tokenizers trained on a corpus, for models trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable

from shaped_eval.errors import UserError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END, PAD, UNKNOWN = "<|endoftext|>", "<|pad|>", "<|unk|>"
KINDS = ("bpe", "word")


def train_tokenizer(texts: Iterable[str], kind: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer that is trained on a corpus; the same texts give the same one.

    Args:
        texts: the corpus, which is read once.
        kind: "bpe" is byte-level, so that no text is unknown and decoding restores it; "word"
            splits at white space, and decoding joins the words with single spaces.
        vocab_size: most tokens of the vocabulary, special tokens included.

    Raises:
        UserError: the kind is unknown, or the vocabulary is too small for the special tokens and
            the alphabet.
    """
    if kind not in KINDS:
        raise UserError(f"tokenizer_kind={kind!r} does not exist: choose from {', '.join(KINDS)}")
    smallest = 259 if kind == "bpe" else 4
    if vocab_size < smallest:
        raise UserError(
            f"tokenizer_vocab_size={vocab_size} is too small for kind {kind!r}: "
            f"give at least {smallest}"
        )
    tokenizer = _byte_level_bpe(texts, vocab_size) if kind == "bpe" else _words(texts, vocab_size)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN if kind == "word" else None,
        clean_up_tokenization_spaces=False,
    )


def _byte_level_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _words(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size, special_tokens=[END, PAD, UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
