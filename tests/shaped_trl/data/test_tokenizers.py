"""Tokenizers trained on a corpus: round trips, special tokens, determinism, saving."""

from __future__ import annotations

import pytest
from shaped_eval.errors import UserError
from transformers import AutoTokenizer

from shaped_trl.data.tokenizers import train_tokenizer

TEXTS = ["a bb ccc a", "bb a d", "ccc ccc 3 1 4"]


@pytest.mark.parametrize("text", ["a bb 4", "  two  spaces\n\ttab", "π ≠ 3 🙂", "unseen Ünïcode"])
def test_bytes_lose_nothing(text):
    tokenizer = train_tokenizer(TEXTS, "bpe", 300)
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_words_decode_with_single_spaces():
    tokenizer = train_tokenizer(TEXTS, "word", 64)
    ids = tokenizer("a  bb\n4").input_ids
    assert len(ids) == 3
    assert tokenizer.decode(ids) == "a bb 4"


def test_an_unseen_word_is_unknown():
    tokenizer = train_tokenizer(TEXTS, "word", 64)
    assert tokenizer("a zebra").input_ids[1] == tokenizer.unk_token_id != tokenizer.pad_token_id


def test_the_most_frequent_words_stay():
    tokenizer = train_tokenizer(TEXTS, "word", 5)
    assert len(tokenizer) == 5
    assert {"a", "ccc"} < set(tokenizer.get_vocab())


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_special_tokens_are_skipped_and_never_added(kind):
    tokenizer = train_tokenizer(TEXTS, kind, 300)
    ids = tokenizer("a bb").input_ids
    assert {tokenizer.eos_token_id, tokenizer.pad_token_id}.isdisjoint(ids)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    ended = [*ids, tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(ended, skip_special_tokens=True) == "a bb"


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    tokenizer = train_tokenizer(TEXTS, kind, 300)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (
        loaded.get_vocab()
        == tokenizer.get_vocab()
        == train_tokenizer(iter(TEXTS), kind, 300).get_vocab()
    )
    assert loaded.decode(loaded("ccc 1 4").input_ids) == "ccc 1 4"
    assert (loaded.eos_token, loaded.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)


@pytest.mark.parametrize(
    ("kind", "vocab_size", "message"),
    [
        ("char", 300, "tokenizer_kind='char' does not exist: choose from bpe, word"),
        ("bpe", 258, "tokenizer_vocab_size=258 is too small for kind 'bpe': give at least 259"),
        ("word", 3, "tokenizer_vocab_size=3 is too small for kind 'word': give at least 4"),
    ],
)
def test_bad_arguments_are_refused(kind, vocab_size, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        train_tokenizer(TEXTS, kind, vocab_size)
