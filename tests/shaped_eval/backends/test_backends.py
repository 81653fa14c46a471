"""The backends that run in this process: batches of several problems, continuous batching, vLLM."""

from __future__ import annotations

import json
import threading
import tracemalloc
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shaped_eval.backends import Completion, Request, TransformersBackend, load_backend
from shaped_eval.backends.continuous import find_stop
from shaped_eval.backends.static import tail_tokens
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.sample import sample
from shaped_eval.sampling import plan as plan_module
from shaped_eval.sampling import progress as progress_module
from tiny_eval import NUM_PROBLEMS, check_first_words

PROMPTS = ("Question: w1 w2 Answer:", "Question: w9 w4 Answer:")


def rows(folder: Path) -> dict[tuple[str, int], Sample]:
    return {
        (row.problem_id, row.sample_index): row
        for row in read_jsonl(folder / "samples.jsonl", Sample)
    }


def test_greedy_problems_are_answered_together_as_alone(make_config, monkeypatch):
    greedy = {"n": 1, "temperature": 0.0, "max_new_tokens": 24}
    calls = []
    generate = TransformersBackend.generate
    monkeypatch.setattr(
        TransformersBackend,
        "generate",
        lambda self, request: calls.append(request) or generate(self, request),
    )
    together = rows(sample(make_config("together", batch_size=4, **greedy)))
    assert [len(request.prompts) for request in calls] == [4, NUM_PROBLEMS - 4]
    assert together == rows(sample(make_config("alone", batch_size=1, **greedy)))
    assert len({row.completion for row in together.values()}) > 1, (
        "the test needs answers that differ"
    )


def test_each_of_several_prompts_has_its_own_distribution(make_config, model_folder):
    backend = load_backend(make_config(max_new_tokens=1, temperature=0.7, top_p=0.9))
    done = backend.generate(Request(PROMPTS, 2000, seed=5))
    for prompt, words in zip(PROMPTS, (done[:2000], done[2000:]), strict=True):
        check_first_words((one.text for one in words), model_folder, prompt, 0.7, 0.9)


def continuous(make_config, out: str = "run", **changes) -> SampleConfig:
    return make_config(out, continuous_batching=True, **changes)


@pytest.mark.slow
def test_continuous_batching_draws_from_the_same_distribution(make_config, model_folder):
    backend = load_backend(continuous(make_config, max_new_tokens=1, temperature=0.7, top_p=0.9))
    state = torch.get_rng_state()
    requests = [Request((PROMPTS[index % 2],), 100, seed=index) for index in range(30)]
    done = dict(backend.complete(requests))
    assert torch.equal(torch.get_rng_state(), state)
    assert {index: len(samples) for index, samples in done.items()} == dict.fromkeys(range(30), 100)
    for parity, prompt in enumerate(PROMPTS):
        words = [
            one.text for index, samples in done.items() if index % 2 == parity for one in samples
        ]
        check_first_words(words, model_folder, prompt, 0.7, 0.9)


def test_continuous_batching_ends_samples_where_they_end(make_config):
    backend = load_backend(continuous(make_config, max_new_tokens=40))
    stop = ("w3 w", "Answer:")
    [(_, samples)] = backend.complete([Request(PROMPTS[:1], 200, seed=1, stop=stop)])
    ends = {"string": 0, "token": 0, "limit": 0}
    for one in samples:
        words = one.text.split()
        assert not any(string in one.text for string in stop)
        if one.finish_reason == "length":
            ends["limit"] += 1
            assert one.tokens == len(words) == 40
        else:
            ends["token" if one.tokens == len(words) + 1 else "string"] += 1
            assert len(words) + 1 <= one.tokens <= len(words) + 2, (
                "a stop string has two words at most"
            )
    assert min(ends.values()) > 3, ends


@pytest.mark.slow
def test_continuous_batching_says_that_it_is_not_repeatable_and_does_not_repeat_itself(make_config):
    config = continuous(make_config, n=16, batch_size=8, limit=1)
    folder = sample(config)
    assert json.loads((folder / "run.json").read_text())["repeatability"].startswith("best effort")
    first = rows(folder)
    assert sorted(first) == [("gsm8k/0", index) for index in range(16)]
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:8]))
    again = rows(sample(config))
    kept, new = (
        [again["gsm8k/0", index].completion for index in half] for half in (range(8), range(8, 16))
    )
    assert kept == [first["gsm8k/0", index].completion for index in range(8)]
    assert kept != new, "the resumed run drew the first run's samples again"
    with pytest.raises(UserError, match="continuous_batching=False, but the run in"):
        sample(replace(config, continuous_batching=False))


def test_continuous_batching_stops_at_once_when_it_is_left(make_config):
    backend = load_backend(continuous(make_config, max_new_tokens=100))
    threads = threading.active_count()
    with closing(
        backend.complete([Request(PROMPTS[:1], 1, seed=i) for i in range(400)])
    ) as results:
        next(results)
    assert threading.active_count() == threads


def test_the_first_token_that_completes_a_stop_string_is_found():
    class Letters:
        def decode(self, ids, **kwargs):
            return "".join(map(chr, ids))

    ids = [ord(letter) for letter in "abcSTOPdefSTOP"]
    assert find_stop(Letters(), ids, ["STOP"], 0) == 7
    assert find_stop(Letters(), ids, ["STOP"], 6) == 7, "it began before what was searched"
    assert find_stop(Letters(), ids, ["?", "fS"], 8) == 11
    assert find_stop(Letters(), ids[:6], ["STOP", "?"], 2) is None
    assert find_stop(Letters(), ids, [], 0) is None
    assert tail_tokens(["é€"]) == 6


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_batch_beyond_the_memory_is_halved_until_it_fits(make_config, monkeypatch, error):
    backend = load_backend(make_config())
    request = Request(PROMPTS, 3, seed=0)
    whole = backend.generate(request)
    generate, rows = backend._model.generate, []

    def fail(ids, *args, custom_generate, **kwargs):
        rows.append(len(custom_generate._rows))
        if rows[-1] > most:
            raise error
        return generate(ids, *args, custom_generate=custom_generate, **kwargs)

    monkeypatch.setattr(backend._model, "generate", fail)
    most = 2
    assert backend.generate(request) == whole
    assert rows == [6, 3, 1, 2, 3, 1, 2]
    most = 0
    with pytest.raises(
        UserError, match=r"one sample of 4 \+ 12 tokens does not fit .* of cpu: use"
    ):
        backend.generate(request)


class Fake:
    """A backend that invents texts of 2,000 characters."""

    identity, device, repeatability, together = "fake", "none", "exact", False

    def __init__(self, varied: bool = True) -> None:
        self.varied = varied

    def prompt_tokens(self, prompt):
        return 3

    def context_tokens(self):
        return None

    def prepare(self):
        pass

    def complete(self, requests):
        for index, request in enumerate(requests):
            text = "x" * 2000 + (str(index) if self.varied else "")
            yield index, [Completion(text, "stop", 500)] * request.num_samples


def test_memory_does_not_grow_with_the_samples(make_config, monkeypatch):
    monkeypatch.setattr(plan_module, "load_backend", lambda config: Fake())
    peaks = []
    for n in (100, 2000):
        config = make_config(f"run{n}", n=n, batch_size=100)
        tracemalloc.start()
        sample(config, progress=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0], f"{peaks}: the samples grew from 1 to 24 MB"


@pytest.mark.parametrize(
    ("varied", "temperature", "said"), [(False, 1.0, True), (True, 1.0, False)]
)
def test_samples_that_never_differ_are_suspicious(
    make_config, monkeypatch, capsys, varied, temperature, said
):
    monkeypatch.setattr(plan_module, "load_backend", lambda config: Fake(varied))
    sample(make_config(temperature=temperature))
    assert (
        "are the same at temperature=1.0: check that transformers samples"
        in capsys.readouterr().err
    ) == said


def test_where_there_is_no_terminal_a_line_tells_the_progress(make_config, monkeypatch, capsys):
    monkeypatch.setattr(plan_module, "load_backend", lambda config: Fake())
    monkeypatch.setattr(progress_module, "LINE_EVERY_S", 0.0)
    sample(make_config(limit=2))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[2].startswith("sampling: 5 of 10 samples, ")
    assert lines[2].endswith(" s left")
    assert "tokens/s, about" in lines[2]
    sample(make_config("quiet"), progress=False)
    assert capsys.readouterr().err == ""


def test_a_benchmark_may_have_its_own_number_of_samples(make_config, monkeypatch, capsys):
    load = plan_module.problems_of_run

    def loaded(*args, **kwargs):
        first, *others = load(*args, **kwargs)
        return [replace(first, meta={**first.meta, "n": 1}), *others]

    monkeypatch.setattr(plan_module, "problems_of_run", loaded)
    done = rows(sample(make_config(n=3, limit=3)))
    assert sorted(done) == [("gsm8k/0", 0), *((f"gsm8k/{p}", i) for p in (1, 2) for i in range(3))]
