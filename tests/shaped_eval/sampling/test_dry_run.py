"""`eval --dry_run`: counts against the run, and a time from a part of it."""

from __future__ import annotations

from pathlib import Path

from shaped_eval.backends import TransformersBackend
from shaped_eval.sample import sample
from shaped_eval.sampling import dry_run as module
from shaped_eval.sampling.dry_run import dry_run


def lines_of(config) -> dict[str, str]:
    lines = [line.split(maxsplit=1) for line in dry_run(config)]
    return dict(lines)


def test_the_plan_has_the_numbers_of_the_run_and_writes_nothing(make_config, tmp_path):
    config = make_config(batch_size="auto", n=3)
    said = lines_of(config)
    assert not Path(config.out).exists()
    assert said["samples"] == "18, at most 216 tokens, in 1 batch"
    assert said["benchmark"].startswith("gsm8k: 6 problems, prompts of ")
    backend = TransformersBackend(config)
    backend.prepare()
    weights = sum(each.numel() * each.element_size() for each in backend.model.parameters())
    assert said["memory"].startswith(f"{weights / 2**30:.2f} GiB of weights")
    assert said["time"].startswith("about 0 s") or said["time"].startswith("about 1 s")
    assert " tokens of 18 samples took " in said["time"]
    sample(config)  # the same folder is free


def test_a_long_run_is_timed_in_part(make_config, monkeypatch):
    monkeypatch.setattr(module, "TIMED_S", -1.0)
    said = lines_of(make_config(batch_size=4, n=2, max_new_tokens=30))
    assert "4 tokens of 4 samples took " in said["time"], "one step of one batch"


def test_a_server_is_not_asked(config_of):
    assert "may cost money" in lines_of(config_of(n=1))["time"]
