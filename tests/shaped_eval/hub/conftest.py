"""Fixtures of the tests of publishing: a checkpoint, and a finished run of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_run import GSM8K, write_run
from shaped_eval.hub.leaderboards import LEADERBOARDS, Leaderboard


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def run(tmp_path, checkpoint, monkeypatch) -> Path:
    monkeypatch.setitem(LEADERBOARDS, "gsm8k", Leaderboard("openai/gsm8k", "gsm8k", len(GSM8K)))
    return write_run(tmp_path / "run", checkpoint)
