"""A disk that fills up at a checkpoint: one line, and the run resumes from the one before."""

import json
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny import WORDS

from shaped_trl import cli
from shaped_trl.training.resuming import last_checkpoint


def size(folder: Path) -> int:
    """The size of a file on a file system with pages of 4 KiB."""
    return sum(
        -(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file()
    )


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("disk")
    rows = [{"text": " ".join(WORDS[i : i + 9])} for i in range(40)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {
        "model_type": "qwen3",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
    }
    model |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32}
    settings = {
        "output_dir": str(folder / "whole"),
        "dataset_name": str(folder / "a.jsonl"),
        "from_scratch": model,
        "tokenizer_kind": "word",
        "max_steps": 4,
        "save_steps": 2,
        "per_device_train_batch_size": 2,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    (folder / "recipe.yaml").write_text(json.dumps(settings))
    assert cli.main(["train", "--config", str(folder / "recipe.yaml")]) == 0
    return folder / "recipe.yaml"


@pytest.fixture
def disk(tmp_path):
    """A function that mounts or resizes a file system with a number of bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size_bytes: int) -> Path:
        change = (
            ["-o", f"remount,size={size_bytes}"]
            if folder.is_mount()
            else ["-o", f"size={size_bytes}"]
        )
        command = ["mount", "-t", "tmpfs", *change, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this user may not mount a file system")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
# The share of the second checkpoint that fits: it fails in the weights, in the optimizer's state,
# or at the end.
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_the_checkpoint_before_stays_and_the_run_goes_on(recipe, disk, share, capsys):
    whole = recipe.parent / "whole"
    # log, picture, settings
    out = disk(int(size(whole / "checkpoint-2") * (1 + share)) + 3 * 4096) / "out"
    argv = ["train", "--config", str(recipe), "--output_dir", str(out)]
    assert cli.main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith(
        f"shaped-trl: error: output_dir='{out}': no space left on the device while saving"
    )
    assert lines[-1].endswith(f"the same command continues from {out / 'checkpoint-2'}")
    assert last_checkpoint(out) == str(out / "checkpoint-2")
    disk(64 * 2**20)
    assert cli.main(argv) == 0
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, out))
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)
