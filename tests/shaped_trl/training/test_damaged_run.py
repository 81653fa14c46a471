"""Damaged files and full disks give one line, and leave a run's other files as they are."""

import errno
import json
import os
import pickle
import subprocess
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError
from shaped_eval.errors import UserError
from tiny import text_rows, tiny_model, tiny_tokenizer

from shaped_trl import cli
from shaped_trl.training import ShapedConfig, ShapedTrainer
from shaped_trl.training.log import JsonlLogCallback
from shaped_trl.training.log_reading import read_log
from shaped_trl.training.resuming import (
    already_finished,
    continue_training,
    full_disk_explained,
    last_checkpoint,
)

ROWS = [
    "7",
    "[1]",
    "null",
    "{}",
    '{"step": "1"}',
    '{"step": NaN}',
    '{"step": -1}',
    '{"step": 1.5}',
    '{"st',
    "[" * 100_000,
]
STATES = [
    "",
    "{",
    "[]",
    "{}",
    "null",
    '{"global_step": "2", "max_steps": 4}',
    '{"global_step": 2}',
    "\0" * 9,
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[:12])
def test_a_damaged_row_of_a_log_is_named_and_stays(row, tmp_path):
    path = tmp_path / "train_log.jsonl"
    path.write_text(f'{{"step": 1, "loss": 2.0}}\n{row}\n{{"step": 3, "loss": 1.0}}\n')
    before = path.read_bytes()
    state = SimpleNamespace(is_world_process_zero=True, global_step=3)
    with pytest.raises(UserError, match=r"train_log\.jsonl:2: "):
        JsonlLogCallback("train_log.jsonl").on_train_begin(
            SimpleNamespace(output_dir=str(tmp_path)), state, None
        )
    with pytest.raises(UserError, match=r"train_log\.jsonl:2: "):
        read_log(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", STATES, ids=lambda content: content[:12])
def test_a_checkpoint_with_a_damaged_state_is_passed_over_or_named(content, tmp_path):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text(
        '{"global_step": 2, "max_steps": 4}'
    )
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text(content)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    args = SimpleNamespace(
        output_dir=str(tmp_path), resume_from_checkpoint=str(tmp_path / "checkpoint-4")
    )
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        UserError,
        match=r"resume_from_checkpoint='.*checkpoint-4' has no complete trainer_state\.json",
    ):
        already_finished(args)


def two_steps(folder):
    args = ShapedConfig(str(folder), max_steps=2, save_steps=1, use_cpu=True, disable_tqdm=True)
    return ShapedTrainer(
        tiny_model(), args, train_dataset=text_rows(8), processing_class=tiny_tokenizer()
    )


def test_the_damaged_weights_of_a_checkpoint_are_named(tmp_path):
    two_steps(tmp_path).train()
    os.truncate(tmp_path / "checkpoint-2" / "model.safetensors", 1000)
    with pytest.raises(
        UserError, match=r"checkpoint='.*checkpoint-2': model\.safetensors is damaged"
    ):
        continue_training(two_steps(tmp_path))


def test_a_checkpoint_with_somebodys_code_is_refused_before_it_is_loaded(tmp_path):
    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    two_steps(tmp_path).train()
    (tmp_path / "checkpoint-2" / "optimizer_0").mkdir()
    (tmp_path / "checkpoint-2" / "optimizer_0" / ".metadata").write_bytes(pickle.dumps(Touch()))
    with pytest.raises(UserError, match=r"checkpoint-2' is not continued: optimizer_0/\.metadata"):
        continue_training(two_steps(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "x"), "no space left on the device while saving; free some"),
        (OSError(errno.EDQUOT, "x"), "no space left on the device while saving; free some"),
        (OSError(errno.EFBIG, "x"), "File too large while saving; solve this"),
        (OSError(errno.EROFS, "x"), "Read-only file system while saving; solve this"),
        (PermissionError(errno.EACCES, "x"), "Permission denied while saving; solve this"),
        (
            SafetensorError(
                "Error while serializing: I/O error: Read-only file system (os error 30)"
            ),
            "Read-only file",
        ),
        (
            SafetensorError("I/O error: No space left on device (os error 28)"),
            "no space left on the device",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_saved_says_where_the_run_goes_on(error, message, tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text(
        '{"global_step": 2, "max_steps": 4}'
    )
    with pytest.raises(UserError, match=message) as found, full_disk_explained(str(tmp_path)):
        raise error
    assert str(found.value).endswith(f"the same command continues from {tmp_path / 'checkpoint-2'}")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "x"), RuntimeError("shapes differ"), KeyError(28)]
)
def test_other_errors_stay_what_they_are(error, tmp_path):
    with pytest.raises(type(error)), full_disk_explained(str(tmp_path)):
        raise error


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EISDIR, errno.ELOOP, errno.EFBIG]
)
def test_a_command_that_cannot_write_is_one_line(number, monkeypatch, capsys):
    def command(argv):
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setitem(cli.COMMANDS, "report", command)
    assert cli.main(["report"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"shaped-trl: error: some/file: {os.strerror(number)}; ")


def test_a_file_that_we_lost_is_still_a_crash(monkeypatch):
    def command(argv):
        raise FileNotFoundError(errno.ENOENT, "x", "some/file")

    monkeypatch.setitem(cli.COMMANDS, "report", command)
    with pytest.raises(FileNotFoundError):
        cli.main(["report"])


def test_a_run_into_a_read_only_file_system_is_one_line(tmp_path, capsys):
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        text_rows(8).to_json(tmp_path / "a.jsonl")
        recipe = {
            "from_scratch": {"model_type": "qwen3"},
            "dataset_name": str(tmp_path / "a.jsonl"),
            "use_cpu": True,
        }
        (tmp_path / "recipe.yaml").write_text(
            json.dumps(recipe | {"output_dir": str(place / "out"), "max_steps": 1})
        )
        assert cli.main(["train", "--config", str(tmp_path / "recipe.yaml")]) == 2
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(
        f"shaped-trl: error: output_dir='{place / 'out'}' cannot be written: Read-only file system"
    )
