"""A backend of the user's own, by its path or an installed package's entry point."""

import sys
from importlib import metadata

import pytest
from shaped_eval import config as run_config
from shaped_eval.backends import load_backend
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.sample import sample

CODE = """
from shaped_eval.backends import Completion

class Upper:
    identity, device, repeatability, together = "upper", "cpu", "The same.", False

    def __init__(self, config):
        self.suffix = config.model

    def prompt_tokens(self, prompt):
        return None

    def context_tokens(self):
        return None

    def prepare(self):
        pass

    def complete(self, requests):
        for index, request in enumerate(requests):
            text = request.prompts[0].upper()[:3] + self.suffix
            yield index, [Completion(text, "stop", 1)] * request.num_samples

class Half:
    identity, device, repeatability, together = "half", "cpu", "The same.", False

    def __init__(self, config):
        pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_backends.py").write_text(CODE)
    yield tmp_path
    sys.modules.pop("own_backends", None)


def config(backend: str) -> SampleConfig:
    return SampleConfig(
        model="!", benchmarks="running_sums", backend=backend, limit=2, n=2, out="run"
    )


def test_it_samples(folder):
    sample(config("own_backends:Upper"), progress=False)
    rows = list(read_jsonl(folder / "run" / "samples.jsonl", Sample))
    assert len(rows) == 4
    assert all(
        row.completion == row.completion.upper() and row.completion[-1] == "!" for row in rows
    )


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        ("own_backends:Lower", "own_backends.py does not define 'Lower'"),
        ("no_such_module:Upper", "there is no module 'no_such_module'"),
        (
            "vllmm",
            "'vllmm' is not available: use transformers or vllm or openai, or one of your own",
        ),
    ],
)
def test_a_wrong_name_is_refused_with_the_options(folder, backend, reason):
    with pytest.raises(UserError, match=reason):
        config(backend)


def test_a_part_that_is_missing_is_named(folder):
    with pytest.raises(UserError, match="'own_backends:Half' does not have 'prompt_tokens'"):
        load_backend(config("own_backends:Half"))


def test_an_installed_package_may_offer_one(folder, monkeypatch):
    point = metadata.EntryPoint("upper", "own_backends:Upper", run_config.ENTRY_POINTS)
    monkeypatch.setattr(run_config, "installed", lambda group: {"upper": point})
    assert load_backend(config("upper")).identity == "upper"
