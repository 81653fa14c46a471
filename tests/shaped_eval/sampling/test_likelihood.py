"""Options whose likelihoods a broken model gives."""

from __future__ import annotations

import pytest
import torch
from harness_data import write_byte_model
from shaped_eval.errors import UserError
from shaped_eval.records import Problem
from shaped_eval.sampling.likelihood import OptionScorer
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.mark.parametrize("values", [[-1.0, torch.nan], [torch.nan] * 2, [-torch.inf] * 2])
def test_a_model_whose_likelihoods_are_not_numbers_chooses_nothing(tmp_path, values, monkeypatch):
    """It would choose the first option everywhere, which looks like a score."""
    folder = write_byte_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    scorer = OptionScorer(model, AutoTokenizer.from_pretrained(folder), 4, None)
    problem = Problem("p/0", "p", "Q", "A", "choice", {"continuations": [" a", " b"]})
    pairs = [(value, False) for value in values]
    monkeypatch.setattr(scorer._lm, "loglikelihood", lambda *_, **__: pairs)
    with pytest.raises(UserError, match=r"p/0: .* not finite"):
        scorer.score([problem])
    pairs[:] = [(-1.0, False), (-torch.inf, False)]  # an option that cannot come
    assert scorer.score([problem])[0].loglikelihoods == [-1.0, -torch.inf]
