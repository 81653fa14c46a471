"""Ranks, rare targets, positions and sources in the log, against full logits and plain Python."""

import json
from collections import Counter

import pytest
import torch
from evaluate_tiny import ROWS, main, sourced_rows, tiny_trainer
from processes import run_processes
from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model, tiny_tokenizer
from transformers import TrainerCallback

from shaped_trl.training import metrics
from shaped_trl.training.plots import log_panels


def plain_targets(rows, model_seed: int = 0) -> list[dict]:
    """The targets of `rows`: token, rank, nll, whether it is top-1, position and source."""
    tokenizer, model, targets = (
        tiny_tokenizer(),
        tiny_model(model_seed, dtype=torch.float64).eval(),
        [],
    )
    for row in rows:
        ids = [*tokenizer(row["text"]).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        for position in range(1, len(ids)):
            z = logits[position - 1]
            rank = z.sort(descending=True, stable=True).indices.tolist().index(ids[position])
            nll = -z.log_softmax(-1)[ids[position]].item()
            targets.append(
                {"token": ids[position], "rank": rank, "nll": nll, "position": position} | row
            )
    return targets


def plain_rare(targets: list[dict]) -> set[int]:
    """The rarest tokens that together are at most a tenth of the targets."""
    counts, rare, total = Counter(target["token"] for target in targets), set(), 0
    for token, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        total += count
        if 10 * total > len(targets):
            break
        rare.add(token)
    return rare


def mean(targets: list[dict], of, where) -> float:
    values = [of(target) for target in targets if where(target)]
    return sum(values) / len(values)


def plain_ranks(targets: list[dict]) -> dict[str, float]:
    """Shares of the seven buckets that 63 tokens have."""
    bounds = {
        "0": (0, 0),
        "1": (1, 1),
        "2_3": (2, 3),
        "4_7": (4, 7),
        "8_15": (8, 15),
        "16_31": (16, 31),
    }
    bounds["32_63"] = (32, 63)
    return {
        f"rank_{name}": mean(
            targets, lambda t, low=low, high=high: low <= t["rank"] <= high, lambda t: True
        )
        for name, (low, high) in bounds.items()
    }


def columns_like(logged: dict, *prefixes: str) -> dict:
    return {name: value for name, value in logged.items() if name.startswith(prefixes)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"packing": True, "max_length": 40, "eval_packing": False},
        {"packing": True, "max_length": 40},
        {"beta": -0.25, "lambda_head": 0.1, "loss_impl": "reference"},
    ],
    ids=["padded", "packed in training alone", "packed", "reference"],
)
def test_an_evaluation_has_the_numbers_of_full_logits(tmp_path, monkeypatch, settings):
    monkeypatch.setattr(metrics, "FIRST_POSITIONS", 4)
    rows = sourced_rows()
    logged = tiny_trainer(tmp_path, rows, **settings).evaluate()
    targets = plain_targets(rows)
    rare = plain_rare(targets)
    expected = {f"eval_{name}": share for name, share in plain_ranks(targets).items()}
    expected["eval_rare_nll"] = mean(targets, lambda t: t["nll"], lambda t: t["token"] in rare)
    expected["eval_rare_token_accuracy"] = mean(
        targets, lambda t: t["rank"] == 0, lambda t: t["token"] in rare
    )
    for low, high in ((0, 3), (4, 7), (8, 15), (16, 31)):
        in_bucket = mean(
            targets, lambda t: t["nll"], lambda t, low=low, high=high: low <= t["position"] <= high
        )
        expected[f"eval_nll_position_{low}_{high}"] = in_bucket
    # TRL packs without other columns
    is_packed = settings.get("eval_packing", settings.get("packing"))
    for source in () if is_packed else ("maths", "web"):
        of_source = mean(
            targets, lambda t: t["nll"], lambda t, source=source: t["source"] == source
        )
        expected[f"eval_nll_source_{source}"] = of_source
    ours = columns_like(logged, "eval_rank", "eval_rare", "eval_nll_")
    assert ours == pytest.approx(expected, abs=1e-12)
    assert {type(value) for value in ours.values()} == {float}
    assert logged["eval_mean_token_accuracy"] == pytest.approx(logged["eval_rank_0"], abs=1e-12)


def test_rows_are_not_put_into_one_where_attention_would_mask_it_densely(tmp_path):
    trainer = tiny_trainer(
        tmp_path, sourced_rows(), packing=True, max_length=40, eval_packing=False
    )
    batch = next(iter(trainer.get_eval_dataloader()))
    assert len(batch["input_ids"]) == trainer.args.per_device_eval_batch_size > 1
    assert batch["source"].shape == batch["input_ids"].shape
    trainer.model.set_attn_implementation("eager")
    assert len(next(iter(trainer.get_eval_dataloader()))["input_ids"]) > 1
    # takes the lengths of the documents in a row
    trainer.model.config._attn_implementation = "flash_attention_2"
    assert len(next(iter(trainer.get_eval_dataloader()))["input_ids"]) == 1


@pytest.mark.slow
def test_a_step_that_is_logged_has_ranks_and_others_do_not_compute_them(tmp_path):
    rows, with_rank = text_rows(4), []

    class Spy(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            with_rank.append("target_rank" in one.head.metrics)

    one = tiny_trainer(tmp_path, rows, train_dataset=rows, learning_rate=0.0, logging_steps=2)
    one.add_callback(Spy())
    one.train()
    assert with_rank == [False, True, False, True]
    expected = plain_ranks(plain_targets(rows))
    logged = list(read_jsonl(tmp_path / "train_log.jsonl"))
    assert [row["step"] for row in logged] == [2, 4]
    for row in logged:
        assert columns_like(row, "rank_") == pytest.approx(expected, abs=1e-12)


def test_all_arms_have_the_same_rare_targets(tmp_path, monkeypatch):
    chosen, rare_tokens = [], metrics.rare_tokens

    def spy(count_V):
        chosen.append(rare_tokens(count_V))
        return chosen[-1]

    monkeypatch.setattr(metrics, "rare_tokens", spy)
    rows = text_rows(30, seed=1)
    logged = [
        tiny_trainer(tmp_path, rows, model_seed=0).evaluate(),
        tiny_trainer(
            tmp_path, rows, model_seed=1, beta=0.5, per_device_eval_batch_size=7
        ).evaluate(),
    ]
    assert torch.equal(*chosen)
    assert logged[0]["eval_rare_nll"] != logged[1]["eval_rare_nll"]
    targets = plain_targets(rows)
    present = {target["token"] for target in targets}
    assert set(chosen[0].nonzero().flatten().tolist()) & present == plain_rare(targets)
    assert 0 < len(plain_rare(targets)) < len(present)


@pytest.mark.parametrize(
    ("counts", "rare"),
    [
        # 1 + 3 + 5 of 100; a token that never occurs changes nothing
        ([5, 1, 0, 3, 91], [1, 2, 3, 0]),
        ([6, 1, 0, 4, 89], [1, 2, 3]),
        ([1, 1, 1, 17], [0, 1]),  # of equally rare ones, the lowest ids
        ([5, 5, 5], []),  # each is more than a tenth
        ([0, 0], [0, 1]),
    ],
)
def test_rare_tokens(counts, rare):
    chosen = metrics.rare_tokens(torch.tensor(counts, dtype=torch.float64))
    assert set(chosen.nonzero().flatten().tolist()) == set(rare)


@pytest.mark.parametrize("first", [1, 256])
def test_a_bucket_is_what_its_name_says(first):
    values = torch.cat(
        [torch.arange(5000), torch.tensor([151_935, 262_143, 262_144, 2**23 - 1, 2**23])]
    )
    for value, number in zip(
        values.tolist(), metrics.bucket(values.float(), first).tolist(), strict=True
    ):
        low, _, high = metrics.bucket_name(number, first).partition("_")
        assert int(low) <= value <= int(high or low)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (ROWS, {}),
        # The last batches are filled with repeated rows; one process has nothing but these there.
        (ROWS - 3, {}),
        (ROWS - 3, {"packing": True, "eval_packing": True, "max_length": 24}),
    ],
)
def test_two_processes_have_the_evaluation_of_one(tmp_path, rows, settings):
    results = run_processes(main, 2, tmp_path, 2, rows, settings)
    expected = main(4, rows, settings)
    assert columns_like(
        expected,
        "eval_rank_32",
        "eval_rare_nll",
        "eval_nll_source_maths",
        "eval_nll_position_0_255",
    )
    for result in results:
        assert result == pytest.approx(expected, abs=1e-12)


def test_sets_by_name_have_columns_of_their_own(tmp_path):
    sets = {"maths": text_rows(9, seed=2), "web": text_rows(9, seed=3)}
    logged = tiny_trainer(tmp_path, sets).evaluate()
    for name, rows in sets.items():
        alone = tiny_trainer(tmp_path, rows).evaluate()
        ours = columns_like(logged, f"eval_{name}_rank", f"eval_{name}_rare", f"eval_{name}_nll")
        theirs = columns_like(alone, "eval_rank", "eval_rare", "eval_nll")
        assert ours == {
            column.replace("eval_", f"eval_{name}_"): value for column, value in theirs.items()
        }


@pytest.mark.slow
def test_too_many_sources_are_left_out_and_training_rows_may_have_them(
    tmp_path, monkeypatch, caplog
):
    rows = sourced_rows()
    monkeypatch.setattr(metrics, "MOST_SOURCES", 1)
    one = tiny_trainer(
        tmp_path, rows, train_dataset=rows, max_steps=2, eval_strategy="steps", eval_steps=1
    )
    one.train()
    logged = list(read_jsonl(tmp_path / "train_log.jsonl"))
    assert [row["step"] for row in logged] == [1, 1, 2, 2]
    assert not columns_like(logged[-1], "eval_nll_source")
    assert "2 values" in caplog.text


def test_the_log_and_its_picture_have_the_new_columns(tmp_path):
    rows = sourced_rows()
    one = tiny_trainer(
        tmp_path, rows, train_dataset=rows, max_steps=2, eval_strategy="steps", eval_steps=1
    )
    one.train()
    logged = [json.loads(line) for line in (tmp_path / "train_log.jsonl").read_text().splitlines()]
    panels = {panel.title: panel.curves for panel in log_panels(logged)}
    assert list(panels["Top-1"]) == [
        "mean_token_accuracy",
        "eval_mean_token_accuracy",
        "eval_rare_token_accuracy",
    ]
    parts = [
        "eval_rare_nll",
        "eval_nll_position_0_255",
        "eval_nll_source_maths",
        "eval_nll_source_web",
    ]
    assert list(panels["Parts of the evaluation"]) == parts
    ranks = panels["Rank of the target"]
    assert list(ranks) == ["eval_rank_0", "eval_rank_1–7", "eval_rank_8–127"]
    for step in range(2):
        assert sum(lines[0][1][step] for lines in ranks.values()) == pytest.approx(1, abs=1e-12)
    assert all(lines[0][0] == [1, 2] for lines in ranks.values())
    training = [
        {name: value for name, value in row.items() if not name.startswith("eval_")}
        for row in logged
    ]
    assert {"rank_0", "rank_1–7", "rank_8–127"} == set(log_panels(training)[-1].curves)
    assert (tmp_path / "train_log.png").stat().st_size > 0
