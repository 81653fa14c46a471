"""RLVRTrainer's loss and gradients on a CPU and with a large vocabulary, against GRPOTrainer's.

The truth is GRPOTrainer with autograd through full logits in float64. TRL's own head keeps its sums
in fp32, so that it is compared as loosely as fp32 allows.
"""

import pytest
import torch
from datasets import Dataset
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import utils

from shaped_trl.rlvr import RLVRConfig, RLVRTrainer, log_probs

LOSS_TYPES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "vespo", "luspo"]
ROWS, PROMPT, COMPLETION = 4, 3, 6
SETTINGS = {
    "per_device_train_batch_size": ROWS,
    "num_generations": 2,
    "temperature": 0.7,
    "epsilon_high": 0.28,
    "max_completion_length": COMPLETION,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
}


class FullLogits:
    """What TRL calls for its head, by autograd through all logits; entropies without a gradient."""

    @staticmethod
    def apply(hidden, weight, bias, ids, temperature, tile, softcap, scale, outputs):
        log_p = (hidden @ weight.T / temperature).log_softmax(-1)
        entropies = -(log_p.exp() * log_p).sum(-1).detach()
        return log_p.gather(-1, ids[:, None]).squeeze(-1), entropies, None, None, None


def rollouts() -> dict[str, Tensor]:
    """Rows whose old, reference and own log-probabilities differ; completions end early."""
    generator = torch.Generator().manual_seed(41)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    lengths = torch.tensor([6, 4, 1, 5])
    completion_mask = (torch.arange(COMPLETION) < lengths[:, None]).long()
    return {
        "prompt_ids": torch.randint(3, 60, (ROWS, PROMPT), generator=generator),
        "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 1]]),
        "completion_ids": torch.randint(3, 60, (ROWS, COMPLETION), generator=generator),
        "completion_mask": completion_mask,
        "advantages": normal(ROWS),
        "old_per_token_logps": -4 + 0.3 * normal(ROWS, COMPLETION),
        "ref_per_token_logps": -4 + 0.3 * normal(ROWS, COMPLETION),
        "num_items_in_batch": completion_mask.sum(),
    }


def build(folder, trainer: type[GRPOTrainer], config: type[GRPOConfig], **changes) -> GRPOTrainer:
    built = trainer(
        tiny_model(dtype=torch.float64),
        lambda completions, **_: [0.0] * len(completions),
        config(str(folder), **SETTINGS | changes),
        train_dataset=Dataset.from_list([{"prompt": "w1 w2"}, {"prompt": "w3 w4"}]),
        processing_class=tiny_tokenizer(),
    )
    built.beta = 0.04  # only now, since a model to refer to would be loaded by name
    built.current_gradient_accumulation_steps = 1
    return built


@pytest.fixture(scope="module")
def trainers(tmp_path_factory) -> dict[str, GRPOTrainer]:
    folder = tmp_path_factory.mktemp("trainers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_probs, "LEAST_VOCABULARY", 60)  # the tiny model has 63 tokens
        ours = build(folder / "ours", RLVRTrainer, RLVRConfig, dynamic_sampling=False)
    return {"ours": ours, "TRL": build(folder / "grpo", GRPOTrainer, GRPOConfig)}


def loss_and_gradients(trainer: GRPOTrainer) -> list[Tensor]:
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, rollouts())
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, parameters)]


def largest_error(ours: list[Tensor], truth: list[Tensor]) -> float:
    """The largest relative error ‖x − truth‖/‖truth‖ of loss and gradients."""
    assert len(ours) == len(truth) > 20
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, truth, strict=True))


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_and_every_gradient_are_those_of_full_logits(trainers, loss_type, monkeypatch):
    level = "sequence" if loss_type == "luspo" else "token"
    for trainer in trainers.values():
        monkeypatch.setattr(trainer, "loss_type", loss_type)
        monkeypatch.setattr(trainer, "importance_sampling_level", level)
    results = {name: loss_and_gradients(trainer) for name, trainer in trainers.items()}
    monkeypatch.setattr(utils, "_ChunkedLogProbFunction", FullLogits)
    truth = loss_and_gradients(trainers["TRL"])
    assert all(gradient.count_nonzero() > 0 for gradient in truth)
    assert largest_error(results["ours"], truth) < 1e-9
    assert 1e-9 < largest_error(results["TRL"], truth) < 1e-4  # TRL's function was still there


def test_the_loss_types_are_all_that_trl_has():
    documented = GRPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    assert all(f"'{name}'" in documented for name in LOSS_TYPES)


def counted(monkeypatch) -> list[int]:
    """The number of tokens of each call of our function, from now on."""
    calls: list[int] = []
    own = log_probs.linear_log_probs

    def count(hidden: Tensor, *args, **kwargs):
        calls.append(len(hidden))
        return own(hidden, *args, **kwargs)

    monkeypatch.setattr(log_probs, "linear_log_probs", count)
    return calls


def test_only_the_tokens_of_completions_are_scored_also_if_there_are_none(trainers, monkeypatch):
    calls, batch = counted(monkeypatch), rollouts()
    trainer = trainers["ours"]
    loss_and_gradients(trainer)
    assert calls == [int(batch["completion_mask"].sum())]
    nothing = batch | {"completion_mask": torch.zeros_like(batch["completion_mask"])}
    loss = trainer._compute_loss(trainer.model, nothing)
    loss.backward()
    assert calls[1:] == [0]
    assert loss.item() == 0


@pytest.mark.parametrize("changes", [{}, {"entropy_coef": 0.1}, {"cast_lm_head_to_fp32": True}])
def test_trls_function_stays_where_ours_was_not_measured_or_does_not_do(
    tmp_path, monkeypatch, changes
):
    """The vocabulary is small, or the entropy needs a gradient, or the head is cast."""
    if changes:
        monkeypatch.setattr(log_probs, "LEAST_VOCABULARY", 60)
    calls = counted(monkeypatch)
    trainer = build(tmp_path, RLVRTrainer, RLVRConfig, dynamic_sampling=False, **changes)
    loss_and_gradients(trainer)
    assert calls == []
