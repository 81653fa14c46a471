"""Sampling: the right distribution, the same samples despite interruptions, and refusals."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch
from shaped_eval.backends import Request, TransformersBackend, load_backend
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_run
from shaped_eval.records import Problem, Sample, read_jsonl
from shaped_eval.report import report
from shaped_eval.sample import sample
from shaped_eval.sampling import plan as plan_module
from tiny_eval import NUM_PROBLEMS, WORDS, check_first_words, prompt_ids
from transformers import AutoModelForCausalLM
from transformers import Qwen3ForCausalLM as Qwen3
from trl import TrlParser


def problems_of(config: SampleConfig) -> list[Problem]:
    return load_problems(config.benchmark_names, hub_mirror=config.hub_mirror)


def samples_of(folder: Path | str) -> dict[tuple[str, int], Sample]:
    rows = list(read_jsonl(Path(folder) / "samples.jsonl", Sample))
    by_key = {(row.problem_id, row.sample_index): row for row in rows}
    assert len(by_key) == len(rows), "a sample is there twice"
    return by_key


def test_a_run_has_every_sample_once_and_is_repeatable(make_config):
    torch.manual_seed(1)
    first = samples_of(sample(make_config("first")))
    torch.manual_seed(2)
    second = samples_of(sample(make_config("second")))
    assert set(first) == {(f"gsm8k/{p}", i) for p in range(NUM_PROBLEMS) for i in range(5)}
    assert first == second
    other_seed = samples_of(sample(make_config("third", seed=1)))
    differing = sum(first[key].completion != other_seed[key].completion for key in first)
    assert differing > len(first) / 2


def test_sampling_leaves_the_random_state_of_the_process_alone(make_config):
    before = torch.get_rng_state()
    sample(make_config(limit=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_order_and_number_of_problems_do_not_matter(make_config):
    few = samples_of(sample(make_config("few", limit=2)))
    many = samples_of(sample(make_config("many")))
    assert len(few) == 10
    assert few.items() <= many.items()


def test_frequencies_are_those_of_temperature_and_top_p(make_config, model_folder):
    """One token from a known distribution: softmax at T, cut to the nucleus, renormalised."""
    temperature, top_p, n = 0.7, 0.9, 4000
    config = make_config(
        n=n, batch_size=1000, max_new_tokens=1, temperature=temperature, top_p=top_p, limit=1
    )
    folder = sample(config)
    prompt = next(read_jsonl(folder / "problems.jsonl"))["prompt"]
    rows = samples_of(folder).values()
    assert len(rows) == n
    assert all(row.tokens == 1 for row in rows)
    check_first_words((row.completion for row in rows), model_folder, prompt, temperature, top_p)


def test_greedy_is_the_argmax_and_is_cut_at_the_limit(make_config, model_folder):
    folder = sample(make_config(n=1, temperature=0.0, max_new_tokens=4, limit=1))
    prompt = next(read_jsonl(folder / "problems.jsonl"))["prompt"]
    ids = prompt_ids(prompt)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    words = []
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        words.append(WORDS[ids[-1]])
    row = samples_of(folder)["gsm8k/0", 0]
    assert "<eos>" not in words, "the test needs a completion that does not end by itself"
    assert row == Sample("gsm8k/0", 0, " " + " ".join(words), finish_reason="length", tokens=4)


def test_completions_end_before_the_end_token_and_the_stop_string(make_config):
    backend = load_backend(make_config(max_new_tokens=100))
    stop = ["w3 w", "Answer:"]
    rows = backend.generate(Request(("Question: w1 w2 Answer:",), 200, 7, tuple(stop)))
    free = backend.generate(Request(("Question: w1 w2 Answer:",), 200, 7))
    ended_by_string = 0
    for cut, whole in zip(rows, free, strict=True):
        position = min((whole.text.find(s) for s in stop if s in whole.text), default=None)
        if position is None:
            continue
        ended_by_string += 1
        assert cut.text == whole.text[:position]
        assert cut.finish_reason == "stop"
        shown = next(
            i for i in range(1, 101) if any(s in " ".join(whole.text.split()[:i]) for s in stop)
        )
        assert cut.tokens == shown
    assert ended_by_string > 50
    by_end_token = [row for row in free if row.finish_reason == "stop"]
    assert by_end_token
    assert all(row.tokens == len(row.text.split()) + 1 for row in by_end_token)
    assert all(row.tokens == 100 for row in free if row.finish_reason == "length")


def test_the_chat_template_is_used_when_asked_for_only(make_config, model_folder, tmp_path):
    with_template = tmp_path / "model"
    shutil.copytree(model_folder, with_template)
    (with_template / "chat_template.jinja").write_text(
        "Answer: {% for message in messages %}{{ message.content }} {% endfor %}w0"
    )
    plain = load_backend(make_config(model=str(with_template)))
    chat = load_backend(make_config(model=str(with_template), chat_template=True))
    assert plain.prompt_tokens("w1 w2") == 2
    assert chat.prompt_tokens("w1 w2") == 4
    greedy = {"temperature": 0.0, "n": 1, "model": str(with_template)}
    by_hand = load_backend(make_config(**greedy)).generate(Request(("Answer: w1 w2 w0",), 1, 0))
    assert (
        load_backend(make_config(**greedy, chat_template=True)).generate(Request(("w1 w2",), 1, 0))
        == by_hand
    )


def test_a_finished_run_is_not_touched_and_loads_no_weights(make_config, monkeypatch):
    config = make_config()
    content = (sample(config) / "samples.jsonl").read_bytes()
    monkeypatch.setattr(
        Qwen3, "from_pretrained", lambda *args, **kwargs: pytest.fail("weights were loaded")
    )
    assert (sample(config) / "samples.jsonl").read_bytes() == content


@pytest.mark.parametrize("cut", ["mid_line", "mid_chunk", "empty"])
def test_a_partial_chunk_is_generated_anew(make_config, cut):
    undisturbed = samples_of(sample(make_config("whole")))
    config = make_config("cut")
    path = sample(config) / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    # Chunks have 2, 2 and 1 rows per problem: 8 lines are 1.5 problems, then half of a chunk.
    left = {
        "mid_line": b"".join(lines[:8]) + lines[8][:-9],
        "mid_chunk": b"".join(lines[:8]),
        "empty": b"",
    }[cut]
    path.write_bytes(left)
    assert samples_of(sample(config)) == undisturbed


def test_an_interrupt_says_how_to_continue(make_config, monkeypatch, capsys):
    generate = TransformersBackend.generate
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*arguments)

    monkeypatch.setattr(TransformersBackend, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(make_config())
    line = "stopped at 4 of 30 samples; the same command continues from there\n"
    assert capsys.readouterr().err.endswith(line)


def test_run_json_says_what_was_run(make_config):
    folder = sample(make_config(limit=1))
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["n"] == 5
    assert record["settings"]["top_p"] == 0.95
    assert record["benchmarks"] == ["gsm8k"]
    assert record["versions"]["torch"] == metadata.version("torch")
    assert "out" not in record["settings"]
    assert {"commit", "device", "model", "model_identity", "task_hash", "sampling_hash"} <= set(
        record
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 6}, r"^n=6, but the run in .* has 5: choose another --out"),
        ({"temperature": 0.5}, r"^temperature=0\.5, but the run in .* has 1\.0"),
        ({"batch_size": 5}, r"^batch_size=5, but the run in .* has 2"),
        ({"seed": 3}, r"^seed=3, but"),
        ({"benchmarks": "gsm8k,running_sums"}, r"^benchmarks='gsm8k,running_sums', but"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_other_settings_on_the_same_folder_are_refused(make_config, change, message):
    folder = sample(make_config(limit=1))
    before = (folder / "samples.jsonl").read_bytes()
    with pytest.raises(UserError, match=message):
        sample(make_config(limit=1, **change))
    assert (folder / "samples.jsonl").read_bytes() == before


def test_a_changed_model_or_task_on_the_same_folder_is_refused(
    make_config, model_folder, mirror, tmp_path
):
    sample(make_config(limit=1))
    changed = tmp_path / "changed"
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    model.lm_head.weight.data[3, 3] += 1
    model.save_pretrained(changed)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (changed / name).write_bytes((model_folder / name).read_bytes())
    with pytest.raises(UserError, match=r"^model='.*changed' is not the model that the run"):
        sample(make_config(limit=1, model=str(changed)))
    other_mirror = tmp_path / "mirror"
    for path in mirror.rglob("*.jsonl"):
        copy = other_mirror / path.relative_to(mirror)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text().replace("w0", "w9"))
    with pytest.raises(UserError, match="problems or prompts are not those"):
        sample(make_config(limit=1, hub_mirror=str(other_mirror)))


def test_samples_without_their_record_are_refused(make_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/samples.jsonl").write_text("")
    with pytest.raises(UserError, match=r"holds samples\.jsonl but no run\.json"):
        sample(make_config())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n=0 is out of range"),
        ({"limit": 0}, "limit=0 is out of range"),
        ({"temperature": -0.1}, r"temperature=-0\.1 is out of range"),
        ({"temperature": float("nan")}, "temperature=nan is out of range"),
        ({"top_p": 0.0}, r"top_p=0\.0 is out of range"),
        ({"top_p": 1.5}, r"top_p=1\.5 is out of range"),
        ({"backend": "tgi"}, "backend='tgi' is not available: use transformers or vllm or openai"),
        ({"benchmarks": "gsmk8"}, "did you mean 'gsm8k'"),
        ({"benchmarks": " , "}, "benchmarks is empty"),
    ],
)
def test_bad_options_are_refused(make_config, change, message):
    with pytest.raises(UserError, match=message):
        make_config(**change)


def test_temperature_0_makes_it_one_sample(make_config, capsys):
    assert make_config(temperature=0.0).n == 1
    assert "n=5 greedy samples are all the same" in capsys.readouterr().err
    assert SampleConfig(model="m", benchmarks="gsm8k", temperature=0.0).n == 1
    assert SampleConfig(model="m", benchmarks="gsm8k").n == 16
    assert capsys.readouterr().err == "", "nobody asked for another number"


def test_the_batch_size_is_a_number_or_found(make_config):
    assert make_config(batch_size="auto").fixed_batch_size is None
    assert make_config(batch_size="7").batch_size == 7
    for other in ({"backend": "vllm"}, {"continuous_batching": True}):
        assert make_config(batch_size="auto", **other).batch_size == 32, "as in earlier runs"
    for wrong in ("0", "-3", "many", "²", 1.5):
        with pytest.raises(
            UserError, match=r"batch_size=.* is out of range: use 1 or more, or auto"
        ):
            make_config(batch_size=wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "/nowhere/model"}, "model='/nowhere/model' does not exist"),
        ({"chat_template": True}, "the tokenizer of .* has no chat template"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    make_config, tmp_path, change, message
):
    with pytest.raises(UserError, match=message):
        sample(make_config(**change))
    assert not (tmp_path / "run").exists()


def test_completions_end_with_the_context(make_config, monkeypatch, capsys):
    longest = max(
        TransformersBackend(make_config()).prompt_tokens(p.prompt)
        for p in problems_of(make_config())
    )
    monkeypatch.setattr(TransformersBackend, "context_tokens", lambda self: longest + 3)
    samples = samples_of(sample(make_config(max_new_tokens=100)))
    assert min(row.tokens for row in samples.values()) <= 3
    assert all(row.finish_reason == "stop" or row.tokens >= 3 for row in samples.values())
    assert "count as truncated" in capsys.readouterr().err


def test_a_prompt_beyond_the_context_is_refused(make_config, monkeypatch):
    monkeypatch.setattr(TransformersBackend, "context_tokens", lambda self: 10)
    with pytest.raises(
        UserError, match=r"the prompt of gsm8k/0 has \d+ tokens, .* context of 10 tokens: leave"
    ):
        sample(make_config())


def test_the_folder_has_a_default(make_config):
    assert SampleConfig(model="some/Model", benchmarks="gsm8k").out == "outputs/eval/Model"


def test_a_model_that_is_missing_is_named_before_data_is_fetched(make_config, monkeypatch):
    def fetched(*args, **kwargs):
        raise AssertionError("the data was fetched first")

    monkeypatch.setattr(plan_module, "problems_of_run", fetched)
    with pytest.raises(UserError, match=r"model='\./nowhere' does not exist"):
        sample(make_config(model="./nowhere"))


def test_a_folder_that_is_no_model_is_refused(make_config, tmp_path):
    with pytest.raises(UserError, match=r"model='.*' does not exist, or has no config.json"):
        sample(make_config(model=str(tmp_path)))


def test_options_parse_from_yaml_and_flags(tmp_path):
    recipe = tmp_path / "eval.yaml"
    recipe.write_text("model: m\nbenchmarks: gsm8k,math500\nout: runs/x\nn: 64\ntop_p: 0.9\n")
    (config,) = TrlParser(SampleConfig).parse_args_and_config(
        [
            "--config",
            str(recipe),
            "--n",
            "128",
            "--limit",
            "3",
            "--chat_template",
            "--dtype",
            "bfloat16",
        ]
    )
    assert (config.n, config.top_p, config.limit, config.chat_template, config.dtype) == (
        128,
        0.9,
        3,
        True,
        "bfloat16",
    )
    assert config.benchmark_names == ["gsm8k", "math500"]


def test_a_suite_leaves_out_what_the_mirror_lacks_and_says_so(
    make_config, mirror, tmp_path, capsys
):
    config = make_config(benchmarks="", suite="math", n=1)
    run = sample(config, progress=False)
    assert "the mirror has no data for math500, minerva, olympiadbench" in capsys.readouterr().err
    record = json.loads((run / "run.json").read_text())
    assert (record["benchmarks"], record["left_out"]) == (
        ["gsm8k"],
        ["math500", "minerva", "olympiadbench"],
    )
    grade_run(run, num_workers=1, progress=False)
    report([run])
    assert (
        "math500, minerva, olympiadbench: part of the suite, but left out"
        in (run / "report.md").read_text()
    )
    # a benchmark that is named must exist
    with pytest.raises(UserError, match="has no data set 'HuggingFaceH4/MATH-500'"):
        sample(make_config("named", benchmarks="gsm8k,math500"), progress=False)
    # no benchmark of this suite exists
    with pytest.raises(UserError, match="has no data set 'evalplus/humanevalplus'"):
        sample(make_config("code", benchmarks="", suite="code"), progress=False)
