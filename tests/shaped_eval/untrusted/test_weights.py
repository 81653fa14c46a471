"""Weights are checked before they are loaded: a pickle runs nothing, and damage is named."""

import os

import pytest
import torch
from shaped_eval.errors import UserError
from shaped_eval.untrusted.weights import check_weights
from tiny import text_rows, tiny_model, tiny_tokenizer

from shaped_trl import cli


class Runs:
    """Touches a file if a pickle of it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def folder(tmp_path):
    model = tmp_path / "model"
    tiny_model().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    return model


def as_pickle(folder, **more) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model().state_dict() | more, folder / "pytorch_model.bin")


def halve(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda folder: as_pickle(folder, hook=Runs(folder / "ran")),
            "holds something other than weights",
        ),
        (
            lambda folder: (as_pickle(folder), halve(folder / "pytorch_model.bin")),
            "pytorch_model.bin is damaged",
        ),
        (
            lambda folder: (
                as_pickle(folder),
                (folder / "pytorch_model.bin").write_bytes(b"hello"),
            ),
            "is damaged",
        ),
        (lambda folder: halve(folder / "model.safetensors"), "model.safetensors is damaged"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b""),
            "model.safetensors is damaged",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
    ],
    ids=["runs", "half a pickle", "no pickle", "half", "empty", "none"],
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_model_that_cannot_be_loaded_is_one_line(command, change, said, folder, tmp_path, capsys):
    change(folder)
    text_rows(8).to_json(tmp_path / "a.jsonl")
    words = [
        "eval",
        "--model",
        folder,
        "--benchmarks",
        "chain_sum",
        "--out",
        tmp_path / "out",
        "--limit",
        "1",
    ]
    if command == "train":
        words = [
            "train",
            "--model_name_or_path",
            folder,
            "--dataset_name",
            tmp_path / "a.jsonl",
            "--use_cpu",
            "true",
        ]
        words += ["--output_dir", tmp_path / "out", "--max_steps", "1", "--disable_tqdm", "true"]
    assert cli.main([str(word) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("shaped-trl")]
    assert len(lines) == 1
    assert said in lines[0]
    assert str(folder) in lines[0]
    assert not (folder / "ran").exists()


def test_a_pickle_of_weights_alone_is_read(folder):
    check_weights(folder, "model")
    as_pickle(folder)
    check_weights(folder, "model")
    torch.save(
        tiny_model().state_dict(),
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=False,
    )
    check_weights(folder, "model")
    assert (
        type(tiny_model()).from_pretrained(folder).num_parameters() == tiny_model().num_parameters()
    )


def test_a_checkpoint_without_files_of_its_own_is_left_to_its_engine(tmp_path):
    check_weights(tmp_path, "checkpoint", needed=False)
    check_weights("some/model", "model")
    with pytest.raises(UserError, match="holds no weights"):
        check_weights(tmp_path, "model")
