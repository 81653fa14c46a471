"""Loss-free balancing: counts, steps of the bias, no side effects, resuming, processes."""

import pytest
import torch
from balanced_training import ADAMW, EXPERTS, ROWS, balanced_run, collapsed_model, ranks, trained
from processes import run_processes
from safetensors.torch import load_file
from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model, tiny_tokenizer
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

from shaped_trl.modeling.balancing import LOGGED, LossFreeBalancing


def loads(model, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Tokens per expert of each layer, counted at the experts, independently of the callback."""
    found = []
    for layer in model.model.layers:
        layer.mlp.experts.register_forward_pre_hook(lambda module, args: found.append(args[1]))
    with torch.no_grad():
        model(ids, attention_mask=mask)
    kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    return torch.stack(
        [torch.bincount(chosen[kept.flatten()].flatten(), minlength=EXPERTS) for chosen in found]
    )


def batch(rows: int = ROWS, seed: int = 0) -> dict[str, torch.Tensor]:
    """Padded rows of uneven length."""
    encoded = tiny_tokenizer()(
        list(text_rows(rows, seed)["text"]), padding=True, return_tensors="pt"
    )
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.where(mask.bool(), -100)}


@pytest.mark.slow
@pytest.mark.parametrize("balanced", [True, False], ids=["balanced", "without"])
def test_a_collapsed_router_is_balanced_only_by_the_callback(balanced, tmp_path):
    """All tokens start on 2 of 8 experts. With balancing, the load becomes even."""
    model = collapsed_model()
    one = trained(
        model, tmp_path, LossFreeBalancing(model) if balanced else None, steps=120, per_device=32
    )
    held_out = batch(rows=100, seed=1)
    relative = loads(model, held_out["input_ids"], held_out["attention_mask"]).double()
    relative = (relative / relative.mean(1, keepdim=True)).amax(1)
    assert (relative < 1.5).all() if balanced else (relative > 3).all()
    if balanced:
        logged = [row for row in one.state.log_history if "loss" in row]
        assert [logged[0][name] for name in LOGGED] == [3.0, 3.0, 6.0, 6.0]
        assert max(row["max_violation_worst"] for row in logged[-20:]) < 0.5
        assert all(row["dead_experts_worst"] == 0 for row in logged[-20:])
        assert logged[-1]["loss"] < logged[0]["loss"] - 0.01


@pytest.mark.slow
def test_the_bias_moves_by_the_rate_towards_the_mean(tmp_path):
    result = balanced_run(tmp_path, steps=1, rate=0.01)
    (counts,) = result["counts"]
    assert (counts == 0).any()
    assert torch.equal(
        result["biases"], 0.01 * torch.sign(counts.double().mean(1, keepdim=True) - counts)
    )
    equal = collapsed_model(num_local_experts=2)  # both are always chosen
    assert balanced_run(tmp_path, steps=1, model=equal)["biases"].eq(0).all()


def test_counts_are_those_of_the_tokens_that_are_not_padding():
    model = collapsed_model(spread=0.0).train()
    balancing = LossFreeBalancing(model)
    rows = batch()
    expected = loads(model, rows["input_ids"], rows["attention_mask"])
    model(**rows)
    assert torch.equal(balancing.counts_LE, expected)
    assert expected.sum(1).tolist() == [2 * rows["attention_mask"].sum()] * 2
    model(input_ids=rows["input_ids"])
    assert torch.equal(balancing.counts_LE, expected + loads(model, rows["input_ids"]))


@pytest.mark.slow
def test_accumulation_and_packing_change_neither_counts_nor_biases(tmp_path):
    whole = balanced_run(tmp_path)
    assert len({tuple(counts.flatten().tolist()) for counts in whole["counts"]}) == 4
    for per_device, accumulation in ((4, 2), (2, 4), (1, 8)):
        assert_same(balanced_run(tmp_path, per_device, accumulation), whole)
    first = balanced_run(tmp_path, steps=1, per_device=32)
    packed = balanced_run(tmp_path, steps=1, per_device=32, packing=True, max_length=40)
    assert_same(packed, first)


@pytest.mark.slow
@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_gradient_checkpointing_does_not_count_twice(reentrant, tmp_path):
    settings = {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }
    assert_same(
        balanced_run(tmp_path, accumulation=2, per_device=4, **settings), balanced_run(tmp_path)
    )


def assert_same(ours: dict, theirs: dict) -> None:
    for a, b in zip(ours["counts"], theirs["counts"], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(ours["biases"], theirs["biases"])
    for a, b in zip(ours["log"], theirs["log"], strict=True):
        assert [a[name] for name in LOGGED] == [b[name] for name in LOGGED]


@pytest.mark.slow
def test_generation_and_evaluation_do_not_count(tmp_path):
    model = collapsed_model()
    balancing = LossFreeBalancing(model)
    rows = batch()
    model.eval()
    model(**rows)
    model.train()
    with torch.no_grad():
        model(**rows)
        model.generate(
            rows["input_ids"],
            attention_mask=rows["attention_mask"],
            max_new_tokens=3,
            do_sample=False,
        )
    assert balancing.counts_LE.eq(0).all()
    evaluated = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset": text_rows(5, seed=1)}
    assert_same(balanced_run(tmp_path, **evaluated), balanced_run(tmp_path / "not"))


def test_the_bias_chooses_the_experts_and_does_not_weigh_them():
    model = collapsed_model(spread=0.0).eval()
    rows = batch()
    rows.pop("labels")
    before = model(**rows).logits
    for layer in model.model.layers:
        layer.mlp.e_score_correction_bias.add_(0.25)  # the same for all experts
    assert torch.equal(model(**rows).logits, before)
    model.model.layers[0].mlp.e_score_correction_bias[3] += 1.0
    assert not torch.allclose(model(**rows).logits, before, atol=1e-4)


def test_the_log_has_the_balance_with_the_training_loss(tmp_path):
    result = balanced_run(
        tmp_path, logging_steps=2, eval_strategy="steps", eval_steps=2, eval_dataset=text_rows(5)
    )
    rows = list(read_jsonl(tmp_path / "train_log.jsonl"))
    training = [row for row in rows if "loss" in row]
    assert [row["step"] for row in training] == [2, 4]
    assert all("max_violation" not in row for row in rows if "loss" not in row)
    for i, row in enumerate(training):
        counts = torch.stack(result["counts"][2 * i : 2 * i + 2]).double()  # [steps, L, E]
        violation, dead = counts.amax(2) / counts.mean(2) - 1, (counts == 0).sum(2).double()
        expected = [violation.mean(), violation.amax(1).mean(), dead.mean(), dead.amax(1).mean()]
        assert [row[name] for name in LOGGED] == pytest.approx(
            [value.item() for value in expected], rel=1e-12
        )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_has_the_biases_of_an_undisturbed_one(dtype, tmp_path):
    """Also in a bfloat16 model: file, loaded biases and final biases are the same float32 bits."""
    settings = {"steps": 6, "rate": 0.001, "save_strategy": "steps", "save_steps": 3}
    whole = balanced_run(tmp_path, model=collapsed_model(dtype=getattr(torch, dtype)), **settings)
    saved = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    biases = [tensor for name, tensor in saved.items() if name.endswith("e_score_correction_bias")]
    assert len(biases) == 2
    assert all(
        bias.dtype == torch.float32 and bias.abs().max() == pytest.approx(0.003) for bias in biases
    )
    # none of it may remain
    fresh = collapsed_model(spread=0.0, dtype=getattr(torch, dtype), initializer_range=0.5)
    resumed = balanced_run(tmp_path, model=fresh, resume=str(tmp_path / "checkpoint-3"), **settings)
    assert resumed["biases"].dtype == torch.float32
    assert torch.equal(resumed["biases"], whole["biases"])
    assert all(
        torch.equal(a, b) for a, b in zip(resumed["counts"], whole["counts"][3:], strict=True)
    )
    for (name, ours), theirs in zip(
        resumed["weights"].items(), whole["weights"].values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_count_and_move_as_one(tmp_path):
    one, by_adamw = balanced_run(tmp_path / "one"), balanced_run(tmp_path / "one", **ADAMW)
    for result in run_processes(ranks, 2, tmp_path, str(tmp_path)):
        assert_same(result["ddp"], one)
        assert_same(result["ddp accumulating"], one)
        assert_same(result["fsdp"], by_adamw)
        resumed = result["fsdp resumed"]
        assert torch.equal(resumed["biases"], by_adamw["biases"])
        assert all(
            torch.equal(a, b)
            for a, b in zip(resumed["counts"], by_adamw["counts"][2:], strict=True)
        )


def test_a_router_that_holds_its_own_bias_is_balanced():
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 63,
        "hidden_size": 16,
        "intermediate_size": 32,
        "moe_intermediate_size": 8,
        "head_dim": 8,
    }
    sizes |= {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
    }
    model = Glm4MoeForCausalLM(
        Glm4MoeConfig(**sizes, n_routed_experts=4, num_experts_per_tok=2)
    ).train()
    balancing = LossFreeBalancing(model)
    model(**batch())
    assert balancing.counts_LE.shape == (2, 4)
    assert balancing.counts_LE.sum(1).tolist() == [2 * batch()["attention_mask"].sum()] * 2


def test_what_cannot_be_balanced_is_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    with pytest.raises(ValueError, match="Qwen3ForCausalLM has no router bias"):
        LossFreeBalancing(tiny_model())
    with pytest.raises(ValueError, match=r"rate=0.0 is not positive"):
        LossFreeBalancing(collapsed_model(), rate=0.0)
    with pytest.raises(ValueError, match="without adapters"):
        LossFreeBalancing(get_peft_model(collapsed_model(), LoraConfig(target_modules=["q_proj"])))
    model = collapsed_model()
    balancing = LossFreeBalancing(model)
    model.bfloat16()  # as DeepSpeed's bf16 engine does
    with pytest.raises(RuntimeError, match=r"router biases are in torch\.bfloat16"):
        trained(model, tmp_path, balancing)
