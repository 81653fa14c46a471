"""The temperature that matches another model's entropy, compared with plain logits."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from shaped_eval.errors import UserError
from shaped_eval.records import append_jsonl, read_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from shaped_trl import recipes
from shaped_trl.cli import main as shaped_trl
from shaped_trl.data.running_sums import write_corpus
from shaped_trl.study.running.temperature import _moved, main, solve


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a few steps of the demo's model."""
    folder = tmp_path_factory.mktemp("temperature")
    write_corpus(folder, train_rows=512, heldout_rows=16, rl_rows=1)
    settings = recipes.load(recipes.find("demo/pretrain")) | {
        "dataset_name": str(folder / "train.jsonl"),
        "dataset_test_split": str(folder / "heldout.jsonl"),
        "max_steps": 4,
        "per_device_train_batch_size": 16,
        "lr_scheduler_kwargs": {"num_decay_steps": 1, "decay_type": "linear"},
        "warmup_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": "none",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    assert (
        shaped_trl(
            ["train", "--config", str(folder / "recipe.yaml"), "--output_dir", str(folder / "run")]
        )
        == 0
    )
    return folder


def plain_entropy(folder, temperature: float) -> float:
    """Mean entropy over the held-out completions' tokens, of softmax(z/T) in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder / "run")
    tokenizer = AutoTokenizer.from_pretrained(folder / "run")
    entropies = []
    for row in read_jsonl(folder / "heldout.jsonl"):
        prompt = tokenizer(row["prompt"])["input_ids"]
        ids = tokenizer(row["prompt"] + row["completion"])["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            logits = (
                model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].double() / temperature
            )
        entropies += torch.distributions.Categorical(logits=logits).entropy().tolist()
    return sum(entropies) / len(entropies)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_the_temperature_is_found_that_gives_the_entropy(trained, temperature, tmp_path):
    target = plain_entropy(trained, temperature)
    (tmp_path / "like").mkdir()
    append_jsonl(tmp_path / "like" / "train_log.jsonl", [{"step": 1, "eval_entropy": 9.0}])
    append_jsonl(tmp_path / "like" / "train_log.jsonl", [{"step": 2, "eval_entropy": target}])
    before = (trained / "run" / "train_log.jsonl").read_bytes()
    words = ["--model", trained / "run", "--like", tmp_path / "like", "--out", tmp_path / "found"]
    assert main(["match", *map(str, words)]) == 0
    found = json.loads((tmp_path / "found" / "temperature.json").read_text())
    assert found["temperature"] == pytest.approx(temperature, rel=2e-3)
    assert found["entropy_at_1"] == pytest.approx(plain_entropy(trained, 1.0), abs=1e-5)
    assert found["entropy"] == pytest.approx(plain_entropy(trained, found["temperature"]), abs=1e-5)
    assert (trained / "run" / "train_log.jsonl").read_bytes() == before


@pytest.mark.slow
def test_it_is_found_on_what_a_streamed_mixture_holds_out(trained, tmp_path):
    """As in `studies/qwen3-0.6b`, with one split, decontamination and a token budget."""
    (tmp_path / "text.jsonl").write_text((trained / "train.jsonl").read_text())
    settings = recipes.load(trained / "recipe.yaml")
    for key in ("dataset_name", "dataset_test_split", "max_steps"):
        del settings[key]
    settings |= {
        "packing": True,
        "streaming": True,
        "train_tokens": "2K",
        "num_heldout": 8,
        "eval_strategy": "steps",
    }
    settings |= {
        "mixture": [{"dataset_name": str(tmp_path / "text.jsonl"), "weight": 1.0}],
        "eval_steps": 1,
    }
    gsm8k = tmp_path / "mirror" / "openai" / "gsm8k" / "main"
    gsm8k.mkdir(parents=True)
    (gsm8k / "test.jsonl").write_text('{"question": "What is 2 + 2?", "answer": "#### 4"}\n')
    settings |= {"decontaminate": ["gsm8k"], "hub_mirror": str(tmp_path / "mirror")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    assert (
        shaped_trl(
            [
                "train",
                "--config",
                str(tmp_path / "recipe.yaml"),
                "--output_dir",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    assert "| 100.00% | 8 rows |" in (tmp_path / "run" / "README.md").read_text()
    log = [row for row in read_jsonl(tmp_path / "run" / "train_log.jsonl") if "eval_entropy" in row]
    target = 0.98 * log[-1]["eval_entropy"]
    (tmp_path / "like").mkdir()
    append_jsonl(tmp_path / "like" / "train_log.jsonl", [{"step": 1, "eval_entropy": target}])
    words = ["--model", tmp_path / "run", "--like", tmp_path / "like", "--out", tmp_path / "found"]
    assert main(["match", *map(str, words)]) == 0
    found = json.loads((tmp_path / "found" / "temperature.json").read_text())
    assert found["temperature"] < 1
    assert found["entropy_at_1"] == pytest.approx(log[-1]["eval_entropy"], rel=1e-6)
    assert found["entropy"] == pytest.approx(target, rel=2e-3)


@pytest.mark.slow
def test_an_entropy_that_no_temperature_gives_is_refused(trained, tmp_path):
    (tmp_path / "like").mkdir()
    append_jsonl(tmp_path / "like" / "train_log.jsonl", [{"step": 1, "eval_entropy": 99.0}])
    words = ["--model", trained / "run", "--like", tmp_path / "like", "--out", tmp_path / "found"]
    with pytest.raises(UserError, match="no temperature in"):
        main(["match", *map(str, words)])


@pytest.mark.parametrize("wanted", [0.06, 0.7, 0.9, 1.0, 1.2, 19.0])
def test_the_temperature_that_is_found_has_the_entropy(wanted):
    tried = []
    found = solve(lambda t: tried.append(t) or t**2, wanted**2, "m", 1e-6)
    assert found["temperature"] == pytest.approx(wanted, rel=1e-5)
    assert found["entropy_at_1"] == 1.0
    assert len(tried) == len(set(tried)), "no temperature is measured twice"


@pytest.mark.parametrize(("at_1", "wanted"), [(math.nan, 1.0), (1.0, math.inf)])
def test_the_entropy_of_a_model_that_diverged_is_refused(at_1, wanted):
    with pytest.raises(UserError, match=r"^m: entropies of .* a model has diverged$"):
        solve(lambda temperature: at_1, wanted, "m", 1e-6)


def test_of_several_temperatures_the_nearest_to_1_is_found():
    """The rollouts of a policy with two strategies: cold, it takes the one that guesses."""

    def entropy(temperature):
        share = 1 / (1 + math.exp(-4 * math.log(temperature) - 1.4))
        return share * 1.1 * temperature + (1 - share) * 1.2

    assert entropy(0.05) > 1.1 > entropy(0.85)
    found = solve(entropy, 1.1, "m", 1e-6)["temperature"]
    assert 0.85 < found < 1
    assert entropy(found) == pytest.approx(1.1, abs=1e-5)
    with pytest.raises(UserError, match=r"at 1 it is 1\.1\d+, at 0\.05 1\.\d+\. If .* held_out"):
        solve(entropy, 0.5, "m", 1e-6)


def test_data_are_found_where_a_study_was_moved(tmp_path):
    settings = {
        "dataset_name": "/old/cpu/data/P/train.jsonl",
        "dataset_test_split": "/old/cpu/data/P/heldout.jsonl",
    }
    settings["output_dir"] = "/old/cpu/runs/P/a/seed0/pretrain"
    assert _moved(settings, tmp_path / "new/runs/P/a/seed0/pretrain") == [
        *("--dataset_name", str(tmp_path / "new/data/P/train.jsonl")),
        *("--dataset_test_split", str(tmp_path / "new/data/P/heldout.jsonl")),
    ]
    assert _moved(settings, Path(settings["output_dir"])) == []
    assert (
        _moved({"output_dir": "/old/run", "dataset_name": "openai/gsm8k"}, tmp_path / "run") == []
    )
