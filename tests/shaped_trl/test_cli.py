"""The command line as a new user meets it: mistakes are one line on standard error, exit code 2, no
model loaded."""

import signal
import subprocess
import sys

import pytest
from places import SHARED
from tiny import text_rows, tiny_model, tiny_tokenizer

from shaped_trl import cli

EVAL = ["eval", "--model", "nowhere/model", "--out", "out"]


@pytest.fixture
def no_model(monkeypatch):
    """Loading any model fails the test."""
    import transformers

    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    for name in ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", refuse)


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["train", "--config", "gsm8k/train", "--beta", "-2"], ["beta", "-2"]),
        (
            ["train", "--config", "gsm8k/train", "--lamda_tail", "-0.1"],
            ["--lamda_tail", "--lambda_tail"],
        ),
        (["train", "--config", "gsm8k/trian"], ["gsm8k/trian", "gsm8k/train"]),
        (
            ["train", "--config", "gsm8k/train", "--hub_mirror", "empty"],
            ["openai/gsm8k", "hub_mirror"],
        ),
        (
            ["train", "--config", "gsm8k/train", "--model_name_or_path", "./no-model"],
            ["./no-model"],
        ),
        (
            ["rlvr", "--config", "gsm8k/rlvr", "--hub_mirror", "empty"],
            ["openai/gsm8k", "hub_mirror"],
        ),
        (["rlvr", "--config", "gsm8k/rlvr", "--grader", "gsm9k"], ["gsm9k", "gsm8k"]),
        (["rlvr", "--config", "gsm8k/rlvr", "--num_generations", "7"], ["num_generations"]),
        ([*EVAL, "--benchmarks", "gsm9k"], ["gsm9k", "gsm8k"]),
        ([*EVAL, "--benchmarks", "gsm8k", "--n", "16", "--pass_at", "1,64"], ["64", "16"]),
        ([*EVAL, "--benchmarks", "gsm8k", "--hub_mirror", "empty"], ["openai/gsm8k", "hub_mirror"]),
        (["report", "no-folder"], ["no-folder"]),
        (["grade", "no-folder"], ["no-folder"]),
        (["grade", "--answers", "no-file", "--benchmark", "math", "--out", "x"], ["no-file"]),
        (["grade"], ["--answers"]),
        (["study", "no-study"], ["no-study"]),
        (["tarin"], ["tarin", "did you mean 'train'?"]),
        (["recipes", "copy", "nothing"], ["nothing"]),
    ],
)
def test_mistakes(argv, parts, no_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert cli.main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert all(part in error for part in parts), error


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_teaches(command, capsys):
    argv = [command, "--help"] if command else ["--help"]
    assert cli.main(argv) == 0
    text = capsys.readouterr().out
    assert "usage: shaped-trl" in text
    assert len(text.splitlines()) > 4
    if not command:
        assert all(f"\n  {name} " in text for name in cli.COMMANDS)
    if command == "train":
        assert "--lambda_tail" in text
        assert "--dataset_name" in text


def test_crash_is_a_traceback_and_exit_code_1(tmp_path):
    code = "import sys; from shaped_trl import cli; cli.COMMANDS['train'] = lambda _: 1 / 0; cli.main(['train'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.slow
def test_output_that_nobody_reads_is_no_error():
    command = "-m shaped_trl.cli study studies/cpu --dry_run --out nowhere | head -1; exit ${PIPESTATUS[0]}"
    argv = ["bash", "-c", f"{sys.executable} {command}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (
        128 + signal.SIGPIPE,
        "",
        1,
    )


TINY = """\
from_scratch: {model_type: qwen3, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
  num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 1024}
tokenizer_vocab_size: 400
max_steps: 3
per_device_train_batch_size: 4
max_length: 128
logging_steps: 1
save_steps: 2
gradient_checkpointing: false
use_cpu: true
disable_tqdm: true
"""


def test_train_then_rlvr_on_the_users_own_rows(tmp_path, monkeypatch):
    """From a JSONL of one's own to a trained checkpoint that plain transformers loads; a second run
    continues."""
    from shaped_eval.records import read_jsonl
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(tmp_path)
    text_rows(40).to_json("my.jsonl")
    (tmp_path / "train.yaml").write_text(TINY + "dataset_name: my.jsonl\noutput_dir: shaped\n")
    assert cli.main(["train", "--config", "train.yaml", "--shape", "precision"]) == 0
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained("shaped"),
        AutoTokenizer.from_pretrained("shaped"),
    )
    assert model.config.vocab_size == len(tokenizer)
    assert (tmp_path / "shaped" / "README.md").is_file()
    log = list(read_jsonl("shaped/train_log.jsonl"))
    assert [row["step"] for row in log] == [1, 2, 3]
    assert cli.main(["train", "--config", "train.yaml", "--shape", "precision"]) == 0
    assert list(read_jsonl("shaped/train_log.jsonl")) == log
    assert cli.main(["train", "--config", "train.yaml", "--shape", "diversity"]) == 2
    (tmp_path / "prompts.jsonl").write_text(
        '{"prompt": "w1 w2", "gold": "3"}\n{"prompt": "w3", "gold": "4"}\n' * 4
    )
    (tmp_path / "rl.yaml").write_text(
        "model_name_or_path: shaped\ndataset_name: prompts.jsonl\ngrader: math\noutput_dir: rl\nmax_steps: 2\n"
        "per_device_train_batch_size: 4\nnum_generations: 4\nmax_completion_length: 8\nmax_sampling_rounds: 2\n"
        "logging_steps: 1\ngradient_checkpointing: false\nuse_cpu: true\ndisable_tqdm: true\n"
    )
    assert cli.main(["rlvr", "--config", "rl.yaml"]) == 0
    assert [row["step"] for row in read_jsonl("rl/rl_log.jsonl")] == [1, 2]
    AutoModelForCausalLM.from_pretrained("rl")
    card = (tmp_path / "rl" / "README.md").read_text()
    assert all(
        part in card
        for part in ["| `prompts.jsonl` |", "2 optimizer steps.", "`shaped`, a local model"]
    ), card


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the mirror of real data, ../shared, is absent")
@pytest.mark.parametrize("recipe", ["gsm8k/train", "text/train"])
def test_train_on_real_data(recipe, tmp_path, monkeypatch):
    from shaped_eval.records import read_jsonl

    monkeypatch.chdir(tmp_path)
    argv = [
        "train",
        "--config",
        recipe,
        "--hub_mirror",
        str(SHARED / "hub"),
        "--output_dir",
        "out",
        "--max_steps",
        "3",
    ]
    argv += [
        "--eval_steps",
        "3",
        "--max_eval_samples",
        "8",
        "--logging_steps",
        "1",
        "--per_device_train_batch_size",
        "4",
    ]
    assert cli.main([*argv, "--disable_tqdm", "true", "--use_cpu", "true"]) == 0
    rows = list(read_jsonl(tmp_path / "out" / "train_log.jsonl"))
    assert any("eval_nll" in row for row in rows)
    assert rows[2]["nll"] < rows[0]["nll"]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the mirror of real data, ../shared, is absent")
def test_rlvr_on_gsm8k(tmp_path, monkeypatch):
    from shaped_eval.records import read_jsonl

    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    small = [
        "--model_name_or_path",
        "./model",
        "--max_steps",
        "1",
        "--per_device_train_batch_size",
        "4",
    ]
    small += [
        "--num_generations",
        "4",
        "--gradient_accumulation_steps",
        "1",
        "--steps_per_generation",
        "1",
    ]
    small += [
        "--max_completion_length",
        "8",
        "--max_sampling_rounds",
        "1",
        "--disable_tqdm",
        "true",
        "--use_cpu",
        "true",
    ]
    small += ["--logging_steps", "1"]
    argv = [
        "rlvr",
        "--config",
        "gsm8k/rlvr",
        "--hub_mirror",
        str(SHARED / "hub"),
        "--output_dir",
        "rl",
    ]
    assert cli.main([*argv, *small]) == 0
    assert next(read_jsonl(tmp_path / "rl" / "rl_log.jsonl"))["groups_sampled"] == 1
