"""Experiment trackers get the columns of the log, without a network and without an account."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from shaped_eval.records import read_jsonl
from tiny import text_rows

MODEL = (
    "{model_type: qwen3, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, "
    "num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16}"
)
OPTIONS = {
    "from_scratch": MODEL,
    "dataset_name": "texts.jsonl",
    "tokenizer_vocab_size": 300,
    "max_steps": 2,
    "logging_steps": 1,
    "max_length": 32,
    "shape": "precision",
    "output_dir": "out",
    "use_cpu": "true",
}
# a process that refuses to connect to anything but itself
OFFLINE = """
import socket, sys
connect = socket.socket.connect
def local(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("connects to", address, file=sys.stderr)
        raise OSError("there is no network")
    return connect(self, address)
socket.socket.connect = local
from shaped_trl.cli import main
sys.exit(main(sys.argv[1:]))
"""


def train(folder: Path, tracker: str) -> str:
    """Train two steps with a tracker. Returns what was printed."""
    text_rows(16).to_json(str(folder / "texts.jsonl"))
    options = OPTIONS | {"report_to": tracker}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    run = subprocess.run(
        [sys.executable, "-c", OFFLINE, "train", *words],
        cwd=folder,
        env=os.environ | {"TRACKIO_DIR": str(folder / "store"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr


@pytest.mark.slow
def test_trackio_stores_the_log_on_this_machine(tmp_path):
    assert "connects to" not in train(tmp_path, "trackio")
    logged = [row for row in read_jsonl(tmp_path / "out" / "train_log.jsonl") if "loss" in row]
    with sqlite3.connect(tmp_path / "store" / "huggingface.db") as database:
        rows = database.execute("select metrics from metrics order by id").fetchall()
    stored = [found for (row,) in rows if "train/nll" in (found := json.loads(row))]
    assert len(stored) == len(logged) == OPTIONS["max_steps"]
    for row, found in zip(logged, stored, strict=True):
        for name in ("loss", "nll", "entropy", "head_mass", "tail_mass"):
            assert found[f"train/{name}"] == pytest.approx(row[name])
