"""A model with a divided head is the model at a temperature, saved as a plain model."""

import pytest
import torch
from causal_models import tiny_causal_lm
from shaped_eval.errors import UserError
from tiny import tiny_model
from transformers import AutoModelForCausalLM, Gemma2ForCausalLM, GPT2LMHeadModel, PhiForCausalLM

from shaped_trl.modeling.divided_head import divide_head


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits.double()


def entropy(logits):
    return torch.distributions.Categorical(logits=logits).entropy()


def reloaded(model, folder):
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_greedy_text_stays_and_entropy_at_1_is_that_at_the_temperature(tied, temperature, tmp_path):
    torch.manual_seed(0)
    model = tiny_model(tie_word_embeddings=tied).eval()
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(20)  # logits that differ, as after training
    prompts = torch.randint(1, model.config.vocab_size, (8, 5))
    before = logits_of(model, prompts)
    greedy = model.generate(prompts, do_sample=False, max_new_tokens=20)
    inputs = model.get_input_embeddings().weight.clone()
    divide_head(model, temperature)
    saved = reloaded(model, tmp_path)
    assert not saved.config.tie_word_embeddings
    assert torch.equal(saved.get_input_embeddings().weight, inputs)
    difference = (entropy(logits_of(saved, prompts)) - entropy(before / temperature)).abs().max()
    assert difference < 1e-5
    assert entropy(before).mean() - entropy(before / temperature).mean() != pytest.approx(
        0, abs=0.1
    )
    again = saved.generate(prompts, do_sample=False, max_new_tokens=20)
    for own, other in zip(greedy, again, strict=True):
        apart = (own != other).nonzero()
        if len(apart):  # only where the two likeliest tokens are equal up to rounding
            place = int(apart[0])
            likeliest = logits_of(saved, own[None, :place])[0, -1].log_softmax(-1).topk(2).values
            assert likeliest[0] - likeliest[1] < 1e-4


def test_a_bias_is_divided_and_16_bits_become_32(tmp_path):
    torch.manual_seed(1)
    model = tiny_causal_lm(PhiForCausalLM).eval()
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
    model = model.bfloat16()
    ids = torch.tensor([[1, 5, 9, 2]])
    wanted = logits_of(model.float(), ids) / 0.7
    divide_head(model.bfloat16(), 0.7)
    saved = reloaded(model, tmp_path)
    assert saved.dtype == torch.float32
    torch.testing.assert_close(logits_of(saved, ids), wanted, rtol=1e-5, atol=1e-5)


def test_other_tied_architectures_reload_untied(tmp_path):
    torch.manual_seed(2)
    model = tiny_causal_lm(GPT2LMHeadModel).eval()
    ids = torch.tensor([[1, 5, 9, 2]])
    wanted = logits_of(model, ids) / 0.7
    divide_head(model, 0.7)
    torch.testing.assert_close(
        logits_of(reloaded(model, tmp_path), ids), wanted, rtol=1e-5, atol=1e-5
    )


def test_a_model_with_capped_logits_is_refused():
    model = tiny_causal_lm(Gemma2ForCausalLM)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(100)
    with pytest.raises(UserError, match="not linear in its head"):
        divide_head(model, 0.5)
    with pytest.raises(UserError, match="temperature=0"):
        divide_head(model, 0)
