"""OpenAI-compatible servers: one that misbehaves on command, and the real `transformers serve`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from shaped_eval.backends import openai
from shaped_eval.errors import UserError
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.sample import sample
from shaped_eval.sampling import progress
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config
from transformers import Qwen3ForCausalLM as Qwen3
from waiting import PATIENCE_S, wait_for_server


def rows(folder: Path) -> dict[tuple[str, int], Sample]:
    return {
        (row.problem_id, row.sample_index): row
        for row in read_jsonl(folder / "samples.jsonl", Sample)
    }


def test_no_time_left_is_shown_before_as_many_samples_have_ended_as_are_asked_for_together(
    config_of, server, monkeypatch, capsys
):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    sample(config_of(concurrency=3))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sampling")]
    done = {int(line.split()[1]): "left" in line for line in lines}
    assert len(done) == 18
    assert {count: count >= 3 * 2 for count in done} == done, "three requests of up to two samples"


def test_requests_are_what_the_protocol_says(config_of, server):
    two = threading.Barrier(2)

    def meet(body, count):
        if count <= 2:  # answers only when two requests are in progress at once
            two.wait(timeout=PATIENCE_S)

    server.fault = meet
    folder = sample(config_of(concurrency=3))
    assert len(server.asked) == 18, "five samples in chunks of two, two and one"
    assert set(server.paths) == {"/v1/completions"}
    prompts = [row["prompt"] for row in read_jsonl(folder / "problems.jsonl")]
    assert {body["prompt"] for body in server.asked} == set(prompts)
    first = next(body for body in server.asked if "n" in body)
    assert {k: v for k, v in first.items() if k not in ("prompt", "seed")} == {
        "model": "tiny",
        "n": 2,
        "max_tokens": 12,
        "temperature": 1.0,
        "top_p": 0.95,
        "stop": ["\nQuestion:"],
    }
    assert len({body["seed"] for body in server.asked}) == 18
    assert all(0 <= body["seed"] < 2**31 for body in server.asked)
    done = rows(folder)
    assert list(done) == [(f"gsm8k/{p}", i) for p in range(6) for i in range(5)], (
        "in order, however they came"
    )
    assert done["gsm8k/0", 1].completion.endswith("-1"), (
        "choices in the order of their index, cut at the stop string"
    )
    assert {row.finish_reason for row in done.values()} == {"stop"}
    assert [done["gsm8k/0", i].tokens for i in range(5)] == [8, 7, 8, 7, 8], (
        "equal shares of the server's count"
    )
    assert 1 < server.most_under_way <= 3
    record = json.loads((folder / "run.json").read_text())
    assert record["base_url"] == server.url
    assert record["repeatability"].startswith("best effort: a seed for each request")
    count = len(server.asked)
    assert rows(sample(config_of(concurrency=1))) == done
    assert len(server.asked) == count, "a finished run asks for nothing"


def test_a_chat_goes_to_the_chat_endpoint(config_of, server):
    folder = sample(config_of(chat_template=True, limit=1))
    assert set(server.paths) == {"/v1/chat/completions"}
    prompt = next(read_jsonl(folder / "problems.jsonl"))["prompt"]
    assert server.asked[0]["messages"] == [{"role": "user", "content": prompt}]
    assert "stop" not in server.asked[0]
    assert rows(folder)["gsm8k/0", 0].finish_reason == "length"


def test_the_key_is_sent_and_not_stored(config_of, server, monkeypatch):
    monkeypatch.setenv(openai.KEY_VARIABLE, "sk-secret")
    folder = sample(config_of(limit=1))
    assert server.keys == ["Bearer sk-secret"]
    for path in folder.iterdir():
        assert "sk-secret" not in path.read_text()


@pytest.mark.parametrize("fault", ["429", "503", "drop", "slow"])
def test_a_passing_fault_is_waited_out(config_of, server, monkeypatch, fault):
    undisturbed = rows(sample(config_of("undisturbed", limit=2)))
    asked = len(server.asked)
    monkeypatch.setattr(openai, "READ_TIMEOUT_S", 5.0)
    ended = threading.Event()

    def once(body, count):
        if count - asked > 2:
            return None
        if fault == "slow":
            if count - asked == 2:  # later requests have as much time as they need
                monkeypatch.setattr(openai, "READ_TIMEOUT_S", PATIENCE_S)
            ended.wait()
            return None
        return (
            "drop"
            if fault == "drop"
            else (int(fault), {"error": {"message": "busy"}}, {"Retry_After": "0"})
        )

    server.fault = once
    try:
        assert rows(sample(config_of("disturbed", limit=2, concurrency=2))) == undisturbed
    finally:
        ended.set()
    assert len(server.asked) == 2 * asked + 2


def test_fewer_choices_than_asked_are_never_samples(config_of, server):
    server.fault = lambda body, count: (
        200,
        {"choices": [{"index": 0, "text": "one", "finish_reason": "stop"}]},
    )
    with pytest.raises(
        UserError, match=r"asked for n=2 choices and returned 1: use --batch_size 1"
    ):
        sample(config_of())
    assert len(rows(sample(config_of("single", batch_size=1)))) == 30


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            (401, {"error": {"message": "no key"}}),
            r"refuses the key \(401, no key\): set OPENAI_API_KEY",
        ),
        (
            (404, {"error": {"message": "no such model"}}),
            r"^model='other' is not found at .*: the server's models are tiny",
        ),
        (
            (400, {"detail": "prompt\nis too long"}),
            r"refuses the request \(400\): prompt is too long",
        ),
        (
            (200, "<html>hello</html>"),
            r"does not speak OpenAI's protocol \(<html>hello</html>\): give the server's",
        ),
        (
            (500, {"error": "broken"}),
            r"still answers 500 \(broken\): check the server's log, or lower --concurrency",
        ),
    ],
)
def test_a_refusal_is_one_line_before_anything_is_written(
    config_of, server, tmp_path, fault, message
):
    server.fault = lambda body, count: fault
    with pytest.raises(UserError, match=message) as caught:
        sample(config_of(model="other"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_unfinished_completion_is_an_error(config_of, server):
    choices = [{"index": i, "text": "", "finish_reason": "abort"} for i in range(2)]
    server.fault = lambda body, count: (200, {"choices": choices[: body.get("n", 1)]})
    with pytest.raises(UserError, match="a completion is unfinished"):
        sample(config_of())


def test_a_refusal_amid_the_run_keeps_what_is_there(config_of, server):
    server.fault = lambda body, count: (
        (400, {"error": {"message": "context"}}) if count > 9 else None
    )
    with pytest.raises(UserError, match=r"\(400\): context"):
        sample(config_of(concurrency=1))
    server.fault = lambda body, count: None
    refused = len(server.asked)
    assert len(rows(sample(config_of()))) == 30
    seeds = [body["seed"] for body in server.asked]
    assert set(seeds[refused:]).isdisjoint(seeds[:9])
    assert len(set(seeds)) == 18


def test_without_a_server_nothing_is_tried_again(make_config, monkeypatch):
    tried = []  # sent by threads; a request of another test may still be in progress
    monkeypatch.setattr(openai.Retry, "sleep", lambda *_: tried.append(threading.current_thread()))
    with pytest.raises(
        UserError, match=r"base_url='http://127.0.0.1:9/v1' does not answer .*: start the server"
    ):
        sample(make_config(backend="openai", base_url="http://127.0.0.1:9/v1"))
    assert threading.current_thread() not in tried


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"base_url": "localhost:8000/v1"},
            "base_url='localhost:8000/v1' is not an address: give the whole of it",
        ),
        ({"base_url": ""}, "base_url='' is not an address"),
        ({"base_url": "http://me:word@host/v1"}, "base_url holds a user, a password"),
        ({"concurrency": 0}, "concurrency=0 is out of range"),
        (
            {"backend": "transformers"},
            "base_url='http.*' has no meaning with backend='transformers'",
        ),
        (
            {"continuous_batching": True},
            "continuous_batching=True has no meaning with backend='openai'",
        ),
    ],
)
def test_bad_options_are_refused(config_of, change, message):
    with pytest.raises(UserError, match=message):
        config_of(**change)


CHAT_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
"""


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory) -> Path:
    """A random Qwen3 with bytes as tokens whose settings sample, as `transformers serve` needs."""
    folder = tmp_path_factory.mktemp("bytes")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(
        models.BPE({"<eos>": 0} | {letter: i for i, letter in enumerate(alphabet, 1)}, [])
    )
    core.pre_tokenizer, core.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    model = Qwen3(
        Qwen3Config(vocab_size=257, head_dim=16, intermediate_size=64, bos_token_id=None, **sizes)
    )
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0, do_sample=True)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real_server(byte_model, tmp_path_factory) -> Iterator[str]:
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi, uvicorn and openai")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("home")
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(byte_model)]
    environment = {
        **os.environ,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    with open(home / "log", "w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for_server(f"http://127.0.0.1:{port}", process, home / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_transformers_serve_is_a_server_that_can_be_sampled(make_config, byte_model, real_server):
    settings = {
        "backend": "openai",
        "base_url": real_server,
        "model": str(byte_model),
        "limit": 2,
        "n": 3,
    }
    with pytest.raises(UserError, match="asked for n=2 choices and returned 1: use --batch_size 1"):
        sample(make_config("together", **settings))
    done = rows(sample(make_config("single", **settings, batch_size=1)))
    assert len(done) == 6
    assert len({row.completion for row in done.values()}) == 6, (
        "seeds differ, and the server samples"
    )
    assert all(1 <= row.tokens <= 12 for row in done.values())
    assert all((row.tokens == 12) == (row.finish_reason == "length") for row in done.values())
    again = rows(sample(make_config("again", **settings, batch_size=1, concurrency=1)))
    assert again == rows(
        sample(make_config("once_more", **settings, batch_size=1, concurrency=1))
    ), "seeds are heeded"
    chat = rows(sample(make_config("chat", **settings, batch_size=1, chat_template=True)))
    assert len(chat) == 6
    assert not any("Reason step by step" in row.completion for row in chat.values())
    with pytest.raises(UserError, match=r"refuses the request \(400\): Server is pinned to"):
        sample(make_config("other", **{**settings, "model": "other"}))
