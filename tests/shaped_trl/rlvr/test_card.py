"""The card of an RL model names the shape of its prior, and asks a question of the task."""

import pytest
from rlvr_tiny import rlvr_arguments, rlvr_trainer, scripted, scripted_prompts
from shaped_kernels import RewardShape
from transformers import Qwen3Config

from shaped_trl.hub.cards import ModelFact, example_prompt
from shaped_trl.hub.facts import DataFact
from shaped_trl.modeling.noted_shape import note_shape, shape_in_words

GSM8K = DataFact("openai/gsm8k", on_hub=True)
CHAT = [{"role": "user", "content": "1+1?\n```\n\u202e"}]


def test_the_card_and_the_configuration_carry_the_shape_of_the_prior(tmp_path):
    trainer = rlvr_trainer(rlvr_arguments(tmp_path), scripted, scripted_prompts())
    trainer.create_model_card()
    assert "The prior was trained" not in (tmp_path / "README.md").read_text()
    shape = RewardShape(beta=-0.25, lambda_tail=-0.1)
    note_shape(trainer.model.config, shape)
    trainer.example_prompt = "w1 w2"
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "): beta = -0.25, lambda_tail = -0.1, positive = exponent." in card
    assert 'inputs = tokenizer("w1 w2", return_tensors="pt")' in card
    assert Qwen3Config.from_pretrained(tmp_path).reward_shape["beta"] == -0.25


@pytest.mark.parametrize(
    ("shape", "scheduled", "words"),
    [
        (RewardShape(), (), "cross-entropy"),
        (RewardShape(top_k=5, lambda_head=0.1), (), "lambda_head = 0.1, top_k = 5"),
        (RewardShape(), ("beta",), "beta scheduled, positive = exponent"),
        (RewardShape(beta=0.5, positive="product"), (), "beta = 0.5, positive = product"),
    ],
    ids=["cross-entropy", "head", "scheduled", "product"],
)
def test_a_shape_in_words(shape, scheduled, words):
    config = Qwen3Config()
    note_shape(config, shape, scheduled)
    assert shape_in_words(config) == words


@pytest.mark.parametrize(
    "noted",
    [None, "beta", {"beta": "<b>"}, {"positive": "<b>"}, {"beta": float("nan")}, {"top_k": [1]}],
    ids=str,
)
def test_what_another_persons_configuration_says_is_not_shown(noted):
    config = Qwen3Config()
    config.reward_shape = noted
    assert shape_in_words(config) is None


@pytest.mark.parametrize(
    ("data", "prompt", "shown"),
    [
        ([GSM8K], "1+1?", "1+1?"),
        ([GSM8K], CHAT, CHAT),
        ([DataFact("reasoning_gym/chain_sum")], "1+1?", "1+1?"),
        ([DataFact("mine.jsonl")], "1+1?", None),
        ([DataFact("me/private", on_hub=True)], "1+1?", None),
        ([GSM8K], "1" * 2000, None),
        ([], "1+1?", None),
    ],
    ids=["text", "chat", "generated", "file", "perhaps private", "long", "unknown"],
)
def test_only_short_public_prompts_get_into_a_card(data, prompt, shown):
    assert example_prompt(prompt, data) == shown


def test_a_prompt_cannot_leave_its_line_of_the_example():
    model = ModelFact(None, False, adapter=False, chat=True)
    lines = model.quick_start("me/model", CHAT).splitlines()
    (line,) = [line for line in lines if line.startswith("messages = ")]
    assert eval(line.partition(" = ")[2]) == CHAT
    assert line.isascii()
    assert sum(line.startswith("```") for line in lines) == 2
    assert any("What is 17 + 25?" in line for line in model.quick_start("me/model").splitlines())
