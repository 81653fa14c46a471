"""Publishing: what is written into a checkpoint, and what the real client sends to a stand-in of
the Hub."""

from __future__ import annotations

import json
import os
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from hub_stand_in import TOKEN, hub_stand_in, point_client_at
from huggingface_hub import ModelCard, constants, parse_eval_result_entries
from shaped_eval.errors import UserError
from shaped_eval.hub.entries import LEADERBOARDS, index_result, read_variants
from shaped_eval.hub.model_card import with_results
from shaped_eval.provenance import folder_fingerprint
from shaped_eval.publish import PublishOptions, publish
from shaped_eval.records import Problem, Sample, Verdict, append_jsonl, read_jsonl
from shaped_eval.reporting.results import read_runs, results_text

from shaped_trl import cli

N = 4
# p passes, f fails, u is unparsed; capitals of a truncated sample
GSM8K = ["ppff", "fffF", "pppp", "uupf"]
SUMS = ["pfff", "ffff"]
STATUS = {"p": "pass", "f": "fail", "u": "unparsed"}
VARIANT = "gsm8k_n4_t0.7_p0.95_len64"
CARD = """---
# kept: a comment
license: mit
tags: [a, b]
model-index:
- name: someone's name
  results:
  - task: {type: text-generation, name: other}
    dataset: {name: gsm8k, type: openai/gsm8k, config: main, split: test}
    metrics: [{type: acc, value: 12.5, verified: true}]
    source: {name: Leaderboard, url: https://example.org}
base_model: some/base  # kept, too
---

# A model

What people wrote.
"""


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def run(tmp_path, checkpoint, monkeypatch) -> Path:
    monkeypatch.setitem(LEADERBOARDS, "gsm8k", ("openai/gsm8k", "gsm8k", len(GSM8K)))
    return write_run(tmp_path / "run", checkpoint)


def write_run(folder: Path, checkpoint: Path, **settings) -> Path:
    folder.mkdir()
    record = {
        "model": str(checkpoint),
        "model_identity": folder_fingerprint(checkpoint),
        "settings": {
            "n": N,
            "temperature": 0.7,
            "top_p": 0.95,
            "max_new_tokens": 64,
            "limit": None,
            **settings,
        },
        "commit": "abc123",
        "versions": {"shaped-trl": "9.9"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    for benchmark, letters in {"gsm8k": GSM8K, "running_sums": SUMS}.items():
        for index, row in enumerate(letters):
            key = f"{benchmark}/{index}"
            append_jsonl(
                folder / "problems.jsonl",
                [Problem(key, benchmark, "SECRET PROMPT", "SECRET GOLD", "math")],
            )
            for i, letter in enumerate(row):
                sample = Sample(
                    key, i, f"text {key} {i} é", "length" if letter.isupper() else "stop", 10 + i
                )
                answer = None if letter == "u" else "7"
                append_jsonl(folder / "samples.jsonl", [sample])
                append_jsonl(
                    folder / "verdicts.jsonl",
                    [Verdict(key, i, STATUS[letter.lower()], answer, "math/1")],
                )
    finish(folder)
    os.utime(folder / "samples.jsonl", (1_750_000_000,) * 2)  # 2025-06-15
    return folder


def finish(folder: Path) -> dict:
    """results.json as the report writes it, without its pictures."""
    (run,) = read_runs([folder])
    (folder / "results.json").write_text(results_text(run.results))
    return run.results


def only_error(capsys) -> str:
    """The one line of standard error that is no report's path."""
    (line,) = [
        one for one in capsys.readouterr().err.splitlines() if not one.startswith("written: ")
    ]
    return line


def metric(run: Path, benchmark: str, key: str) -> dict:
    return json.loads((run / "results.json").read_text())[benchmark]["metrics"][key]


def test_leaderboard_entry(run, checkpoint):
    publish([run], PublishOptions(publish_to=str(checkpoint)))
    (path,) = (checkpoint / ".eval_results").iterdir()
    assert path.name == f"{VARIANT}.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.date) == ("openai/gsm8k", "gsm8k", "2025-06-15")
    assert entry.value == pytest.approx(100 * (2 + 0 + 4 + 1) / 16, abs=0.005)
    assert entry.source_url is None  # nothing was sent
    ends = metric(run, "gsm8k", "avg@4")
    for part in [
        "avg@4 over 4 problems",
        "n = 4, temperature 0.7, top-p 0.95, at most 64 tokens",
        f"95% interval over problems {round(100 * ends['low'], 2)} to {round(100 * ends['high'], 2)}",
        "truncated 6.25%, unparsed 12.5%",
        "grader math/1",
        "shaped-trl 9.9, commit abc123",
        f"weights {folder_fingerprint(checkpoint)[:12]}",
    ]:
        assert part in entry.notes, part


def test_layout_without_the_hubs_own_classes(run, checkpoint, monkeypatch):
    options = PublishOptions(publish_to=str(checkpoint))
    publish([run], options)
    path = checkpoint / ".eval_results" / f"{VARIANT}.yaml"
    text = path.read_text()
    path.unlink()
    lazily = huggingface_hub.__getattr__

    def of_version_1(name):
        if name == "EvalResultEntry":
            raise AttributeError(name)
        return lazily(name)

    monkeypatch.setattr(huggingface_hub, "__getattr__", of_version_1)
    with pytest.raises(ImportError):
        from huggingface_hub import EvalResultEntry  # noqa: F401
    publish([run], options)
    assert path.read_text() == text


def test_card_keeps_what_is_there_and_has_each_result_once(run, checkpoint):
    card = checkpoint / "README.md"
    card.write_text(CARD)
    options = PublishOptions(publish_to=str(checkpoint))
    publish([run], options)
    text = card.read_text()
    for line in CARD.splitlines():
        if not line.startswith((" ", "-", "model-index")):
            assert line in text.splitlines()
    parsed = ModelCard.load(card)  # the library's own reading of it
    assert parsed.data.license == "mit"
    assert parsed.data.base_model == "some/base"
    (index,) = yaml.safe_load(text.split("---")[1])["model-index"]
    other, gsm8k, sums = index["results"]
    assert index["name"] == "someone's name"
    assert other == yaml.safe_load(CARD.split("---")[1])["model-index"][0]["results"][0]
    assert [one["type"] for one in gsm8k["metrics"]] == [
        "pass@2",
        "pass@4",
        "maj@2",
        "cons@4",
    ]  # avg@4: in .eval_results
    assert [one["type"] for one in sums["metrics"]] == [
        "pass@2",
        "pass@4",
        "avg@4",
        "maj@2",
        "cons@4",
    ]
    assert gsm8k["dataset"]["type"] == "openai/gsm8k"
    assert gsm8k["dataset"]["args"]["temperature"] == 0.7
    assert sums["metrics"][2]["value"] == 12.5
    assert sums["metrics"][2]["args"]["high_95"] == pytest.approx(
        100 * metric(run, "running_sums", "avg@4")["high"], abs=0.005
    )
    publish([run], options)
    assert card.read_text() == text
    # Another setting stands beside the first, which stays.
    publish([write_run(run.with_name("hotter"), checkpoint, temperature=1.0)], options)
    both = card.read_text()
    assert both.count("<!-- results of ") == 4
    assert both.count("## Evaluation") == 1
    assert all(f"<!-- results of gsm8k_n4_t{t}_p0.95_len64 -->" in both for t in ("0.7", "1.0"))
    assert len(list((checkpoint / ".eval_results").iterdir())) == 2
    publish([run], options)
    # the order in the index may differ, nothing else
    assert sorted(card.read_text()) == sorted(both)


RESULT = {"task": {"name": "t"}, "dataset": {"type": "d"}, "metrics": []}


@pytest.mark.parametrize(
    "before",
    [
        "",
        "only text\n",
        "---\n---\ntext\n",
        "---\nlicense: mit\n---\ntext",
        "---\nmodel-index: []\n---\ntext\n",
        CARD.replace("\n", "\r\n"),
        '---\nmodel-index: [{name: x,\n  results: []}]\n"quoted": 1\n---\n',
    ],
    ids=["new", "no_metadata", "empty_metadata", "no_end", "empty_index", "crlf", "flow"],
)
def test_any_card_is_kept(before):
    if "[]\n" in before and "name" not in before:
        with pytest.raises(UserError, match="model-index"):
            with_results(before, "m", [RESULT], {"x": "| table |"}, "how")
        return
    once = with_results(before, "m", [RESULT], {"x": "| table |"}, "how")
    assert with_results(once, "m", [RESULT], {"x": "| table |"}, "how") == once
    plain = once.replace("\r\n", "\n")
    assert ("\r\n" in once) == ("\r\n" in before)
    assert "\n" not in once.replace("\r\n", "") or "\r\n" not in before
    metadata = yaml.safe_load(plain.split("---\n")[1])
    assert metadata["model-index"][0]["results"][-1] == RESULT
    assert plain.count("| table |") == 1
    assert before.replace("\r\n", "\n").rpartition("---\n")[2].strip() in plain


def test_a_broken_card_is_refused(run, checkpoint):
    (checkpoint / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(UserError, match=r"README.md: its metadata is not YAML"):
        publish([run], PublishOptions(publish_to=str(checkpoint)))
    assert not (checkpoint / ".eval_results").exists()


def test_part_of_a_benchmark_is_no_leaderboard_result(tmp_path, checkpoint):
    run = write_run(tmp_path / "part", checkpoint, limit=4)  # of the 1319
    publish([run], PublishOptions(publish_to=str(checkpoint)))
    assert not (checkpoint / ".eval_results").exists()
    (index,) = yaml.safe_load((checkpoint / "README.md").read_text().split("---")[1])["model-index"]
    assert "only the first 4 problems" in index["results"][0]["task"]["name"]
    assert "avg@4" in [one["type"] for one in index["results"][0]["metrics"]]


def test_a_benchmark_says_how_its_own_samples_came_about(tmp_path, checkpoint):
    """Options chosen by likelihood have no temperature, whatever the run samples at."""
    run = write_run(tmp_path / "run", checkpoint)
    meta = {"n": 1, "metric": "acc_norm", "shots": 5, "decoding": "likelihood"}
    append_jsonl(
        run / "problems.jsonl", [Problem("hellaswag/0", "hellaswag", "Q", "A", "choice", meta)]
    )
    append_jsonl(run / "samples.jsonl", [Sample("hellaswag/0", 0, "A")])
    append_jsonl(run / "verdicts.jsonl", [Verdict("hellaswag/0", 0, "pass", "A", "choice/1")])
    variant = next(one for one in read_variants(run, finish(run)) if one.benchmark == "hellaswag")
    assert (
        variant.label
        == "n = 1, at most 64 tokens, 5 worked examples, options by likelihood, acc_norm"
    )
    assert variant.slug == "hellaswag_n1_len64_shots5"
    result = index_result(variant, None)
    assert result["dataset"]["type"] == "Rowan/hellaswag"
    assert "temperature" not in result["dataset"]["args"]
    assert [one["type"] for one in result["metrics"]] == ["avg@1", "cons@1"]


def test_samples_are_those_of_the_run_without_prompts_and_golds(run, tmp_path, monkeypatch):
    from datasets import load_dataset

    publish([run], PublishOptions(publish_to=str(tmp_path / "checkpoint")))
    folder = run / "hub" / "samples"
    rows = load_dataset(
        str(folder), VARIANT, split="samples", cache_dir=str(tmp_path / "cache")
    ).to_list()
    verdicts = {
        (row["problem_id"], row["sample_index"]): row for row in read_jsonl(run / "verdicts.jsonl")
    }
    samples = [
        row for row in read_jsonl(run / "samples.jsonl") if row["problem_id"].startswith("gsm8k")
    ]
    assert rows == [{**row, **verdicts[row["problem_id"], row["sample_index"]]} for row in samples]
    assert len(rows) == 16
    for path in folder.rglob("*"):
        assert path.is_dir() or b"SECRET" not in path.read_bytes()
    assert str(tmp_path) not in (folder / "README.md").read_text()


def test_mistakes(run, checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    report = ["report", str(run)]
    (tmp_path / "empty").mkdir()
    for argv, parts in [
        ([*report, "--publish_to", "nowhere"], ["publish_to='nowhere'", "is not a folder"]),
        ([*report, "--publish_to", str(tmp_path / "empty")], ["holds no model"]),
        ([*report, "--push_to_hub", "me/model"], ["me/model", "not logged in", "hf auth login"]),
        ([*report, "--push_to_hub", "a b"], ["push_to_hub='a b'", "me/my-model"]),
        ([*report, "--private"], ["private", "push_to_hub"]),
        (
            ["eval", "--model", "m", "--benchmarks", "gsm8k", "--push_to_hub", "me/model"],
            ["not logged in"],
        ),
        (
            ["eval", "--model", "m", "--benchmarks", "gsm8k", "--publish_to", "nowhere"],
            ["is not a folder"],
        ),
    ]:
        assert cli.main(argv) == 2, argv
        error = capsys.readouterr().err.strip()
        assert len(error.splitlines()) == 1, error
        assert all(part in error for part in parts), error
    (checkpoint / "model.safetensors").write_bytes(b"trained on")
    assert cli.main([*report, "--publish_to", str(checkpoint)]) == 2
    assert "does not hold the weights" in capsys.readouterr().err
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    options = PublishOptions(str(checkpoint))
    lines = (run / "verdicts.jsonl").read_text().splitlines()
    (run / "verdicts.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="running_sums/1 has 3 of n=4 verdicts"):
        publish([run], options)
    (run / "results.json").unlink()
    with pytest.raises(UserError, match="has no results"):
        publish([run], options)


@pytest.fixture
def hub(monkeypatch):
    """The stand-in, with the real client pointed at it and logged in."""
    with hub_stand_in() as server:
        point_client_at(server, monkeypatch)
        yield server


def test_push(run, checkpoint, hub, capsys):
    (checkpoint / "README.md").write_text(CARD)
    argv = [
        "report",
        str(run),
        "--publish_to",
        str(checkpoint),
        "--push_to_hub",
        "me/tiny",
        "--private",
    ]
    assert cli.main(argv) == 0
    model, samples = (
        hub.files["model", "me/tiny"],
        hub.files["dataset", "me/tiny-evaluation-samples"],
    )
    name = f".eval_results/{VARIANT}.yaml"
    assert model == {path: (checkpoint / path).read_bytes() for path in ("README.md", name)}
    assert set(samples) == {
        "README.md",
        f"{VARIANT}/samples.parquet",
        "running_sums_n4_t0.7_p0.95_len64/samples.parquet",
    }
    for path, content in samples.items():
        if path.endswith("parquet"):
            assert content == (run / "hub" / "samples" / path).read_bytes()
    (entry,) = parse_eval_result_entries(yaml.safe_load(model[name]))
    assert entry.source_url == f"{hub.url}/datasets/me/tiny-evaluation-samples"
    assert entry.source_url in model["README.md"].decode()
    assert all(hub.private.values())
    assert hub.messages == ["Evaluation results: gsm8k, running_sums"] * 2
    steps = [
        line
        for line in hub.requests
        if "/commit/" in line or "/create" in line or "/preupload/" in line
    ]
    assert steps == [
        "POST /api/repos/create",
        "POST /api/datasets/me/tiny-evaluation-samples/preupload/main",
        "POST /api/datasets/me/tiny-evaluation-samples/commit/main",
        "POST /api/repos/create",
        "POST /api/models/me/tiny/preupload/main",
        "POST /api/models/me/tiny/commit/main",
    ]
    printed = capsys.readouterr()
    assert f"{hub.url}/me/tiny/commit/" in printed.out
    assert TOKEN not in printed.out + printed.err
    for path in run.parent.rglob("*"):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes(), path


def test_a_second_push_keeps_what_others_changed_on_the_hub(run, checkpoint, hub):
    options = PublishOptions(push_to_hub="me/tiny")
    publish([run], options)
    files = hub.files["model", "me/tiny"]
    first = files["README.md"]
    files["README.md"] = first.replace(b"# tiny", b"# tiny, described\n\nBy its users.")
    publish([run, write_run(run.with_name("hotter"), checkpoint, temperature=1.0)], options)
    text = files["README.md"].decode()
    assert "By its users." in text
    assert text.count("<!-- results of ") == 4
    assert len([path for path in files if path.startswith(".eval_results/")]) == 2
    card = hub.files["dataset", "me/tiny-evaluation-samples"]["README.md"].decode()
    assert len(yaml.safe_load(card.split("---")[1])["configs"]) == 4


@pytest.mark.parametrize(
    ("refuse", "parts"),
    [
        (
            (403, "GatedRepo", "Access to me/tiny is restricted"),
            ["refuses", "403", "restricted", "may write there"],
        ),
        ((503, "", "down for a while"), ["answered 503"]),
    ],
)
def test_refusals_are_one_line_and_all_is_written(refuse, parts, run, hub, capsys):
    hub.refuse = refuse
    assert cli.main(["report", str(run), "--push_to_hub", "me/tiny"]) == 2
    error = only_error(capsys)
    assert all(part in error for part in [*parts, "me/tiny", str(run / "hub")]), error
    assert (run / "hub" / "samples" / VARIANT / "samples.parquet").is_file()
    assert (run / "hub" / "model" / ".eval_results" / f"{VARIANT}.yaml").is_file()
    hub.refuse = None
    assert cli.main(["report", str(run), "--push_to_hub", "me/tiny"]) == 0


def test_an_unreachable_hub_is_one_line_and_all_is_written(run, hub, monkeypatch, capsys):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert cli.main(["report", str(run), "--push_to_hub", "me/tiny"]) == 2
    error = only_error(capsys)
    assert "http://127.0.0.1:9 cannot be reached" in error
    assert (run / "hub" / "model" / "README.md").is_file()
    assert not hub.requests
