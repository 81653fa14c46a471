"""Weights of training tokens: from rows, sources and prompts, packed and over processes."""

import json

import pytest
import torch
from datasets import Dataset
from processes import run_processes
from shaped_eval.errors import UserError
from tiny import pair_rows, text_rows, tiny_model, tiny_tokenizer
from transformers import DataCollatorForLanguageModeling
from weighted_tiny import SETTINGS, InOneProcess, build, main, result, tokenised_rows

from shaped_trl.data.corpora import CorpusArguments
from shaped_trl.data.mixtures import load_sources
from shaped_trl.training import ShapedConfig, ShapedTrainer
from shaped_trl.training.config import ShapedConfig as Config
from shaped_trl.training.weights import WeightCollator, weigh_row


def trainer(folder, rows, **changes) -> ShapedTrainer:
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "max_length": 12,
    }
    args = ShapedConfig(str(folder), **settings | changes)
    model = tiny_model(dtype=torch.float64)
    return ShapedTrainer(model, args, train_dataset=rows, processing_class=tiny_tokenizer())


def batches(one: ShapedTrainer) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)  # of the order of rows
    return list(one.get_train_dataloader())


WAYS = {
    "padded": {},
    "padded, the end": {"truncation_mode": "keep_end"},
    "padding-free": {"padding_free": True, "max_length": None},
    "packed": {"packing": True},
    "packed and split": {"packing": True, "packing_strategy": "bfd_split"},
    "wrapped": {"packing": True, "packing_strategy": "wrapped"},
    "packed, shuffled": {"packing": True, "shuffle_dataset": True},
}
# TRL warns that these need FlashAttention. Without it documents see each other. That does not matter
# here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*[Ff]lash:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .'keep_end'. truncation mode:FutureWarning"),
]


@pytest.mark.parametrize("way", WAYS)
def test_the_rows_own_weights_stay_with_their_tokens(tmp_path, way):
    found = batches(trainer(tmp_path, tokenised_rows(12), **WAYS[way]))
    for batch in found:
        ids, weights = batch["input_ids"], batch["loss_weights"]
        assert weights.shape == batch["labels"].shape
        is_token = ids != 0  # <pad>, whose labels are ignored
        torch.testing.assert_close(weights[is_token], (ids / 10 - 2)[is_token])
        assert (batch["labels"][~is_token] == -100).all()
        assert weights[~is_token].count_nonzero() == 0
    assert sum((batch["input_ids"] != 0).sum() for batch in found) > 100


@pytest.mark.parametrize("way", WAYS)
def test_a_prompt_weight_of_one_is_training_on_all_tokens(tmp_path, way):
    """The batches are TRL's own, and so is the number of tokens."""
    plain = batches(
        trainer(tmp_path / "plain", pair_rows(12), completion_only_loss=False, **WAYS[way])
    )
    weighted = batches(
        trainer(tmp_path / "weighted", pair_rows(12), prompt_loss_weight=1.0, **WAYS[way])
    )
    assert len(plain) == len(weighted)
    for ours, truth in zip(weighted, plain, strict=True):
        weights = ours.pop("loss_weights")
        assert ours.keys() == truth.keys()
        for name, value in truth.items():
            assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(value)), name
        assert (weights[truth["labels"] != -100] == 1).all()


def test_the_loss_of_a_batch_is_that_of_weighted_autograd(tmp_path):
    one = trainer(tmp_path, pair_rows(12), prompt_loss_weight=0.25, z_loss=0.01)
    completions = batches(trainer(tmp_path / "other", pair_rows(12)))
    for batch, masked in zip(batches(one), completions, strict=True):
        kept = batch["labels"] != -100
        expected = torch.where(masked["labels"] == -100, 0.25, 1.0)
        torch.testing.assert_close(batch["loss_weights"][kept], expected[kept])
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = one.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        targets, weights = batch["labels"][:, 1:], expected[:, 1:]
        nll = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")
        z_loss = 0.01 * logits.logsumexp(-1) ** 2
        kept = targets != -100
        truth = (weights * (nll + z_loss))[kept].sum() / kept.sum()
        loss = one.compute_loss(one.model, {**batch})
        torch.testing.assert_close(loss, truth)
        parameter = one.model.model.embed_tokens.weight
        ours, expected_gradient = (
            torch.autograd.grad(each, parameter)[0] for each in (loss, truth)
        )
        torch.testing.assert_close(ours, expected_gradient, rtol=1e-10, atol=1e-12)


def test_the_logsumexp_is_logged_where_there_is_a_z_loss(tmp_path):
    logs = {}
    for z_loss in (0.0, 0.01):
        one = trainer(tmp_path / str(z_loss), text_rows(12), z_loss=z_loss)
        one.train()
        logs[z_loss] = [row for row in one.state.log_history if "loss" in row]
    assert all("logsumexp" not in row for row in logs[0.0])
    assert all(row["logsumexp"] > 0 for row in logs[0.01])
    assert logs[0.01][0]["nll"] == pytest.approx(logs[0.0][0]["nll"])
    first = logs[0.01][0]["loss"] - logs[0.0][0]["loss"]
    assert first >= 0.01 * logs[0.01][0]["logsumexp"] ** 2 * 0.99  # Jensen


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_as_one_on_a_packed_mixture_with_weights(tmp_path):
    (tmp_path / "processes").mkdir()
    by_two = run_processes(main, 2, tmp_path / "processes")
    by_one = result(build(tmp_path / "one", per_device=2, trainer=InOneProcess))
    for rank in range(2):
        assert by_two[rank].keys() == by_one.keys()
        for name, value in by_one.items():
            torch.testing.assert_close(
                torch.as_tensor(by_two[rank][name], dtype=torch.float64),
                torch.as_tensor(value, dtype=torch.float64),
                rtol=1e-9,
                atol=1e-12,
                msg=lambda text, name=name: f"{name}: {text}",
            )
    other = result(build(tmp_path / "other", 2, InOneProcess, prompt_loss_weight=0.5))
    assert abs(other["loss of step 1"] - by_one["loss of step 1"]) > 1e-4


def test_a_packed_mixture_weighs_tokens_by_source_and_prompt(tmp_path):
    one = build(tmp_path, per_device=4)
    seen = set()
    loader = iter(one.get_train_dataloader())
    for _ in range(4):
        batch = next(loader)
        for source, ids, weights in zip(
            batch["stream"]["sources"], batch["input_ids"], batch["loss_weights"], strict=True
        ):
            seen.add(source)
            if source == "tokenised":
                torch.testing.assert_close(weights, ids / 10 - 2)
            else:
                expected = {"texts": {-0.5}, "pairs": {0.5, 2.0}}[source]
                assert set(weights.tolist()) == expected
    assert seen == {"texts", "pairs", "tokenised"}


REFUSED = [
    ({"z_loss": -1.0}, "z_loss=-1.0"),
    ({"z_loss": 0.1, "loss_temperature": 0.7}, "z_loss=0.1 does not go with loss_temperature=0.7"),
    ({"prompt_loss_weight": -0.1}, "prompt_loss_weight=-0.1 is not a finite number of at least 0"),
    (
        {"prompt_loss_weight": 0.1, "completion_only_loss": True},
        "prompt_loss_weight=0.1 does not go with completion_only_loss=True",
    ),
    (
        {"prompt_loss_weight": 0.1, "assistant_only_loss": True},
        "prompt_loss_weight=0.1 does not go with assistant_only_loss=True",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_options_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        Config(str(tmp_path), use_cpu=True, **arguments)


def test_a_prompt_weight_needs_prompts(tmp_path):
    with pytest.raises(UserError, match=r"prompt_loss_weight=0.1 needs rows with a prompt"):
        trainer(tmp_path, text_rows(4), prompt_loss_weight=0.1)


@pytest.mark.parametrize("weights", [[1.0], [1.0, None], [1.0, float("nan")], [1.0, 2.0, 3.0]])
def test_weights_that_do_not_fit_their_tokens_are_refused(weights):
    row = {"input_ids": [5, 6], "labels": [5, 6], "loss_weights": weights}
    with pytest.raises(UserError, match="one finite number for each of the 2 tokens"):
        weigh_row(row, None, 1.0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_weights_follow_the_padding_of_any_collator(side):
    rows = [{"input_ids": list(range(5, 5 + n)), "loss_weights": [0.5] * n} for n in (2, 4)]
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    pad = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    batch = WeightCollator(pad)(rows)
    assert torch.equal(batch["loss_weights"] == 0.5, batch["attention_mask"].bool())
    assert batch["loss_weights"].sum() == 3
    full = [rows[1], rows[1]]
    plain = WeightCollator(
        lambda rows: {"labels": torch.tensor([row["input_ids"] for row in rows])}
    )
    assert torch.equal(plain(full)["loss_weights"], torch.full((2, 4), 0.5))
    with pytest.raises(ValueError, match="do not fit the rows of the data_collator"):
        WeightCollator(lambda rows: pad([{"input_ids": row["input_ids"][:2]} for row in rows]))(
            rows
        )


def test_a_row_with_weights_that_do_not_fit_stops_the_trainer(tmp_path):
    rows = Dataset.from_dict({"input_ids": [[5, 6]], "loss_weights": [[1.0]]})
    with pytest.raises(UserError, match=r"loss_weights=.* must be one finite number"):
        trainer(tmp_path, rows)


@pytest.mark.parametrize("weight", ["2", True, float("inf"), None])
def test_a_sources_loss_weight_must_be_a_number(tmp_path, weight):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "a"}) + "\n")
    entry = {"dataset_name": str(path), "weight": 1.0, "loss_weight": weight}
    with pytest.raises(UserError, match=r"mixture\[0\]: loss_weight=.* must be a finite number"):
        load_sources(CorpusArguments(mixture=[entry]))
    (source,), _ = load_sources(CorpusArguments(mixture=[entry | {"loss_weight": -2}]))
    assert source.loss_weight == -2


def test_the_tests_mixture_has_all_kinds_of_weights():
    assert SETTINGS["prompt_loss_weight"] != 1
    assert SETTINGS["z_loss"] > 0
