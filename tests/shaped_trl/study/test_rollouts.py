"""The entropy of rollouts, compared with enumeration, and the temperature that matches it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from shaped_eval.records import append_jsonl
from tiny import WORDS, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM

from shaped_trl.modeling.divided_head import divide_head
from shaped_trl.study.running import rollouts
from shaped_trl.study.running.rollouts import Rollouts
from shaped_trl.study.running.temperature import main

PROMPTS = [" ".join(WORDS[:length]) for length in (1, 4, 2, 7)]  # they need padding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with unequal logits, the prompts and a recipe of RL."""
    folder = tmp_path_factory.mktemp("rollouts")
    model = tiny_model(seed=3)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(15)
    model.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    append_jsonl(folder / "prompts.jsonl", [{"prompt": text, "gold": "a"} for text in PROMPTS])
    recipe = {
        "dataset_name": str(folder / "prompts.jsonl"),
        "grader": "exact_match",
        "num_generations": 4,
        "per_device_train_batch_size": 4,
        "max_completion_length": 2,
        "use_cpu": True,
        "bf16": False,
        "output_dir": str(folder / "unused"),
        "report_to": "none",
    }
    (folder / "rlvr.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def reader(folder: Path, *flags: str) -> Rollouts:
    return Rollouts(str(folder / "rlvr.yaml"), ["--seed", "5", *flags], folder / "model")


def next_log_probs(model: torch.nn.Module, ids: list[int], temperature: float) -> Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return (logits.double() / temperature).log_softmax(-1)


def entropy_of(log_probs: Tensor) -> float:
    return float(-(log_probs.exp() * log_probs).sum())


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_entropy_of_the_first_token_is_exact(folder: Path, temperature: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = tiny_tokenizer()
    wanted = [
        entropy_of(next_log_probs(model, tokenizer(text)["input_ids"], temperature))
        for text in PROMPTS
    ]
    found = reader(folder, "--max_completion_length", "1").entropy(folder / "model", temperature)
    assert found == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)


def test_the_entropy_of_two_tokens_agrees_with_enumeration(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completions that end with their first token have no second one."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer, temperature, per_prompt = tiny_tokenizer(), 0.8, 4_000
    total, first_total, count, variance = 0.0, 0.0, 0.0, 0.0
    for text in PROMPTS:
        ids = tokenizer(text)["input_ids"]
        first = next_log_probs(model, ids, temperature)
        chances, seconds = first.exp(), torch.zeros_like(first)
        chances[tokenizer.eos_token_id] = 0
        for token in chances.nonzero().flatten().tolist():
            seconds[token] = entropy_of(next_log_probs(model, [*ids, token], temperature))
        second = float(chances @ seconds)
        first_total += entropy_of(first)
        total, count = total + entropy_of(first) + second, count + 1 + float(chances.sum())
        variance += (float(chances @ seconds**2) - second**2) / per_prompt
    monkeypatch.setattr(rollouts, "PER_PROMPT", per_prompt)
    found = reader(folder).entropy(folder / "model", temperature)
    error = variance**0.5 / count
    assert found == pytest.approx(total / count, abs=4 * error)
    assert abs(first_total / len(PROMPTS) - total / count) > 5 * error, "one token is not enough"


def test_the_temperature_of_a_divided_head_is_found_again(folder: Path, tmp_path: Path) -> None:
    like = AutoModelForCausalLM.from_pretrained(folder / "model")
    divide_head(like, 0.8)
    like.save_pretrained(tmp_path / "like")
    words = ["--model", folder / "model", "--like", tmp_path / "like", "--out", tmp_path / "out"]
    given = ["--rollouts", str(folder / "rlvr.yaml"), "--max_completion_length", "6"]
    assert main(["divide", *map(str, words), *given]) == 0
    found = json.loads((tmp_path / "out" / "temperature.json").read_text())
    assert found["temperature"] == pytest.approx(0.8, rel=1e-2)
    assert found["entropy"] == pytest.approx(found["wanted"], rel=1e-2)
    ids = torch.tensor([[3, 4, 5]])
    divided, model = (
        AutoModelForCausalLM.from_pretrained(each) for each in (tmp_path / "out", folder / "model")
    )
    with torch.no_grad():
        torch.testing.assert_close(
            divided(ids).logits * found["temperature"], model(ids).logits, rtol=1e-5, atol=1e-5
        )


def test_entropies_are_those_at_the_temperature_of_the_recipe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temperature that is found multiplies the recipe's."""
    measured = []

    def entropy(self: Rollouts, model: Path, temperature: float) -> float:
        measured.append((model.name, temperature))
        return 0.9 * temperature if model.name == "like" else temperature

    monkeypatch.setattr(Rollouts, "entropy", entropy)
    words = ["--model", folder / "model", "--like", tmp_path / "like", "--out", tmp_path / "out"]
    given = ["--rollouts", str(folder / "rlvr.yaml"), "--temperature", "0.7"]
    assert main(["match", *map(str, words), *given]) == 0
    assert [each for each in measured if each[0] == "like"] == [("like", 0.7)]
    found = json.loads((tmp_path / "out" / "temperature.json").read_text())
    assert found["temperature"] == pytest.approx(0.9, rel=1e-2)


def test_a_given_temperature_divides_the_head(folder: Path, tmp_path: Path) -> None:
    words = ["--model", str(folder / "model"), "--temperature", "0.5", "--out", str(tmp_path)]
    assert main(["divide", *words]) == 0
    assert json.loads((tmp_path / "temperature.json").read_text()) == {"temperature": 0.5}
    assert (tmp_path / "tokenizer.json").exists()
