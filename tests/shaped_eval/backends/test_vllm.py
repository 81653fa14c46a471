"""The vllm backend with a real engine: the same answers as transformers, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_vllm import alive, needs_vllm, tree
from shaped_eval.backends import Request, load_backend
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.sample import sample
from tiny_eval import CONTEXT_TOKENS, NUM_PROBLEMS, check_first_words, save_hostile_model
from waiting import wait_until

pytestmark = needs_vllm
PROMPTS = ("Question: w1 w2 Answer:", "Question: w9 w4 Answer:")
GREEDY = {"n": 1, "temperature": 0.0, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_hostile_model(folder, head_dim=32)  # vLLM has no smaller one on a CPU
    return folder


@pytest.fixture(scope="module")
def engine(model_folder, mirror, tmp_path_factory) -> Iterator:
    """One backend for the tests that differ in their requests alone."""
    config = SampleConfig(
        model=str(model_folder),
        benchmarks="gsm8k",
        hub_mirror=str(mirror),
        backend="vllm",
        out=str(tmp_path_factory.mktemp("unused")),
        temperature=0.7,
        top_p=0.9,
        max_new_tokens=200,
    )
    backend = load_backend(config)
    backend.prepare()
    return backend


def answers(backend, requests: list[Request]) -> list[list[tuple[str, str, int]]]:
    done = dict(backend.complete(requests))
    return [
        [(one.text, one.finish_reason, one.tokens) for one in done[index]]
        for index in range(len(requests))
    ]


def test_greedy_answers_are_those_of_transformers(engine, make_config):
    """Texts, reasons and tokens: stop strings, end tokens, and a prompt near the context's end."""
    peer = load_backend(make_config(temperature=0.7, top_p=0.9, max_new_tokens=200))
    long = "w1 w2 " * (CONTEXT_TOKENS // 2 - 3)
    requests = [
        Request((prompt,), 1, seed=i, stop=stop, greedy=True)
        for i, (prompt, stop) in enumerate(
            [
                *((f"Question: w{i} w{i + 5} Answer:", ("w3 w", "####")) for i in range(9)),
                (long, ()),
            ]
        )
    ]
    found = answers(engine, requests)
    assert found == answers(peer, requests)
    assert {reason for [(_, reason, _)] in found} == {"stop", "length"}
    assert found[-1][0][1:] == ("length", 6)


def test_samples_have_the_distribution_and_follow_their_seed(engine, model_folder):
    # vLLM draws sample i of a request with the request's seed + i
    requests = [Request((PROMPTS[i % 2],), 128, seed=1000 * i) for i in range(8)]
    done = answers(engine, requests)
    for parity, prompt in enumerate(PROMPTS):
        words = [(text.split() or [""])[0] for one in done[parity::2] for text, _, _ in one]
        check_first_words(words, model_folder, prompt, 0.7, 0.9)
    backwards = answers(engine, requests[::-1])[::-1]
    assert backwards == done, "the order of the requests matters"
    assert done[0] != done[2], "two seeds gave the same samples"


def test_a_run_says_what_ran(make_config, engine):
    record = json.loads((sample(make_config(backend="vllm", **GREEDY)) / "run.json").read_text())
    assert record["dtype"] == "float32"
    assert record["device"] == "cpu"
    assert record["versions"]["vllm"].split()[0].count(".") == 2, record["versions"]


def command(config: SampleConfig) -> list[str]:
    options = ("model", "benchmarks", "hub_mirror", "n", "batch_size", "out", "temperature")
    options += ("backend", "max_new_tokens", "vllm_tensor_parallel_size")
    words = [word for name in options for word in (f"--{name}", str(getattr(config, name)))]
    return [sys.executable, "-m", "shaped_trl.cli", "sample", *words]


@pytest.mark.parametrize(("how", "workers"), [(signal.SIGKILL, 1), (signal.SIGTERM, 2)])
def test_a_killed_run_leaves_nothing_and_continues(make_config, tmp_path, how, workers):
    config = make_config(
        backend="vllm", n=60, batch_size=20, max_new_tokens=100, vllm_tensor_parallel_size=workers
    )
    samples = Path(config.out) / "samples.jsonl"
    # one core for each worker, where there is one NUMA node for all
    environment = os.environ | ({"VLLM_CPU_OMP_THREADS_BIND": "0|1"} if workers > 1 else {})
    with open(tmp_path / "log", "w") as log:
        run = subprocess.Popen(command(config), stdout=log, stderr=log, env=environment)

    def engine_runs() -> bool:
        assert run.poll() is None, (tmp_path / "log").read_text()
        names = [process.name() for process in tree(run.pid)]
        return sum(name.startswith("VLLM::Worker") for name in names) >= workers

    try:
        wait_until(engine_runs)
        processes = tree(run.pid)
        run.send_signal(how)
        run.wait()
        wait_until(lambda: not alive(processes))
    finally:
        run.kill()
    assert not samples.exists() or len(list(read_jsonl(samples, Sample))) < 60 * NUM_PROBLEMS
    if workers == 1:
        subprocess.run(command(config), check=True, capture_output=True)
        assert len(list(read_jsonl(samples, Sample))) == 60 * NUM_PROBLEMS


@pytest.mark.parametrize(
    ("options", "mended"),
    [
        ({"vllm_max_model_len": 4096}, "vllm_max_model_len"),
        ({"vllm_args": '{"max_num_seqs": 0}'}, "max_num_seqs"),
    ],
)
def test_what_the_engine_refuses_is_one_line(make_config, options, mended):
    config = make_config(backend="vllm", **options)
    with pytest.raises(UserError) as caught:
        sample(config)
    assert "\n" not in str(caught.value)
    assert mended in str(caught.value)
    assert not (Path(config.out) / "run.json").exists()


def test_an_argument_that_the_engine_lacks_is_named(make_config):
    with pytest.raises(UserError, match="no argument 'max_num_seq': did you mean 'max_num_seqs'"):
        sample(make_config(backend="vllm", vllm_args='{"max_num_seq": 4}'))
