"""Mixtures: validation, shares, packing with document boundaries, parts of processes, positions."""

from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch
from datasets import Dataset
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model, tiny_tokenizer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from shaped_trl import cli
from shaped_trl.data.corpora import CorpusArguments
from shaped_trl.data.mixtures import Source, evaluation_rows, load_sources
from shaped_trl.data.packing import STREAM, PackedStream, part_of

COLLATE = DataCollatorForLanguageModeling(0, padding_free=True)


def documents(count, first=0, size=None):
    """Documents that repeat their own number `size` times, or 1 to 7 times."""
    ids = [[first + i] * (size or 1 + i % 7) for i in range(count)]
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def packed(sources, **changes):
    return PackedStream(
        sources, **{"length": 16, "batch_size": 3, "collate": COLLATE, "seed": 0, **changes}
    )


def tokens(stream, batches):
    return [batch["input_ids"][0].tolist() for batch in islice(stream, batches)]


@pytest.mark.parametrize("streaming", [False, True])
def test_every_token_comes_once_an_epoch_in_sequences_of_the_same_length(streaming):
    rows = documents(100, first=1)
    total = sum(len(ids) for ids in rows["input_ids"])
    rows = rows.to_iterable_dataset(num_shards=4) if streaming else rows
    batches = list(islice(packed([Source("a", 1.0, rows)], batch_size=1), 1 + total // 16))
    assert all(batch["input_ids"].shape == (1, 16) for batch in batches)
    flat = [token for batch in batches for token in batch["input_ids"][0].tolist()][:total]
    assert sorted(flat) == sorted(
        token for ids in documents(100, first=1)["input_ids"] for token in ids
    )
    order = list(dict.fromkeys(flat))
    assert order != sorted(order)
    # positions start anew exactly where the document changes; no loss on its first token
    for batch in batches:
        ids, starts = batch["input_ids"][0], batch["position_ids"][0] == 0
        changes = torch.cat([torch.tensor([True]), ids[1:] != ids[:-1]])
        assert torch.equal(starts, changes)
        assert torch.equal(batch["labels"][0] == -100, starts)


def test_packed_documents_do_not_see_each_other():
    tokenizer, model = tiny_tokenizer(), tiny_model()
    rows = text_rows(12)
    ids = [tokenizer(text).input_ids for text in rows["text"]]
    batch = next(
        iter(
            packed(
                [Source("a", 1.0, Dataset.from_dict({"input_ids": ids, "labels": ids}))], length=40
            )
        )
    )
    batch.pop(STREAM)
    together = model(**{**batch, "labels": None}, use_cache=False).logits[0]
    pieces = batch["cu_seq_lens_q"].tolist()
    for start, end in pairwise(pieces):
        alone = model(batch["input_ids"][:, start:end], use_cache=False).logits[0]
        assert torch.allclose(together[start:end], alone, atol=1e-5)


def test_weights_are_shares_of_the_tokens_whatever_the_documents_lengths():
    long, short = documents(50, first=1, size=40), documents(300, first=1000, size=2)
    stream = packed([Source("long", 0.25, long), Source("short", 0.75, short)])
    batches = list(islice(stream, 1000))
    flat = torch.cat([batch["input_ids"][0] for batch in batches])
    assert (flat >= 1000).double().mean().item() == pytest.approx(
        0.75, abs=4 * (0.25 * 0.75 / 3000) ** 0.5
    )
    for batch in batches[:50]:  # each sequence is of the source that is noted
        names = ["short" if row[0] >= 1000 else "long" for row in batch["input_ids"][0].view(3, 16)]
        assert batch[STREAM]["sources"] == names


def test_the_seed_decides():
    sources = [Source("a", 0.5, documents(50)), Source("b", 0.5, documents(50, first=1000))]
    assert (
        tokens(packed(sources), 20)
        == tokens(packed(sources), 20)
        != tokens(packed(sources, seed=1), 20)
    )


@pytest.mark.parametrize("files", [0, 1, 4])
def test_processes_share_out_the_documents(files):
    """0 files: memory-mapped. In the first epoch each document is read by one of the processes,
    none by two."""
    rows = documents(90, first=1, size=16)
    seen = []
    for rank in range(3):
        part = part_of(rows.to_iterable_dataset(num_shards=files) if files else rows, rank, 3)
        stream = packed([Source("a", 1.0, part)], batch_size=1, rank=rank, world=3)
        batches = ((batch["input_ids"][0, 0].item(), batch[STREAM]["position"]) for batch in stream)
        epoch = []
        for token, position in batches:
            if position["sources"][0]["epoch"] > 0:
                break
            epoch.append(token)
        seen.append(epoch)
    assert sorted(token for epoch in seen for token in epoch) == list(range(1, 91))
    assert all(len(epoch) >= 22 for epoch in seen)


def test_any_position_continues_with_the_same_batches():
    def sources():
        return [
            Source("a", 0.5, documents(30)),
            Source("b", 0.3, documents(40, first=1000).to_iterable_dataset(num_shards=3)),
            Source(
                "c", 0.2, part_of(documents(40, first=2000).to_iterable_dataset(num_shards=1), 1, 2)
            ),
        ]

    batches = list(islice(packed(sources()), 60))  # several epochs of each
    for number in range(0, 59, 4):
        rest = packed(sources(), position=batches[number][STREAM]["position"])
        for expected, batch in zip(batches[number + 1 :], rest, strict=False):
            assert batch["input_ids"].tolist() == expected["input_ids"].tolist()
            assert batch["position_ids"].tolist() == expected["position_ids"].tolist()


def test_a_source_without_rows_is_named():
    with pytest.raises(UserError, match="'b' has no rows for process 5 of 6"):
        next(iter(packed([Source("b", 1.0, documents(3))], rank=5, world=6)))


@pytest.mark.parametrize("files", [0, 1, 3])
def test_rows_held_out_are_trained_on_by_no_process(files, tmp_path, monkeypatch):
    """0 files: memory-mapped. The 5 first rows, and a later copy of one; what is left is shared out
    as before."""
    texts = [f"text {number % 40}" for number in range(42)]  # the last two are copies
    rows = Dataset.from_dict({"text": texts, "other": list(range(42))})

    def load_split(args, split, streaming=False):
        return rows.to_iterable_dataset(num_shards=files) if streaming else rows

    monkeypatch.setattr("shaped_trl.data.corpora.load_split", load_split)
    corpus = CorpusArguments(dataset_name="me/text", streaming=files > 0, num_heldout=5)
    held_out = evaluation_rows(corpus)
    assert held_out["text"] == texts[:5]
    assert evaluation_rows(replace(corpus, max_eval_samples=2))["text"] == texts[:2]
    (source,) = load_sources(corpus)[0]
    parts = [part_of(source.rows, rank, 2 if files else 1) for rank in range(2 if files else 1)]
    assert all(list(part) for part in parts)
    assert sorted(row["text"] for part in parts for row in part) == sorted(texts[5:40])
    # has a split of its own
    marked = load_sources(replace(corpus, dataset_test_split="test"))[0][0].rows
    assert len(list(marked)) == 42


def test_too_few_rows_to_hold_out(tmp_path):
    text_rows(5).to_json(tmp_path / "a.jsonl")
    corpus = CorpusArguments(dataset_name=str(tmp_path / "a.jsonl"), num_heldout=6)
    with pytest.raises(UserError, match=r"num_heldout=6, but '.*a\.jsonl' has 5 rows"):
        evaluation_rows(corpus)
    with pytest.raises(UserError, match="num_heldout=5 leaves no row of"):
        load_sources(replace(corpus, num_heldout=5))


def test_sources_from_a_mirror_and_a_file_with_their_own_templates(tmp_path):
    folder = tmp_path / "mirror" / "me" / "sums" / "main"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"q": "1+1", "a": "2"}\n{"q": "2+2", "a": "4"}\n')
    text_rows(5).to_json(tmp_path / "my.jsonl")
    corpus = CorpusArguments(
        hub_mirror=str(tmp_path / "mirror"),
        streaming=True,
        mixture=[
            {
                "dataset_name": "me/sums",
                "dataset_config": "main",
                "text_template": "{q}={a}",
                "weight": 0.95,
            },
            {"dataset_name": str(tmp_path / "my.jsonl"), "weight": 0.05, "streaming": False},
        ],
    )
    sums, mine = load_sources(corpus)[0]
    assert (sums.name, sums.weight, list(sums.rows)) == (
        "me/sums:main",
        0.95,
        [{"text": "1+1=2"}, {"text": "2+2=4"}],
    )
    assert isinstance(mine.rows, Dataset)
    assert mine.rows.column_names == ["text"]


RECIPE = """\
from_scratch: {model_type: qwen3, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2,
  num_key_value_heads: 1, head_dim: 8}
tokenizer_vocab_size: 300
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
max_length: 32
packing: true
logging_steps: 1
save_steps: 2
gradient_checkpointing: false
use_cpu: true
disable_tqdm: true
output_dir: out
"""
TWO = '[{"dataset_name": "a.jsonl", "weight": 0.9}, {"dataset_name": "b.jsonl", "weight": %s}]'


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--mixture", TWO % "0.2"], "weights 0.9 + 0.2 sum to 1.1: they must sum to 1"),
        (["--mixture", TWO % "0.10001"], "they must sum to 1"),
        (["--mixture", TWO % "-0.1"], "mixture[1]: weight=-0.1 must be a number above 0"),
        (["--mixture", '[{"dataset_name": "a.jsonl"}]'], "mixture[0]: weight=None"),
        (
            ["--mixture", '[{"dataset": "a.jsonl", "weight": 1}]'],
            "mixture[0]: unknown key 'dataset'",
        ),
        (["--mixture", '[{"weight": 1}]'], "mixture[0]: dataset_name is missing"),
        (["--mixture", '["a.jsonl"]'], "mixture[0]='a.jsonl' must be a mapping"),
        (
            ["--mixture", TWO % "0.1", "--dataset_name", "a.jsonl"],
            "dataset_name='a.jsonl' does not go with mixture",
        ),
        (["--mixture", TWO % "0.1"], "data 'b.jsonl': there is no such file"),
        (
            ["--mixture", '[{"dataset_name": "me/absent", "weight": 1}]', "--hub_mirror", "."],
            "me/absent",
        ),
        (
            ["--dataset_name", "a.jsonl", "--streaming", "true", "--packing", "false"],
            "need packing: true",
        ),
        (
            ["--dataset_name", "a.jsonl", "--streaming", "true", "--dataloader_num_workers", "2"],
            "use 0 or 1",
        ),
        (
            ["--dataset_name", "a.jsonl", "--streaming", "true", "--max_steps", "-1"],
            "give train_tokens or max_steps",
        ),
        (
            ["--dataset_name", "a.jsonl", "--max_steps", "-1", "--train_tokens", "127"],
            "less than one step of 128",
        ),
        (
            ["--dataset_name", "a.jsonl", "--train_tokens", "1K"],
            "train_tokens=1K and max_steps=2 both set the length of the run: give one",
        ),
        (["--dataset_name", "a.jsonl", "--decontaminate", "gsm9k"], "gsm8k"),
        (["--dataset_name", "a.jsonl", "--num_heldout", "0"], "num_heldout=0 must be at least 1"),
        (
            ["--dataset_name", "a.jsonl", "--eval_strategy", "epoch"],
            "needs num_heldout or dataset_test_split",
        ),
    ],
)
def test_mistakes(argv, message, tmp_path, monkeypatch, capsys):
    from transformers import AutoModelForCausalLM

    def refuse(*args, **kwargs):
        raise AssertionError("a model was made")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", refuse)
    monkeypatch.chdir(tmp_path)
    text_rows(3).to_json("a.jsonl")
    (tmp_path / "r.yaml").write_text(RECIPE + "max_steps: 2\n")
    capsys.readouterr()
    assert cli.main(["train", "--config", "r.yaml", *argv]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("shaped-trl: error: ")
    assert message in error


@pytest.mark.slow
def test_a_recipe_with_a_mixture_and_a_token_budget(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text_rows(60).to_json("a.jsonl")
    text_rows(60, seed=1).to_json("b.jsonl")
    text_rows(9, seed=2).to_json("c.jsonl")
    mixture = "mixture:\n- {dataset_name: a.jsonl, weight: 0.5}\n"
    mixture += "- {dataset_name: b.jsonl, weight: 0.5, streaming: true}\n"
    (tmp_path / "r.yaml").write_text(
        RECIPE + mixture + "train_tokens: 400\ndataset_test_split: c.jsonl\n"
    )
    assert cli.main(["train", "--config", "r.yaml"]) == 0
    rows = list(read_jsonl("out/train_log.jsonl"))
    assert [row["tokens"] for row in rows if "loss" in row] == [128, 256, 384]
    assert all(row["tokens_per_second"] > 0 for row in rows if "loss" in row)
    assert "eval_nll" in rows[-1]
    assert cli.main(["train", "--config", "r.yaml"]) == 0
    assert list(read_jsonl("out/train_log.jsonl")) == rows


@pytest.mark.slow
def test_each_source_is_evaluated_by_itself(tmp_path, monkeypatch):
    """nll of each source is that of an evaluation on it alone; all of it is nll, weighted by
    tokens."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abcd"):
        text_rows(9, seed=number).to_json(f"{name}.jsonl")
    sources = [
        "{dataset_name: a.jsonl, weight: 0.5, dataset_test_split: c.jsonl}",
        "{dataset_name: b.jsonl, weight: 0.5, dataset_test_split: d.jsonl}",
    ]
    settings = (
        RECIPE
        + "max_steps: 1\nmax_eval_samples: 5\neval_strategy: steps\neval_steps: 1\nmixture:\n"
    )
    logged = {}
    for name, mixture in {
        "both": sources,
        "second": [sources[0].replace(", dataset_test_split: c.jsonl", ""), sources[1]],
    }.items():
        (tmp_path / "r.yaml").write_text(settings + "".join(f"- {source}\n" for source in mixture))
        assert cli.main(["train", "--config", "r.yaml", "--output_dir", name]) == 0
        (logged[name],) = [
            row for row in read_jsonl(f"{name}/train_log.jsonl") if "eval_nll" in row
        ]
    both, second = logged["both"], logged["second"]
    assert both["eval_nll_source_b.jsonl"] == pytest.approx(second["eval_nll"], rel=1e-6)
    assert "eval_nll_source_b.jsonl" not in second
    low, high = sorted(both[f"eval_nll_source_{name}.jsonl"] for name in "ab")
    assert low < both["eval_nll"] < high


def test_evaluation_rows_must_have_the_same_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text_rows(4).to_json("a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"prompt": "w1", "completion": " w2", "source": "mine"}\n')
    one = {"dataset_name": "a.jsonl", "dataset_test_split": "a.jsonl", "weight": 0.5}
    two = {"dataset_name": "b.jsonl", "dataset_test_split": "b.jsonl", "weight": 0.5}
    with pytest.raises(UserError, match=r"'b\.jsonl' have the columns .*prompt.*text_template"):
        evaluation_rows(CorpusArguments(mixture=[one, two]))
    # a column of the data's own names its sources
    rows = evaluation_rows(CorpusArguments(dataset_name="b.jsonl", dataset_test_split="b.jsonl"))
    assert rows[0] == {"prompt": "w1", "completion": " w2", "source": "mine"}
    named = evaluation_rows(CorpusArguments(mixture=[two, two | {"dataset_name": "b2.jsonl"}]))
    assert named["source"] == ["mine", "mine"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are using a model of type:UserWarning")
def test_a_checkpoint_of_another_model_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text_rows(9).to_json("a.jsonl")
    (tmp_path / "r.yaml").write_text(RECIPE + "max_steps: 2\ndataset_name: a.jsonl\n")
    assert cli.main(["train", "--config", "r.yaml"]) == 0
    smaller = (
        RECIPE.split("\n", 1)[0].replace("hidden_size: 16", "hidden_size: 8")
        + "\n"
        + RECIPE.split("\n", 1)[1]
    )
    (tmp_path / "r.yaml").write_text(smaller + "max_steps: 4\ndataset_name: a.jsonl\n")
    capsys.readouterr()
    argv = ["train", "--config", "r.yaml", "--output_dir", "other"]
    assert cli.main([*argv, "--resume_from_checkpoint", "out/checkpoint-2"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "checkpoint 'out/checkpoint-2' has hidden_size=16, but the model of this run has 8" in error
    )
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    assert cli.main([*argv, "--model_name_or_path", "./t5"]) == 2
    assert (
        "'t5', which is not a causal language model"
        in capsys.readouterr().err.strip().splitlines()[-1]
    )


@pytest.mark.slow
def test_tokenisation_is_cached_over_runs(tmp_path, monkeypatch):
    """A second run with the same rows, template and tokenizer reads what the first one made."""
    monkeypatch.chdir(tmp_path)
    text_rows(50).to_json("a.jsonl")
    (tmp_path / "r.yaml").write_text(
        RECIPE + "max_steps: 1\ndataset_name: a.jsonl\ntext_template: '- {text}'\n"
    )
    cache = tmp_path / "cache"
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    made = []
    for number in range(2):
        assert cli.main(["train", "--config", "r.yaml", "--output_dir", f"out{number}"]) == 0
        made.append({path.name for path in cache.rglob("*.arrow")})
    assert len(made[0]) > 4
    assert made[1] == made[0]
