"""The openai backend against vLLM's own server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from real_vllm import alive, needs_vllm, tree
from shaped_eval.backends import Request, load_backend, openai
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.sample import sample
from tiny_eval import CONTEXT_TOKENS, NUM_PROBLEMS, check_first_words, save_hostile_model
from transformers import AutoTokenizer
from waiting import wait_for_server, wait_until

pytestmark = needs_vllm
GREEDY = {"n": 1, "temperature": 0.0, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_hostile_model(folder, head_dim=32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for one in messages %}Question: {{ one.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


class Served:
    """vLLM's server at one address; it can be killed and started again."""

    def __init__(self, model: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        # `vllm serve` looks for a distribution called vllm, which its CPU build is not
        self.command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        self.command += ["--model", str(model), "--host", "127.0.0.1", "--port", str(self.port)]
        self.command += ["--dtype", "float32", "--generation-config", "vllm"]
        self.command += ["--no-enable-chunked-prefill"]
        self.log = log
        self.processes: list[psutil.Process] = []

    def start(self) -> None:
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def wait(self) -> None:
        wait_for_server(self.url.removesuffix("/v1"), self.process, self.log)

    def kill(self) -> None:
        """With its engine, which would live on."""
        processes = tree(self.process.pid)
        for process in processes:
            process.kill()
        self.process.wait()
        wait_until(lambda: not alive(processes))


@pytest.fixture(scope="module")
def served(model_folder, tmp_path_factory) -> Iterator[Served]:
    server = Served(model_folder, tmp_path_factory.mktemp("server") / "log")
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


@pytest.fixture
def config_of(make_config, served):
    def make(out: str = "served", **changes):
        return make_config(out, **{"backend": "openai", "base_url": served.url, **changes})

    return make


def rows(folder: Path) -> list[Sample]:
    return list(read_jsonl(folder / "samples.jsonl", Sample))


@pytest.mark.parametrize("chat", [False, True], ids=["text", "chat"])
def test_greedy_answers_are_those_of_transformers(config_of, make_config, chat):
    """Texts, reasons and numbers of tokens."""
    options = GREEDY | {"chat_template": chat}
    found = rows(sample(config_of(**options)))
    assert found == rows(sample(make_config("here", **options)))
    assert len({row.completion for row in found}) > 1


def test_sixteen_samples_have_the_distribution_and_their_own_counts(config_of, model_folder):
    backend = load_backend(config_of(temperature=0.7, top_p=0.9, max_new_tokens=30))
    backend.prepare()
    assert backend.context_tokens() == CONTEXT_TOKENS
    prompt = "Question: w1 w2 Answer:"
    requests = [Request((prompt,), 16, seed=1000 * i) for i in range(64)]
    samples = [one for _, done in backend.complete(requests) for one in done]
    assert len(samples) == 1024
    words = [(one.text.split() or [""])[0] for one in samples]
    check_first_words(words, model_folder, prompt, 0.7, 0.9)
    for one in samples:
        assert one.tokens == len(one.text.split()) + (one.finish_reason == "stop")


def test_prompts_near_the_end_of_the_context_are_truncated(config_of, make_config):
    backend, here = (load_backend(make(max_new_tokens=40)) for make in (config_of, make_config))
    backend.prepare()
    long = "w1 w2 " * (CONTEXT_TOKENS // 2 - 3)
    for prompt in (long, "w1 " * CONTEXT_TOKENS, "w1 " * (CONTEXT_TOKENS + 40)):
        [(_, [found])] = backend.complete([Request((prompt,), 1, seed=0, greedy=True)])
        assert found.finish_reason == "length"
        if prompt is long:
            [expected] = here.generate(Request((prompt,), 1, seed=0, greedy=True))
            assert found == expected
        else:
            assert (found.text, found.tokens) == ("", 0)


def test_a_server_that_dies_and_comes_back_is_waited_for(config_of, served, monkeypatch):
    monkeypatch.setattr(openai, "RETRIES", {"total": 100})
    monkeypatch.setattr(openai, "BACKOFF_S", 0.01)
    config = config_of("waited", n=60, batch_size=2, concurrency=2, max_new_tokens=60)
    work = threading.Thread(target=sample, args=(config,))
    work.start()
    wait_until(lambda: (Path(config.out) / "samples.jsonl").exists() or not work.is_alive())
    assert work.is_alive()
    served.kill()
    served.start()
    served.wait()
    work.join()
    assert len(rows(Path(config.out))) == 60 * NUM_PROBLEMS
