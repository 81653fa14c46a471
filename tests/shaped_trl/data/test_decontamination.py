"""Decontamination: what counts as overlap, streams and memory-mapped data drop the same rows, the
report, memory."""

import json
import tracemalloc
from itertools import islice

import pytest
from datasets import Dataset, load_dataset
from places import SHARED
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from tiny import WORDS, text_rows

from shaped_trl import cli
from shaped_trl.data.decontamination import MARK, NGRAM, Overlap, ngrams
from shaped_trl.data.mixtures import Source
from shaped_trl.data.packing import STREAM, PackedStream

QUESTION = (
    "A train leaves at 3:15 and travels 40 miles; how far, at that speed, does it go by noon?"
)
OTHER = "If Anna's 12 apples cost 3 dollars then how many dollars do 20 apples cost in all?"


@pytest.fixture
def mirror(tmp_path):
    """GSM8K of three questions, the last too short to be found."""
    folder = tmp_path / "mirror" / "openai" / "gsm8k" / "main"
    folder.mkdir(parents=True)
    rows = [
        {"question": text, "answer": "it is\n#### 4"}
        for text in (QUESTION, OTHER, "What is 2 + 2?")
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "mirror")


def test_overlap_is_13_words_in_a_row(mirror):
    overlap = Overlap(["gsm8k"], mirror)
    assert (overlap.problems["gsm8k"], overlap.too_short["gsm8k"]) == (3, 1)
    words = QUESTION.split()
    assert overlap.found(f"so: {QUESTION} Well.") == ["gsm8k/0"]
    assert overlap.found(f"{OTHER} {QUESTION}") == ["gsm8k/0", "gsm8k/1"]
    assert overlap.found("A TRAIN leaves at 3-15, and  travels\n40 miles how far at that!") == [
        "gsm8k/0"
    ]
    assert len(ngrams(" ".join(words[:11]))) == 0  # "3:15" is two words
    assert overlap.found(" ".join(words[:12])) == ["gsm8k/0"]
    assert overlap.found(" ".join(words[:11])) == []
    assert overlap.found(QUESTION.replace("miles", "km")) == []
    assert overlap.found("What is 2 + 2? 4") == []
    assert overlap.found("") == []


def test_unknown_and_made_benchmarks_are_refused(mirror):
    with pytest.raises(UserError, match="gsm9k"):
        Overlap(["gsm9k"], mirror)
    with pytest.raises(UserError, match="these problems, whose questions are not known"):
        Overlap(["running_sums"])
    with pytest.raises(UserError, match="needs a column of text"):
        Overlap(["gsm8k"], mirror).bind(["input_ids"])


def test_every_format_is_searched(mirror):
    overlap = Overlap(["gsm8k"], mirror)
    half = QUESTION.split(" travels ")
    rows = [
        {"id": 7, "text": QUESTION},
        {"prompt": half[0] + " travels", "completion": half[1]},
        {
            "messages": [
                {"role": "user", "content": QUESTION},
                {"role": "assistant", "content": "48"},
            ]
        },
        {"conversations": [{"from": "human", "value": QUESTION}]},
    ]
    marks = [overlap.bind(list(row))(row) for row in rows]
    assert [mark[MARK] for mark in marks] == ["gsm8k/0"] * 4
    assert marks[0]["row_id"] == "7"
    assert len(marks[1]["row_id"]) == 16
    assert overlap.bind(["text"])({"text": "clean"})[MARK] == ""


RECIPE = """\
from_scratch: {model_type: qwen3, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
  num_key_value_heads: 1, head_dim: 8}
tokenizer_vocab_size: 300
dataset_name: my.jsonl
decontaminate: [gsm8k]
per_device_train_batch_size: 4
max_length: 64
packing: true
max_steps: 16
save_steps: 4
gradient_checkpointing: false
use_cpu: true
disable_tqdm: true
"""


@pytest.mark.slow
def test_streams_and_memory_mapped_rows_drop_and_report_the_same(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = list(text_rows(60)["text"])
    texts[4], texts[17], texts[40] = f"{texts[4]} {OTHER}", QUESTION, f"{OTHER} {QUESTION}"
    Dataset.from_list([{"id": f"row{i}", "text": text} for i, text in enumerate(texts)]).to_json(
        "my.jsonl"
    )
    (tmp_path / "r.yaml").write_text(RECIPE)
    reports = {}
    for name in ("mapped", "stream"):
        streaming = ["--streaming", "true"] if name == "stream" else []
        argv = [
            "train",
            "--config",
            "r.yaml",
            "--hub_mirror",
            mirror,
            "--output_dir",
            name,
            *streaming,
        ]
        assert cli.main(argv) == 0
        folder = tmp_path / name / "decontamination"
        lines = [row for path in folder.glob("rows*.jsonl") for row in read_jsonl(path)]
        reports[name] = (lines, json.loads((folder / "report.json").read_text()))
    # the stream read its rows several times over and counts them once
    assert reports["mapped"] == reports["stream"]
    lines, report = reports["stream"]
    assert lines == [
        {"source": "my.jsonl", "row_id": "row4", "problems": ["gsm8k/1"]},
        {"source": "my.jsonl", "row_id": "row17", "problems": ["gsm8k/0"]},
        {"source": "my.jsonl", "row_id": "row40", "problems": ["gsm8k/0", "gsm8k/1"]},
    ]
    assert report == {
        "ngram": NGRAM,
        "benchmarks": {"gsm8k": {"problems": 3, "too_short": 1, "rows_dropped": 3}},
        "rows_dropped": {"my.jsonl": 3},
    }
    # a restart from the first checkpoint redoes its steps: no line is lost or doubled
    again = tmp_path / "stream"
    for path in [*again.glob("*.safetensors"), *again.glob("checkpoint-*/trainer_state.json")]:
        if path.parent.name != "checkpoint-4":
            path.unlink()
    rows = again / "decontamination" / "rows-0.jsonl"
    rows.write_text(
        rows.read_text()
        + '{"source": "my.jsonl", "row_id": "after the checkpoint", "problems": []}\n'
    )
    assert cli.main(argv) == 0
    assert list(read_jsonl(rows)) == lines


def test_what_is_marked_is_not_trained_on():
    ids = [[number] * 5 for number in range(20)]
    marks = ["gsm8k/1" if number % 3 == 0 else "" for number in range(20)]
    rows = Dataset.from_dict(
        {"input_ids": ids, "labels": ids, MARK: marks, "row_id": [str(n) for n in range(20)]}
    )
    stream = PackedStream(
        [Source("a", 1.0, rows.to_iterable_dataset())],
        length=10,
        batch_size=2,
        collate=_flat,
        seed=0,
    )
    batches = list(islice(stream, 12))  # 240 tokens, more than three epochs
    assert {token for batch in batches for token in batch["tokens"]} == {
        n for n in range(20) if n % 3
    }
    assert [line["row_id"] for batch in batches for line in batch[STREAM]["dropped"]] == [
        "0",
        "3",
        "6",
        "9",
        "12",
        "15",
        "18",
    ]
    assert batches[-1][STREAM]["position"]["dropped"] == 7
    all_marked = PackedStream(
        [Source("a", 1.0, rows.select([0, 3]).to_iterable_dataset())],
        length=10,
        batch_size=2,
        collate=_flat,
        seed=0,
    )
    with pytest.raises(UserError, match="no row is left to train on"):
        next(iter(all_marked))


def _flat(rows):
    return {"tokens": [token for row in rows for token in row["input_ids"]]}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(mirror, tmp_path):
    overlap = Overlap(["gsm8k"], mirror)
    peaks = []
    for count in (300, 10_000):
        path = tmp_path / f"{count}.jsonl"
        path.write_text((json.dumps({"text": " ".join(WORDS)}) + "\n") * count)
        rows = load_dataset("json", data_files=str(path), split="train", streaming=True).map(
            overlap.bind(["text"])
        )
        for _ in rows.take(100):  # what is loaded once
            pass
        tracemalloc.start()
        assert sum(1 for row in rows if not row[MARK]) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] + 1_000_000


@pytest.mark.skipif(not SHARED.is_dir(), reason="the mirror of real data, ../shared, is absent")
def test_the_test_split_of_gsm8k_is_found_and_the_rest_of_math500_is_not():
    hub = str(SHARED / "hub")
    overlap = Overlap(["gsm8k", "math500"], hub)
    rows = list(read_jsonl(SHARED / "hub" / "openai" / "gsm8k" / "main" / "test.jsonl"))
    found = [overlap.found(f"Question: {row['question']}\nAnswer: {row['answer']}") for row in rows]
    missed = [number for number, ids in enumerate(found) if f"gsm8k/{number}" not in ids]
    assert len(missed) == overlap.too_short["gsm8k"]
    assert not any(problem_id.startswith("math500") for ids in found for problem_id in ids)
