"""Publishing results: the files that are written into a checkpoint, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from published_run import CARD, VARIANT, finish, write_run
from shaped_eval.errors import UserError
from shaped_eval.hub.entries import index_result, read_variants
from shaped_eval.hub.model_card import with_results
from shaped_eval.provenance import folder_fingerprint
from shaped_eval.publish import PublishOptions, publish
from shaped_eval.records import Problem, Sample, Verdict, append_jsonl, read_jsonl
from shaped_eval.untrusted.pretrained import model_fingerprint

from shaped_trl import cli


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
        f"95% interval over problems {round(100 * ends['low'], 2)} to "
        f"{round(100 * ends['high'], 2)}",
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
    parsed = ModelCard.load(card)  # read by the library itself
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
    # Results with another setting are added, and the first ones stay.
    publish([write_run(run.with_name("hotter"), checkpoint, temperature=1.0)], options)
    both = card.read_text()
    assert both.count("<!-- results of ") == 4
    assert both.count("## Evaluation") == 1
    assert all(f"<!-- results of gsm8k_n4_t{t}_p0.95_len64 -->" in both for t in ("0.7", "1.0"))
    assert len(list((checkpoint / ".eval_results").iterdir())) == 2
    publish([run], options)
    # only the order in the index may differ
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
    """Options chosen by likelihood have no temperature, whatever the run's is."""
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


def test_an_adapter_is_not_taken_for_another_one(run: Path, tmp_path: Path) -> None:
    """Its identity is its own fingerprint and its base model."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"base_model_name_or_path": "some/base", "peft_type": "LORA"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    record = json.loads((run / "run.json").read_text())
    record |= {"model": str(adapter), "model_identity": model_fingerprint(adapter)}
    (run / "run.json").write_text(json.dumps(record))
    publish([run], PublishOptions(publish_to=str(adapter)))
    assert str(tmp_path) not in (run / "hub/samples/README.md").read_text()
    (adapter / "adapter_model.safetensors").write_bytes(b"trained on")
    with pytest.raises(UserError, match="does not hold the weights"):
        publish([run], PublishOptions(publish_to=str(adapter)))
