"""Fixtures of the sampling tests: a tiny model with hostile generation settings, and a mirror."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from openai_server import config_of, server  # noqa: F401
from shaped_eval.config import SampleConfig
from tiny_eval import NUM_PROBLEMS, save_hostile_model


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_hostile_model(folder)
    return folder


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    """Invented rows in GSM8K's layout."""
    folder = tmp_path_factory.mktemp("mirror")
    for split, count in (("train", 4), ("test", NUM_PROBLEMS)):
        path = folder / "openai/gsm8k/main" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"question": f"w{i} w{i + 1}", "answer": f"w{i}\n#### {i}"} for i in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def make_config(model_folder, mirror, tmp_path):
    def make(out: str = "run", **changes) -> SampleConfig:
        settings = {
            "model": str(model_folder),
            "benchmarks": "gsm8k",
            "hub_mirror": str(mirror),
            "n": 5,
            "batch_size": 2,
            "max_new_tokens": 12,
            "temperature": 1.0,
            "top_p": 0.95,
        }
        return SampleConfig(**{**settings, "out": str(tmp_path / out), **changes})

    return make
