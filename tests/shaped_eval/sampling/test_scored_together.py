"""How many options are scored at once."""

import pytest
from shaped_eval.sampling.likelihood import scored_together
from transformers import Gemma3Config, Qwen3Config


@pytest.mark.parametrize(
    ("vocabulary", "together"),
    [(384, 32), (65_536, 32), (151_936, 13), (262_144, 8), (5_000_000, 1)],
)
def test_a_large_vocabulary_has_fewer_options_at_once(vocabulary, together):
    assert scored_together(Qwen3Config(vocab_size=vocabulary)) == together
    # a model of texts and pictures has its vocabulary one level lower
    nested = Gemma3Config(text_config={"vocab_size": vocabulary})
    assert scored_together(nested) == together
