"""`shape_lm_head`: the loss inside a model's own forward."""

import inspect

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Dataset
from shaped_eval.errors import UserError
from shaped_kernels import RewardShape, shaped_linear_loss
from tiny import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from shaped_trl.modeling import lm_head, shape_lm_head
from shaped_trl.modeling.lm_head import unshape

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "pad_token_id": 0,
}


def models() -> dict[str, PreTrainedModel]:
    torch.manual_seed(0)
    moe = {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "output_router_logits": True,
    }
    return {
        "plain": tiny_model(tie_word_embeddings=False),
        "tied": tiny_model(tie_word_embeddings=True),
        "softcap": Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=2.0)),
        "logits_scaling": GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=3.0)),
        "logit_scale": CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.3)),
        "moe": Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **moe)),
    }


@pytest.fixture
def batch():
    torch.manual_seed(1)
    ids = torch.randint(3, 50, (3, 9))
    labels = ids.clone()
    labels[0, :4] = -100
    labels[2, 6:] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@pytest.mark.parametrize(
    "name", ["plain", "tied", "softcap", "logits_scaling", "logit_scale", "moe"]
)
def test_cross_entropy_is_the_models_own_loss(name, batch):
    """With the default shape, a patched forward has the loss and gradients of the original."""
    model = models()[name]
    if name != "moe":  # grouped_mm of the experts has no float64
        model = model.double()
    expected = model(**batch).loss
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    shape_lm_head(model)
    output = model(**batch)
    output.loss.backward()
    # transformers computes its loss in float32
    assert abs(output.loss.item() - expected.item()) < 1e-6
    for n, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(n).grad, gradient, rtol=1e-4, atol=1e-7)


def test_shape_changes_the_loss_and_leaves_nll(batch):
    model = tiny_model(tie_word_embeddings=False)
    head = shape_lm_head(model, RewardShape(beta=0.5, lambda_tail=-0.1, top_k=4))
    shaped = model(**batch)
    head.shape = RewardShape()
    plain = model(**batch)
    assert abs(shaped.shaped_loss - plain.shaped_loss) > 1e-2
    torch.testing.assert_close(shaped.nll, plain.nll, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(plain.nll.sum(), plain.shaped_loss, rtol=1e-6, atol=1e-6)


def test_labels_are_optional_and_generation_is_unchanged(batch):
    model = tiny_model()
    del batch["labels"]
    before = model(**batch).logits, model.generate(**batch, max_new_tokens=5, do_sample=False)
    shape_lm_head(model, RewardShape(beta=-0.25))
    after = model(**batch).logits, model.generate(**batch, max_new_tokens=5, do_sample=False)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    assert torch.equal(after[1], before[1])


def test_shift_labels_are_taken_as_they_are(batch):
    model = tiny_model()
    shape_lm_head(model)
    labels = batch.pop("labels")
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    expected = model(**batch, labels=labels).loss
    torch.testing.assert_close(
        model(**batch, shift_labels=shifted).loss, expected, rtol=1e-6, atol=1e-7
    )


def test_labels_given_by_position_are_shaped(batch):
    model = tiny_model()
    shape_lm_head(model, RewardShape(beta=0.5))
    expected = model(**batch).loss
    names = [*inspect.signature(type(model).forward).parameters][1:]
    arguments = [batch.get(name) for name in names[: names.index("labels") + 1]]
    assert torch.equal(model(*arguments).loss, expected)
    with pytest.raises(TypeError, match="multiple values for argument 'labels'"):
        model(*arguments, labels=batch["labels"])


def test_a_tuple_is_returned_where_that_is_asked_for(batch):
    model = tiny_model()
    shape_lm_head(model)
    expected = model(**batch)
    output = model(**batch, return_dict=False)
    assert isinstance(output, tuple)
    assert torch.equal(output[0], expected.loss)
    assert torch.equal(output[1], expected.shaped_loss)


def test_what_else_was_asked_for_is_the_models_own(batch):
    model = models()["moe"]
    model.set_attn_implementation("eager")
    requested = {"output_hidden_states": True, "output_attentions": True}
    own = model(**batch, **requested)
    shape_lm_head(model)
    output = model(**batch, **requested)
    for name in ("hidden_states", "attentions", "router_logits"):
        assert len(output[name]) == len(own[name]) > 0
        for got, expected in zip(output[name], own[name], strict=True):
            torch.testing.assert_close(got, expected)
    torch.testing.assert_close(output.aux_loss, own.aux_loss)
    torch.testing.assert_close(output.loss, own.loss)
    assert "hidden_states" not in model(**batch)


def test_labels_that_do_not_fit_the_positions_are_refused(batch):
    model = tiny_model()
    shape_lm_head(model)
    with pytest.raises(UserError, match="do not fit the positions"):
        model(**batch, logits_to_keep=3)


def test_logits_are_not_built_beside_the_loss(batch, monkeypatch):
    """Only the loss, which bounds its memory, makes tensors as large as two rows of logits."""
    model = tiny_model(tie_word_embeddings=False)
    shape_lm_head(model)
    inside = []

    class Large(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if not inside and isinstance(result, torch.Tensor) and result.shape[-1:] == (63,):
                assert result.numel() <= 63
            return result

    def watched(*args, **kwargs):
        inside.append(True)
        try:
            return shaped_linear_loss(*args, **kwargs)
        finally:
            inside.pop()

    monkeypatch.setattr(lm_head, "shaped_linear_loss", watched)
    with Large():
        model(**batch)
        with pytest.raises(AssertionError):
            model(batch["input_ids"])


def test_no_valid_target_is_a_differentiable_zero(batch):
    model = tiny_model()
    shape_lm_head(model, RewardShape(beta=-0.25))
    loss = model(**batch | {"labels": torch.full_like(batch["labels"], -100)}).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="surprise"):
        shape_lm_head(tiny_model(), metrics=("surprise",))


@pytest.mark.parametrize(
    ("tied", "adapter"),
    [
        (False, {"target_modules": ["lm_head"]}),
        (True, {"target_modules": ["q_proj"], "trainable_token_indices": [5]}),
    ],
    ids=["lora", "trainable-tokens"],
)
def test_adapter_on_the_head_is_refused(batch, tied, adapter):
    from peft import LoraConfig, get_peft_model

    model = tiny_model(tie_word_embeddings=tied)
    shape_lm_head(model)
    adapted = get_peft_model(model, LoraConfig(r=2, **adapter))
    with pytest.raises(ValueError, match="modules_to_save"):
        adapted(**batch)
    with pytest.raises(ValueError, match="modules_to_save"):
        shape_lm_head(model)


def test_a_copy_of_the_head_is_trained_beside_adapters(batch):
    from peft import LoraConfig, get_peft_model

    model = tiny_model(tie_word_embeddings=False)
    shape_lm_head(model)
    expected = model(**batch).loss
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    )
    loss = adapted(**batch).loss
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    head = model.get_output_embeddings()
    assert head.modules_to_save["default"].weight.grad.any()
    assert head.original_module.weight.grad is None
    # The loss replaced the forward of the head only during the call.
    assert head(torch.ones(1, 16)).shape == (1, 63)


def first_loss(folder, model, **given) -> float:
    """What transformers' own Trainer logs at its first step."""
    args = TrainingArguments(
        folder,
        max_steps=1,
        per_device_train_batch_size=3,
        logging_steps=1,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, args, **given)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


def test_one_line_serves_a_plain_trainer(tmp_path, batch):
    """transformers' own Trainer minimises the shaped loss and logs it."""
    rows = [{name: value[i] for name, value in batch.items()} for i in range(3)]
    model = tiny_model()
    shape_lm_head(model, RewardShape(beta=-0.25))
    expected = model(**batch).loss.item()
    assert first_loss(tmp_path, model, train_dataset=rows) == pytest.approx(expected, abs=1e-4)


def test_a_plain_trainer_keeps_the_weights_of_the_rows(tmp_path, batch):
    """It drops columns that the forward does not name."""
    columns = {name: value.tolist() for name, value in batch.items()}
    weights = torch.linspace(-1, 2, batch["labels"].numel()).view_as(batch["labels"])
    model = tiny_model()
    shape_lm_head(model, RewardShape(beta=-0.25))
    expected = model(**batch, loss_weights=weights).loss.item()
    rows = Dataset.from_dict(columns | {"loss_weights": weights.tolist()})
    found = first_loss(tmp_path, model, train_dataset=rows, data_collator=default_data_collator)
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_model_of_a_run_in_half_precision_is_shaped_anew(batch):
    """accelerate has put its own forward around the patch."""
    model = tiny_model()
    shape_lm_head(model, RewardShape(beta=-0.9))
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        for number in range(2):
            prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare(model)
            assert prepared is model
            with pytest.raises(UserError, match="accelerate has prepared it with a shape"):
                shape_lm_head(model, RewardShape(beta=0.5))
            unshape(model)
            shape_lm_head(model, RewardShape(beta=0.5))
            unwrapped = model(**batch).loss
            assert number or not hasattr(model, "_original_forward")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    fresh = tiny_model()
    shape_lm_head(fresh, RewardShape(beta=0.5))
    assert unwrapped.item() == pytest.approx(fresh(**batch).loss.item(), rel=1e-6)


# Dynamo looks at the gradients of tensors that are not leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_model_has_the_loss_and_gradients_of_eager_mode(batch):
    model = tiny_model()
    shape_lm_head(model, RewardShape(beta=-0.25), metrics=("entropy",))
    found = []
    for run in (model, torch.compile(model, backend="aot_eager")):
        output = run(**batch)
        output.loss.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        model.zero_grad()
        found.append([output.loss, output.entropy, run(batch["input_ids"]).logits, *gradients])
    torch.compiler.reset()
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shifted", [False, True])
def test_weights_go_where_the_labels_go(batch, shifted):
    """The loss is that of the tokens' own losses, weighted, over the number of tokens."""
    model = models()["tied"]
    shape_lm_head(model, RewardShape(beta=-0.25), z_loss=0.01)
    hidden = model.model(batch["input_ids"]).last_hidden_state[:, :-1]
    targets = batch["labels"][:, 1:]
    losses = shaped_linear_loss(
        hidden, model.lm_head.weight, targets, RewardShape(-0.25), z_loss=0.01, reduction="none"
    ).loss
    weights = torch.linspace(-1, 2, batch["labels"].numel()).view_as(batch["labels"])
    expected = (weights[:, 1:] * losses).sum() / (targets != -100).sum()
    if shifted:
        shift = {"shift_labels": torch.nn.functional.pad(targets, (0, 1), value=-100)}
        moved = torch.nn.functional.pad(weights[:, 1:], (0, 1))
        output = model(batch["input_ids"], **shift, loss_weights=moved)
    else:
        output = model(**batch, loss_weights=weights)
    torch.testing.assert_close(output.loss, expected)


def test_weights_of_another_shape_are_refused(batch):
    model = models()["plain"]
    shape_lm_head(model)
    with pytest.raises(UserError, match=r"loss_weights of shape \(3, 8\) do not fit .*\(3, 9\)"):
        model(**batch, loss_weights=torch.ones(3, 8))
