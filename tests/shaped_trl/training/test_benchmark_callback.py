"""Benchmarks during training have the suite's numbers and do not affect training."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark_tiny import BENCHMARKS, build, main, parameters
from datasets import Dataset
from peft import LoraConfig
from places import HELPERS
from processes import run_processes
from shaped_eval.hub.leaderboards import LEADERBOARDS, Leaderboard
from shaped_eval.publish import PublishOptions, publish
from shaped_eval.records import Sample, append_jsonl, read_jsonl
from shaped_eval.report import report_run
from shaped_eval.sample import sample
from tiny import WORDS, tiny_model, tiny_tokenizer

from shaped_trl import cli
from shaped_trl.rlvr import RLVRConfig, RLVRTrainer
from shaped_trl.training.evaluation import (
    FOLDER,
    BenchmarkCallback,
    add_benchmarks,
)
from shaped_trl.training.live import LiveBackend, undisturbed, weights_fingerprint
from shaped_trl.training.run import continue_training

TIMES = (
    "tokens_per_second",
    "remaining_runtime",
    "train_runtime",
    "train_tokens_per_second",
    "benchmark/runtime",
)
STEPS = [0, 2, 4, 5]


def log(folder, *left_out) -> list[dict]:
    rows = read_jsonl(Path(folder) / "train_log.jsonl")
    return [
        {name: value for name, value in row.items() if name not in (*TIMES, *left_out)}
        for row in rows
    ]


def is_benchmark(row) -> bool:
    return any(name.startswith("benchmark/") for name in row)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.fixture(scope="module")
def undisturbed_run(tmp_path_factory):
    """A run with benchmarks, its folder and trainer."""
    folder = tmp_path_factory.mktemp("undisturbed")
    trainer = build(folder)
    trainer.train()
    return folder, trainer


@pytest.mark.slow
def test_training_is_bit_for_bit_that_without(undisturbed_run, tmp_path):
    folder, trainer = undisturbed_run
    plain = build(tmp_path, None)
    plain.train()
    assert_same(parameters(trainer), parameters(plain))
    assert [row for row in log(folder) if not is_benchmark(row)] == log(tmp_path)
    assert [row["step"] for row in log(folder) if is_benchmark(row)] == STEPS
    assert trainer.model.generation_config.to_dict() == plain.model.generation_config.to_dict()
    assert trainer.model.config.use_cache == plain.model.config.use_cache
    assert (folder / "checkpoint-3" / "model.safetensors").read_bytes() == (
        tmp_path / "checkpoint-3" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    "changes",
    [{"gradient_checkpointing": True, "bf16": True}, {"peft": True}],
    ids=["checkpointing_bf16", "lora"],
)
@pytest.mark.slow
def test_training_is_bit_for_bit_that_without_in_other_settings(changes, tmp_path, monkeypatch):
    if changes.pop("peft", False):
        given = ShapedTrainerInit(LoraConfig(r=2, target_modules=["q_proj"], lora_dropout=0.1))
        monkeypatch.setattr("benchmark_tiny.ShapedTrainer", given)
    runs = {}
    for name, benchmarks in PAIR:
        runs[name] = build(tmp_path / name, benchmarks, **changes)  # seeds dropout
        runs[name].train()
    assert_same(parameters(runs["with"]), parameters(runs["without"]))
    assert [row for row in log(tmp_path / "with") if not is_benchmark(row)] == log(
        tmp_path / "without"
    )


PAIR = (("without", None), ("with", BENCHMARKS))


class ShapedTrainerInit:
    """`ShapedTrainer` with an adapter."""

    def __init__(self, peft_config):
        self.peft_config = peft_config

    def __call__(self, *args, **given):
        from shaped_trl.training import ShapedTrainer

        torch.manual_seed(1)  # hashes the adapter
        return ShapedTrainer(*args, peft_config=self.peft_config, **given)


def test_what_is_put_back():
    model = tiny_model()
    model.train()
    model.model.layers[0].eval()  # as users who freeze a part
    model.config.use_cache = False
    settings, modes = model.generation_config, [module.training for module in model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert model.config.use_cache
        torch.rand(5)
        model.generation_config = None
        model.model.rotary_emb.inv_freq.zero_()
    assert [module.training for module in model.modules()] == modes
    assert model.generation_config is settings
    assert not model.config.use_cache
    assert torch.equal(torch.get_rng_state(), state)
    assert model.model.rotary_emb.inv_freq.abs().sum() > 0


@pytest.mark.slow
def test_samples_are_those_of_the_saved_checkpoint(undisturbed_run, tmp_path):
    """The suite draws the same samples from the saved model as from the live one."""
    folder, trainer = undisturbed_run
    run = folder / FOLDER / "step-5"
    config = BENCHMARKS.sample_config(str(folder), 5, None, trainer.args.seed)
    saved = sample(
        replace(config, model=str(folder / "checkpoint-5"), out=str(tmp_path / "saved")),
        progress=False,
    )
    rows = list(read_jsonl(saved / "samples.jsonl"))
    assert rows == list(read_jsonl(run / "samples.jsonl"))
    assert len(rows) == 12
    first = list(read_jsonl(folder / FOLDER / "step-0" / "samples.jsonl"))
    assert rows != first  # the weights have changed


def test_the_log_has_the_numbers_of_the_runs_folder(undisturbed_run, tmp_path):
    folder, _ = undisturbed_run
    rows = {row["step"]: row for row in log(folder) if is_benchmark(row)}
    for step in STEPS:
        entry = report_run(folder / FOLDER / f"step-{step}")["running_sums"]
        assert entry["n"] == 4
        for name in ("avg@4", "pass@4", "cons@4"):
            assert rows[step][f"benchmark/running_sums/{name}"] == entry["metrics"][name]["value"]
        for name in ("truncated", "unparsed"):
            assert rows[step][f"benchmark/running_sums/{name}"] == entry[name]
    state = json.loads((folder / "checkpoint-5" / "trainer_state.json").read_text())
    assert len([row for row in state["log_history"] if is_benchmark(row)]) == len(STEPS)


def test_what_is_published_into_output_dir_survives_a_later_save(undisturbed_run, monkeypatch):
    """A trainer rewrites README.md with every checkpoint, and keeps the results in it."""
    folder, trainer = undisturbed_run
    monkeypatch.setitem(LEADERBOARDS, "running_sums", Leaderboard("me/sums", "sums", 3))
    trainer.save_model()
    run, options = folder / FOLDER / "step-5", PublishOptions(publish_to=str(folder))
    report_run(run)
    publish([run], options)
    (entry,) = (folder / ".eval_results").iterdir()
    before, card = entry.read_bytes(), (folder / "README.md").read_text()
    assert b"me/sums" in before
    assert "<!-- results of running_sums" in card
    trainer._save_checkpoint(trainer.model, None)
    assert entry.read_bytes() == before
    assert (folder / "README.md").read_text().count("<!-- results of running_sums") == 1
    publish([run], options)
    assert entry.read_bytes() == before
    assert (folder / "README.md").read_text() == card


@pytest.mark.slow
@pytest.mark.parametrize(("where", "step"), [("grade_run", 4), ("report_run", 2)])
def test_killed_in_an_evaluation_it_ends_as_an_undisturbed_run(
    undisturbed_run, tmp_path, where, step, monkeypatch
):
    folder, trainer = undisturbed_run
    command = [sys.executable, str(HELPERS / "benchmark_tiny.py"), str(tmp_path), where, str(step)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    sampled, generate = set(), LiveBackend.generate

    def spy(self, *args):
        sampled.add(int(self._config.out.rpartition("-")[2]))
        return generate(self, *args)

    monkeypatch.setattr(LiveBackend, "generate", spy)
    resumed = build(tmp_path)
    continue_training(resumed)
    assert sampled == {one for one in STEPS if one > step}  # the killed one was sampled
    assert_same(parameters(resumed), parameters(trainer))
    assert log(tmp_path) == log(folder)
    for one in STEPS:
        results = [path / FOLDER / f"step-{one}" / "results.json" for path in (folder, tmp_path)]
        assert results[0].read_bytes() == results[1].read_bytes()


def test_an_evaluation_of_other_weights_at_this_step_begins_anew(tmp_path):
    trainer = build(tmp_path, None)
    callback = BenchmarkCallback(trainer, BENCHMARKS)
    callback.evaluate()
    folder = tmp_path / FOLDER / "step-0"
    before = (folder / "samples.jsonl").read_text()
    identity = json.loads((folder / "run.json").read_text())["model_identity"]
    assert identity == weights_fingerprint(trainer.model)
    with torch.no_grad():
        trainer.model.lm_head.weight.mul_(-3)
    append_jsonl(folder / "samples.jsonl", [Sample("running_sums/0", 9, "of the other weights")])
    callback.evaluate()
    assert json.loads((folder / "run.json").read_text())["model_identity"] != identity
    after = (folder / "samples.jsonl").read_text()
    assert after != before
    assert "of the other weights" not in after
    # also with other settings
    BenchmarkCallback(trainer, replace(BENCHMARKS, eval_benchmark_n=2)).evaluate()
    assert len(list(read_jsonl(folder / "samples.jsonl"))) == 6


def in_each_process(folder: str) -> tuple[dict, str]:
    results = main(folder)
    run = Path(folder) / "failing"
    trainer = build(run, save_strategy="no")
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    (run / FOLDER / "step-0").touch()  # a file in the folder's place
    try:
        trainer.train()
    except Exception as error:
        return results, f"{type(error).__name__}: {error}"
    return results, "no error"


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_and_a_failure_in_one_of_them(tmp_path):
    returned = run_processes(in_each_process, 2, tmp_path, str(tmp_path))
    results, errors = zip(*returned, strict=True)
    for each in results:
        assert_same(each["with"][0], each["without"][0])
        assert_same(each["with"][0], results[0]["with"][0])
        rows = [row for row in each["with"][1] if is_benchmark(row)]
        assert [row["step"] for row in rows] == STEPS
        assert rows == [row for row in results[0]["with"][1] if is_benchmark(row)]
    assert len(list(read_jsonl(tmp_path / "with" / FOLDER / "step-5" / "samples.jsonl"))) == 12
    assert errors[0].startswith(("UserError: out=", "NotADirectoryError"))
    assert errors[1].startswith("RuntimeError: the evaluation failed in the first process: ")


PROMPTS = Dataset.from_list(
    [{"prompt": f"{a} {b}", "gold": a} for a in WORDS[:4] for b in WORDS[:4]]
)


def even_length(completions, **kwargs):
    return [float(len(completion.split()) % 2 == 0) for completion in completions]


@pytest.mark.slow
def test_rlvr_is_bit_for_bit_that_without(tmp_path):
    runs = {}
    for name, benchmarks in PAIR:
        settings = {
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 6,
            "max_steps": 2,
        }
        settings |= {
            "logging_steps": 1,
            "save_strategy": "no",
            "gradient_checkpointing": False,
            "use_cpu": True,
        }
        args = RLVRConfig(str(tmp_path / name), learning_rate=1e-2, disable_tqdm=True, **settings)
        trainer = RLVRTrainer(
            tiny_model(),
            even_length,
            args,
            train_dataset=PROMPTS,
            processing_class=tiny_tokenizer(),
        )
        add_benchmarks(trainer, benchmarks, None)
        trainer.train()
        runs[name] = trainer
    assert_same(parameters(runs["with"]), parameters(runs["without"]))
    rows = {name: list(read_jsonl(tmp_path / name / "rl_log.jsonl")) for name in runs}
    assert [row["step"] for row in rows["with"] if is_benchmark(row)] == [0, 2]
    kept = [
        [row["step"], row["reward"], row["tokens"]] for row in rows["with"] if not is_benchmark(row)
    ]
    assert kept == [[row["step"], row["reward"], row["tokens"]] for row in rows["without"]]


@pytest.mark.slow
def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Dataset.from_list([{"text": " ".join(WORDS[i : i + 9])} for i in range(20)]).to_json("my.jsonl")
    (tmp_path / "train.yaml").write_text(
        "from_scratch: {model_type: qwen3, hidden_size: 16, intermediate_size: 32, "
        "num_hidden_layers: 1,\n  num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, "
        "max_position_embeddings: 256}\ntokenizer_vocab_size: 300\ndataset_name: "
        "my.jsonl\noutput_dir: run\nmax_steps: 2\nlogging_steps: 1\nper_device_train_batch_size: "
        "2\nmax_length: 64\nuse_cpu: true\ndisable_tqdm: true\ngradient_checkpointing: "
        "false\nsave_strategy: 'no'\neval_benchmark_limit: 2\n"
    )
    argv = ["train", "--config", "train.yaml", "--eval_benchmarks", "running_sums"]
    assert cli.main([*argv, "--eval_benchmark_n", "2", "--eval_benchmark_max_new_tokens", "4"]) == 0
    assert [row["step"] for row in read_jsonl("run/train_log.jsonl") if is_benchmark(row)] == [0, 2]
    assert (tmp_path / "run" / "train_log.png").is_file()
    capsys.readouterr()
    assert cli.main(["report", "run/_evaluations/step-0", "run/_evaluations/step-2"]) == 0
    assert "running_sums" in capsys.readouterr().out
    assert (
        cli.main([*argv[:-1], "gsm8k", "--hub_mirror", str(tmp_path), "--output_dir", "other"]) == 2
    )
    assert "openai/gsm8k" in capsys.readouterr().err
