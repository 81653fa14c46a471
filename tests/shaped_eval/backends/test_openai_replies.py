"""Replies of an OpenAI-compatible server that violate the protocol."""

from __future__ import annotations

import gzip
import tracemalloc
from typing import Any

import pytest
from shaped_eval.backends import openai
from shaped_eval.errors import UserError
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.sample import sample
from shaped_eval.untrusted.texts import encodable


def reply(**changes: Any) -> dict[str, Any]:
    """A complete reply to a request for one sample, with changes in its choice or in itself."""
    choice = {"index": 0, "text": "w1", "finish_reason": "stop"}
    whole = {"choices": [choice], "usage": {"completion_tokens": 3}}
    choice |= {name: value for name, value in changes.items() if name not in whole}
    return whole | {name: value for name, value in changes.items() if name in whole}


def samples_of(folder) -> list[Sample]:
    return list(read_jsonl(folder / "samples.jsonl", Sample))


@pytest.mark.parametrize(
    ("fault", "text", "tokens"),
    [
        (reply(text="a \ud800 b \ud83d\ude00"), f"a {encodable(chr(0xD800))} b 😀", 3),
        (reply(usage=[1]), "w1", 0),
        (reply(usage={"completion_tokens": "many"}), "w1", 0),
        (reply(usage={"completion_tokens": -5}), "w1", 0),
        (reply(usage={"completion_tokens": float("inf")}), "w1", 0),
        (reply(index="first"), "w1", 3),
    ],
)
def test_a_reply_that_says_what_is_needed_is_a_sample(config_of, server, fault, text, tokens):
    server.fault = lambda body, count: (200, fault)
    samples = samples_of(sample(config_of(n=1, batch_size=1)))
    assert {(row.completion, row.tokens) for row in samples} == {(text, tokens)}
    assert len(samples) == 6


@pytest.mark.parametrize(
    ("fault", "chat"),
    [
        (reply(text=None), False),
        (reply(text=["w1"]), False),
        (reply(finish_reason=["stop"]), False),
        (reply(choices=["w1"]), False),
        (reply(choices={"0": "w1"}), False),
        (reply(message="w1"), True),
        (reply(message={"content": {"text": "w1"}}), True),
        ("[" * 100_000, False),
    ],
)
def test_a_reply_of_wrong_types_does_not_hold_up_the_others(config_of, server, fault, chat):
    """One of six requests always gets such a reply.

    All others are done, and the next command sends only that one.
    """
    options = {"n": 1, "batch_size": 1, "concurrency": 1, "chat_template": chat}
    sample(config_of("whole", **options))
    marked = server.asked[0]["seed"]
    server.fault = lambda body, count: (200, fault) if body["seed"] == marked else None
    for _ in range(2):
        before = len(server.asked)
        with pytest.raises(UserError, match=r"base_url=.*the samples so far are kept"):
            sample(config_of(**options))
    assert len(server.asked) == before + 1
    server.fault = lambda body, count: None
    assert len(samples_of(sample(config_of(**options)))) == 6


def test_many_replies_of_wrong_types_end_the_run(config_of, server):
    server.fault = lambda body, count: (200, reply(text=None))
    with pytest.raises(UserError, match="text=None, which does not conform to OpenAI's protocol"):
        sample(config_of(n=8, batch_size=1, concurrency=1))
    assert len(server.asked) >= openai.MOST_BAD_REPLIES


def test_a_reply_is_read_up_to_what_was_asked_for(config_of, server):
    """Of a compressed reply, what it would become does not count, since it stays as it is."""
    most = openai.MOST_BYTES + 12 * openai.BYTES_PER_TOKEN
    long = reply(text="w1" + " " * most)
    packed = gzip.compress(b" " * (200 << 20))
    for fault, message in (
        ((200, long), f"a reply of the server has more than {most:,} bytes"),
        ((400, "e" * 2 * most), f"a reply of the server has more than {most:,} bytes"),
        ((503, "e" * 2 * most), f"a reply of the server has more than {most:,} bytes"),
        ((200, packed, {"Content_Encoding": "gzip"}), "does not speak OpenAI's protocol"),
    ):
        server.fault = lambda body, count, fault=fault: fault
        tracemalloc.start()
        with pytest.raises(UserError, match=message) as caught:
            sample(config_of(n=1, batch_size=1, concurrency=1))
        most_memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "\n" not in str(caught.value)
        assert most_memory < 10 * most
    assert set(server.encodings) == {"identity"}


def test_a_reply_that_is_too_long_does_not_hold_up_the_others(config_of, server, monkeypatch):
    """Its connection is given up, and its place among the connections is free again."""
    monkeypatch.setattr(openai, "MOST_BYTES", 5_000)
    options = {"n": 1, "batch_size": 1, "concurrency": 1}
    server.fault = lambda body, count: (200, reply(text=" " * 100_000)) if count < 5 else None
    with pytest.raises(UserError, match=r"\(4 such replies; the samples so far are kept\)"):
        sample(config_of(**options))
    assert len(server.asked) == 6
    assert len(samples_of(sample(config_of(**options)))) == 6


def test_no_redirection_is_followed(config_of, server):
    elsewhere = {"Location": f"{server.url}/elsewhere", "Connection": "keep-alive"}
    server.fault = lambda body, count: (307, "moved", elsewhere)
    with pytest.raises(UserError, match=r"redirects to 'http.*/elsewhere' \(307\): give the add"):
        sample(config_of(n=1, batch_size=1))
    assert "/v1/elsewhere" not in server.paths


@pytest.mark.parametrize("models", [[5, None, {"id": 7}], {"tiny": 1}, "tiny"])
def test_a_list_of_models_of_wrong_types_is_no_list(config_of, server, models):
    server.models = models
    assert len(samples_of(sample(config_of(n=1, batch_size=1)))) == 6
    assert server.asked[0]["max_tokens"] == 1, (
        "the model is not in the list: one token of it was asked for"
    )
