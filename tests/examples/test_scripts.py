"""The scripts of `examples/` as they stand, with a tiny model and files in place of the Hub."""

import importlib.util
import json
import re
import sys
from math import comb

import pytest
import torch
from hub_stand_in import hub_stand_in, point_client_at
from places import ROOT
from shaped_eval.records import read_jsonl
from tiny import WORDS, text_rows, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM

EXAMPLES = ROOT / "examples"
SMALL = [
    *("--use_cpu", "true", "--bf16", "false", "--report_to", "none", "--disable_tqdm", "true"),
    *("--logging_steps", "1", "--save_strategy", "no", "--per_device_train_batch_size", "4"),
]
LONGEST_LINES = 60


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    script(name).main()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with the tiny model."""
    monkeypatch.chdir(tmp_path)
    tiny_model(max_position_embeddings=512).save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    return tmp_path


def write_rows(path, rows) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def weights(folder: str) -> torch.Tensor:
    return AutoModelForCausalLM.from_pretrained(folder).lm_head.weight


def test_sft(here, monkeypatch):
    write_rows(here / "texts" / "train.jsonl", text_rows(16).to_list())
    words = ["--model_name_or_path", "model", "--dataset_name", "texts", "--beta", "-0.25"]
    run("sft", monkeypatch, *words, "--max_steps", "2", "--output_dir", "out", *SMALL)
    rows = list(read_jsonl("out/train_log.jsonl"))
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["loss"] != pytest.approx(row["nll"]) for row in rows)  # the shape acts
    assert not torch.equal(weights("out"), weights("model"))


def test_sft_does_not_ignore_options_of_the_model(here, monkeypatch):
    words = ["--model_name_or_path", "model", "--dataset_name", "texts", "--load_in_4bit", "true"]
    with pytest.raises(ValueError, match="load_in_4bit"):
        run("sft", monkeypatch, *words, "--output_dir", "out", *SMALL)


def test_grpo(here, monkeypatch):
    rows = [{"question": f"w{n}", "answer": f"w1 #### {n}"} for n in range(8)]
    write_rows(here / "questions" / "train.jsonl", rows)
    words = ["--model_name_or_path", "model", "--dataset_name", "questions", "--output_dir", "out"]
    words += ["--num_generations", "4", "--max_completion_length", "4", "--max_steps", "1"]
    words += ["--max_sampling_rounds", "1", "--on_no_signal", "ignore"]
    run("grpo", monkeypatch, *words, *SMALL)
    (row,) = read_jsonl("out/rl_log.jsonl")
    assert row["groups_sampled"] == 1
    assert row["raw_reward"] == 0  # there are no numbers among the tiny model's words


def test_the_reward_of_grpo():
    example = script("grpo")
    assert example.prompt_and_gold({"question": "How many?", "answer": "5 · 300\n#### 1,500"}) == {
        "prompt": "Question: How many?\nAnswer:",
        "gold": "1500",
    }
    texts = ["5 times 300 is 1,500.", "1500 or 15", "none", "-1500.0", "1500.0"]
    rewards = example.correct(completions=texts, gold=5 * ["1500"])
    assert rewards == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_the_training_loop(here, capsys):
    """Entropy and NLL of its first step are those of the model's own logits on the same batch."""
    (here / "text.txt").write_text(" ".join(WORDS[n % 7] for n in range(200)))
    example = script("training_loop")
    torch.manual_seed(1)
    example.main(["model", "text.txt", "--steps", "30", "--rows", "2", "--length", "16"])
    lines = capsys.readouterr().out.splitlines()
    found = [[float(x) for x in re.findall(r"\d+\.\d+", line)] for line in lines]
    assert len(found) == 30
    torch.manual_seed(1)
    ids = tiny_tokenizer()((here / "text.txt").read_text(), return_tensors="pt").input_ids[0]
    batch = next(example.batches(ids, 2, 16))
    with torch.no_grad():
        log_p = tiny_model(max_position_embeddings=512)(batch[:, :-1]).logits.log_softmax(-1)
    nll = -log_p.gather(-1, batch[:, 1:, None]).mean().item()
    entropy = -(log_p.exp() * log_p).sum(-1).mean().item()
    assert found[0] == pytest.approx([nll, entropy], abs=6e-4)
    assert found[-1][0] < found[0][0]  # the text repeats seven words


def test_pass_at_k(here, capsys):
    rows = [{"prompt": f"w{n}", "gold": f"w{n + 1}"} for n in range(8)]
    write_rows(here / "mine.jsonl", rows)
    (here / "mine.yaml").write_text("dataset_name: mine.jsonl\ngrader: exact_match\n")
    words = ["--benchmarks", "./mine.yaml", "--n", "64", "--max_new_tokens", "1", "--out", "run"]
    script("pass_at_k").main(["model", *words])
    printed = dict(re.findall(r"^mine (pass@\d+): (\d\.\d{3}) \[", capsys.readouterr().out, re.M))
    verdicts = list(read_jsonl(here / "run" / "verdicts.jsonl"))
    assert len(verdicts) == 8 * 64
    right: dict[str, int] = {}
    for row in verdicts:
        right[row["problem_id"]] = right.get(row["problem_id"], 0) + (row["status"] == "pass")
    for k in (1, 8, 64):
        values = [1 - comb(64 - count, k) / comb(64, k) for count in right.values()]
        assert float(printed[f"pass@{k}"]) == pytest.approx(sum(values) / 8, abs=6e-4)
    assert float(printed["pass@64"]) > 0


# the client itself uploads files in this way
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_push_to_hub(here, monkeypatch):
    write_rows(here / "mine.jsonl", [{"prompt": "w1 w2", "gold": "5"}])
    (here / "model" / "checkpoint-1").mkdir()
    for name in ("training_args.bin", "checkpoint-1/model.safetensors"):
        (here / "model" / name).write_bytes(b"not for the Hub")
    words = ["--benchmarks", "./mine.jsonl", "--n", "2", "--max_new_tokens", "2", "--out", "run"]
    with hub_stand_in() as server:
        point_client_at(server, monkeypatch)
        script("push_to_hub").main(["model", "me/my-model", *words])
    sent = server.files["model", "me/my-model"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(sent)
    assert not [name for name in sent if name.startswith("checkpoint") or name.endswith(".bin")]
    assert b"pass@2" in sent["README.md"]
    assert server.private["model", "me/my-model"]
    assert ("dataset", "me/my-model-evaluation-samples") in server.files


SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_says_how_it_is_run(path):
    text = path.read_text()
    if path.stem != "fixed_points":  # a study of its own
        assert len(text.splitlines()) <= LONGEST_LINES
    first = text.split('"""')[1]
    command = rf"python examples/{path.stem}\.py |shaped-trl \w+ .*{path.stem}[.:]"
    assert re.search(command, first, re.DOTALL)
    assert f"{path.name}" in (EXAMPLES / "README.md").read_text()
