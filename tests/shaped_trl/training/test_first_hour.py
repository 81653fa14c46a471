"""What a user meets first with a pretrained model: refusals, warnings and evaluations."""

import pytest
import torch
import yaml
from datasets import Dataset
from shaped_eval.records import read_jsonl
from tiny import WORDS, text_rows, tiny_model, tiny_tokenizer
from transformers import AutoConfig

from shaped_trl import cli
from shaped_trl.training.metrics import Breakdown, Ranks, in_float64

pytestmark = pytest.mark.slow

SETTINGS = {
    "dataset_name": "a.jsonl",
    "num_heldout": 2,
    "max_length": 64,
    "max_steps": 1,
    "logging_steps": 1,
    "per_device_train_batch_size": 2,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "output_dir": "out",
    "save_strategy": "no",
    "disable_tqdm": True,
    "report_to": "none",
}
PLAIN = "{% for m in messages %}{{ m.content }} {% endfor %}"
MARKED = "{% for m in messages %}{% generation %}{{ m.content }} {% endgeneration %}{% endfor %}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text_rows(8).to_json("a.jsonl")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(SETTINGS))
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    return tmp_path


def train(*argv: str) -> int:
    return cli.main(["train", "--config", "r.yaml", "--model_name_or_path", "./model", *argv])


def chats(template: str | None) -> None:
    turns = [[("user", WORDS[i]), ("assistant", WORDS[i + 1])] for i in range(8)]
    Dataset.from_list(
        [{"messages": [{"role": r, "content": c} for r, c in turn]} for turn in turns]
    ).to_json("a.jsonl")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained("model")


@pytest.mark.parametrize(
    ("template", "message"),
    [(PLAIN, "marks the assistant's tokens"), (None, "needs a chat template")],
    ids=["no markers", "no template"],
)
def test_a_chat_template_that_does_not_mark_the_assistant(folder, capsys, template, message):
    chats(template)
    assert train("--assistant_only_loss", "true") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("shaped-trl: error: assistant_only_loss=True needs a chat template")
    assert message in line
    assert not (folder / "out" / "model.safetensors").exists()


def test_a_chat_template_that_marks_the_assistant(folder):
    chats(MARKED)
    assert train("--assistant_only_loss", "true") == 0


@pytest.mark.parametrize(
    "argv",
    [["--tokenizer_name_or_path", "./none"], ["--model_name_or_path", "./bare"]],
    ids=["named", "of the checkpoint"],
)
def test_a_dry_run_without_a_tokenizer_prints_its_plan_and_fails(folder, capsys, argv):
    tiny_model().save_pretrained("bare")
    assert train("--dry_run", *argv) == 2
    output = capsys.readouterr()
    assert "memory       GiB a device" in output.out
    assert f"{argv[0][2:]}='{argv[1]}'" in output.err.strip().splitlines()[-1]


def test_the_tokenizer_of_a_dry_run_is_the_runs_own(folder, capsys):
    tiny_model().save_pretrained("bare")
    tiny_tokenizer().save_pretrained("words")
    argv = ["--model_name_or_path", "./bare", "--tokenizer_name_or_path", "./words"]
    assert train("--dry_run", *argv) == 0
    assert "it reads:\n── document of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "evaluations"),
    [([], 1), (["--eval_strategy", "no"], 0), (["--eval_strategy", "steps"], 1)],
    ids=["by default", "no", "steps"],
)
def test_no_evaluation_means_none(folder, argv, evaluations):
    assert train(*argv) == 0
    rows = read_jsonl(folder / "out" / "train_log.jsonl")
    assert sum("eval_nll" in row for row in rows) == evaluations


@pytest.mark.parametrize(
    ("width", "argv", "warns"),
    [
        (256, ["--learning_rate", "3e-3"], True),
        (256, ["--learning_rate", "1e-4"], False),
        (256, ["--learning_rate", "3e-3", "--use_peft"], False),
        (16, ["--learning_rate", "3e-3"], False),
    ],
    ids=["high", "usual", "adapters", "toy"],
)
def test_a_rate_for_training_from_scratch_is_pointed_out(
    folder, capsys, caplog, width, argv, warns
):
    tiny_model(hidden_size=width).save_pretrained("model")
    assert train("--dry_run", *argv) == 0
    line = "learning_rate=0.003 is a rate for training from scratch"
    assert (f"warning      {line}" in capsys.readouterr().out) == warns
    if width == 256:
        assert train(*argv) == 0
        assert any(line in record.getMessage() for record in caplog.records) == warns


@pytest.mark.parametrize("name", ["load_in_4bit", "load_in_8bit"])
def test_quantized_weights_are_refused_with_a_reason(folder, capsys, name):
    assert train("--use_peft", f"--{name}") == 2
    assert f"error: {name}=True (QLoRA) is not supported" in capsys.readouterr().err


def test_the_configuration_carries_the_shape(folder):
    assert train("--shape", "precision", "--lambda_tail", "-0.1") == 0
    noted = AutoConfig.from_pretrained("out").reward_shape
    assert (noted["beta"], noted["lambda_tail"], noted["positive"]) == (-0.25, -0.1, "exponent")
    assert noted["scheduled"] == []


def test_sums_for_apples_devices_are_kept_on_the_cpu():
    """MPS has no float64: nothing may be allocated there, whose device is named here."""
    device, mask = torch.device("mps"), torch.tensor([[True, True, False]])
    ranks = Ranks(63, device)
    ranks.sums.add(torch.tensor([[0, 2, 2]]), mask)
    assert ranks.sums.total(lambda values: values)[0].tolist()[:3] == [1.0, 0.0, 1.0]
    assert Breakdown(63, ["a"], device).by_token.sums_C[0].dtype == torch.float64
    values = torch.tensor([0.1], requires_grad=True)
    assert in_float64(values).dtype == torch.float64
    assert not in_float64(values).requires_grad
