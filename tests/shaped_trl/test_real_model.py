"""SmolLM2 through all commands: three steps of train and rlvr, an adapter, its merge, and eval."""

from __future__ import annotations

import json
import math

import pytest
from shaped_eval.records import read_jsonl
from smollm2 import MODEL, needs_smollm2, real

from shaped_trl import cli

pytestmark = [real, needs_smollm2]
SUMS = [(a, b) for a in range(2, 10) for b in range(2, 10)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of few-shot sums to ask, and one of solved sums to train on."""
    folder = tmp_path_factory.mktemp("real")
    shots = "2+3=5\n7+4=11\n"
    asked = [{"prompt": f"{shots}{a}+{b}=", "gold": str(a + b)} for a, b in SUMS]
    solved = [{"text": f"{a}+{b}={a + b}. The sum of {a} and {b} is {a + b}."} for a, b in SUMS]
    for name, rows in (("asked", asked), ("solved", solved)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    # SmolLM2 goes on with further sums after its answer; this grader reads the first line.
    (folder / "asked.yaml").write_text("dataset_name: asked.jsonl\ngrader: text\nchat: false\n")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    yield folder
    patch.undo()


def train(out: str, *argv: str) -> list[dict]:
    given = ["--model_name_or_path", str(MODEL), "--dataset_name", "solved.jsonl"]
    given += ["--max_steps", "3", "--logging_steps", "1", "--per_device_train_batch_size", "4"]
    given += ["--learning_rate", "1e-5", "--use_cpu", "true", "--report_to", "none"]
    given += ["--save_strategy", "no"]
    assert cli.main(["train", *given, "--output_dir", out, *argv]) == 0
    return list(read_jsonl(f"{out}/train_log.jsonl"))


def greedy_answers(model: str, out: str) -> list[str]:
    given = ["--benchmarks", "asked.yaml", "--limit", "8", "--n", "1", "--temperature", "0"]
    given += ["--max_new_tokens", "8", "--out", out]
    assert cli.main(["eval", "--model", model, *given]) == 0
    return [row["completion"] for row in read_jsonl(f"{out}/samples.jsonl")]


def test_three_steps_of_training_lower_the_loss(folder):
    rows = [row for row in train("trained", "--shape", "precision") if "nll" in row]
    assert len(rows) == 3
    assert rows[-1]["nll"] < rows[0]["nll"] < math.log(49_152) / 2


def test_an_adapter_is_trained_evaluated_merged_and_evaluated_again(folder):
    peft = ["--use_peft", "--lora_r", "8", "--lora_target_modules", "q_proj", "v_proj"]
    train("lora", *peft, "--learning_rate", "1e-2")
    assert cli.main(["merge", "lora", "--out", "merged"]) == 0
    answers = greedy_answers("lora", "eval-lora")
    assert answers == greedy_answers("merged", "eval-merged")
    assert answers != greedy_answers(str(MODEL), "eval-base")


def test_three_steps_of_rl(folder):
    given = ["--model_name_or_path", str(MODEL), "--dataset_name", "asked.yaml"]
    given += ["--num_generations", "4", "--per_device_train_batch_size", "8", "--max_steps", "3"]
    given += ["--max_completion_length", "6", "--logging_steps", "1", "--use_cpu", "true"]
    given += ["--save_strategy", "no", "--report_to", "none", "--output_dir", "rl"]
    assert cli.main(["rlvr", *given]) == 0
    rows = [row for row in read_jsonl("rl/rl_log.jsonl") if "raw_reward" in row]
    assert len(rows) == 3
    assert any(row["raw_reward"] > 0 for row in rows)
