"""What an OpenAI-compatible server says about its model: the context's length, and token counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from shaped_eval.backends import Request, load_backend
from shaped_eval.backends.openai import ContextRefusal
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_run
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.report import report
from shaped_eval.sample import sample

LONG, TOO_LONG = "w5 w6", "w4 w5"  # in the prompts of problems 5 and 4 alone
BOTH = (LONG, TOO_LONG)
VLLM = {"id": "tiny", "owned_by": "vllm", "max_model_len": 40}
REFUSAL = (
    "This model's maximum context length is 40 tokens. However, you requested 12 output tokens "
    "and your prompt contains at least 29 input tokens"
)


def samples_of(folder) -> list[Sample]:
    return list(read_jsonl(folder / "samples.jsonl", Sample))


def test_vllm_counts_the_tokens_of_each_sample(config_of, server, capsys):
    server.models = [VLLM]

    def counted(body: dict[str, Any], count: int):
        if "n" not in body:
            return None
        choices = [
            {"index": i, "text": "w1", "finish_reason": "stop", "token_ids": [5] * (i + 1)}
            for i in range(body["n"])
        ]
        return 200, {"choices": choices, "usage": {"completion_tokens": 3}}

    server.fault = counted
    samples = samples_of(sample(config_of(n=2)))
    assert [row.tokens for row in samples] == [1, 2] * 6
    assert all(body["return_token_ids"] is True for body in server.asked)
    assert "equal shares" not in capsys.readouterr().err


def test_a_process_that_did_not_prepare_the_run_asks_the_same(config_of, server):
    """Of several processes that share a run, only the first one prepares."""
    server.models = [VLLM]
    backend = load_backend(config_of(max_new_tokens=4096))
    assert backend.context_tokens() is None
    list(backend.complete([Request(("w1",), 1, seed=0)]))
    [body] = server.asked
    assert (body["return_token_ids"], body["max_tokens"]) == (True, 39)
    assert backend.context_tokens() == 40


def test_another_server_is_not_asked_for_them_and_the_share_is_said(config_of, server, capsys):
    server.models = [{"id": "tiny", "owned_by": "me"}]
    out = sample(config_of(n=2))
    assert {row.tokens for row in samples_of(out)} == {8, 7}
    assert not any("return_token_ids" in body for body in server.asked)
    assert capsys.readouterr().err.count("equal shares") == 1
    grade_run(out)
    report([out])
    (entry,) = json.loads((out / "results.json").read_text()).values()
    assert not [name for name in entry["reliability"] if "within" in name or "tokens" in name]


@pytest.mark.parametrize("length", ["40", -1, True, None, [40]])
def test_a_context_of_another_type_is_not_known(config_of, server, length):
    server.models = [VLLM | {"max_model_len": length}]
    sample(config_of(n=1, batch_size=1))
    assert {body["max_tokens"] for body in server.asked} == {12}


def test_no_more_tokens_are_asked_for_than_the_context_has(config_of, server):
    server.models = [VLLM]
    sample(config_of(n=1, batch_size=1, max_new_tokens=4096))
    assert {body["max_tokens"] for body in server.asked} == {39}


@pytest.mark.parametrize("models", [[VLLM], ["tiny"]], ids=["vllm", "other"])
def test_a_prompt_that_does_not_fit_is_a_truncated_completion(config_of, server, models):
    """One prompt leaves five tokens of the 12 that are asked for, another one none at all.

    A server whose list of models does not have its context says it when it refuses.
    """
    room = 5
    server.models = models

    def refuse(body: dict[str, Any], count: int):
        if TOO_LONG in body["prompt"] or (LONG in body["prompt"] and body["max_tokens"] > 5):
            return 400, {"error": {"message": REFUSAL}}
        if LONG in body["prompt"]:
            choice = {"index": 0, "text": "w " * body["max_tokens"], "finish_reason": "length"}
            usage = {"prompt_tokens": 35, "completion_tokens": body["max_tokens"]}
            return 200, {"choices": [choice], "usage": usage}
        return None

    server.fault = refuse
    done = {row.problem_id: row for row in samples_of(sample(config_of(n=1, batch_size=1)))}
    assert len(done) == 6
    full, cut = done["gsm8k/4"], done["gsm8k/5"]
    assert (full.completion, full.finish_reason, full.tokens) == ("", "length", 0)
    assert (cut.completion, cut.finish_reason, cut.tokens) == ("w " * room, "length", room)
    asked = {name: [b["max_tokens"] for b in server.asked if name in b["prompt"]] for name in BOTH}
    assert asked == {LONG: [12, 1, room], TOO_LONG: [12, 1]}


def test_a_context_that_nobody_says_is_an_error(config_of, server):
    """Completions of one token, which it would leave, would count as wrong answers."""

    def refuse(body: dict[str, Any], count: int):
        message = "the context window is exceeded" if body["max_tokens"] > 1 else None
        return (400, {"error": {"message": message}}) if message else None

    server.fault = refuse
    with pytest.raises(UserError, match="max_new_tokens=12 is too much for a prompt"):
        sample(config_of(n=1, batch_size=1))


@pytest.mark.parametrize(
    ("message", "tokens"),
    [
        ("This model's maximum context length is 4097 tokens. However, you asked for 5000", 4097),
        ("Requested token count exceeds the model's maximum context length of 4096 tokens.", 4096),
        ("the request exceeds the available context size (512 tokens), try increasing it", 512),
        ("maximum context length is 32,768 tokens", 32768),
        ("the context window: 1.5k", None),
        ("context length exceeded: 5000 > 4096", None),
        ("context_length_exceeded", None),
        ("the prompt is longer than the context window; request 123 failed", None),
    ],
)
def test_a_refusal_may_say_the_context(message, tokens):
    assert ContextRefusal("refused", message).context_tokens == tokens


def test_another_refusal_still_ends_the_run(config_of, server):
    server.fault = lambda body, count: (400, {"error": {"message": "temperature is too high"}})
    with pytest.raises(UserError, match=r"refuses the request \(400\): temperature is too high"):
        sample(config_of(n=1, batch_size=1))


def test_a_server_is_given_four_stop_strings_and_the_others_act_here(config_of, server):
    text = "w1 w2 <e> w3 <b> w4"
    server.fault = lambda body, count: (
        200,
        {"choices": [{"index": 0, "text": text, "finish_reason": "length"}]},
    )
    backend = load_backend(config_of())
    backend.prepare()
    stop = ("<a>", "<b>", "<c>", "<d>", "<e>")
    [(_, [found])] = backend.complete([Request(("w1",), 1, seed=0, stop=stop, greedy=True)])
    assert server.asked[-1]["stop"] == list(stop[:4])
    assert (found.text, found.finish_reason) == ("w1 w2 ", "stop")
