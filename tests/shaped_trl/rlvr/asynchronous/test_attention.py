"""Attention over packed trees on a CPU, against each sample alone."""

import numpy as np
import pytest
import torch
from tiny import tiny_model
from transformers import AttentionInterface
from trl.experimental.async_grpo.packing import TREE_ATTENTION, TreeRow, register_tree_attention

from shaped_trl.rlvr.asynchronous.agreement import _packed, trainer_logps
from shaped_trl.rlvr.asynchronous.cpu import dense_tree_attention, tree_mask
from shaped_trl.training.live import undisturbed

SAMPLES = [[3, 4, 5, 6, 7], [3, 4, 5, 9], [3, 4, 5, 6, 8, 8, 2], [20, 4, 5], [3, 4, 5, 6, 7]]


@pytest.fixture(autouse=True)
def _registered():
    register_tree_attention()  # with the mask of TRL, which is none
    AttentionInterface.register(TREE_ATTENTION, dense_tree_attention)


def packed(samples: list[list[int]]) -> dict[str, torch.Tensor]:
    row = TreeRow()
    for i, ids in enumerate(samples):
        row.add(
            {
                "input_ids": np.array(ids),
                "completion_mask": np.array([0] + [1] * (len(ids) - 1)),
                "old_log_probs": np.zeros(len(ids)),
                "advantage": float(i),
                "group_id": 0,
            }
        )
    return row.pack()


@pytest.mark.parametrize("window", [None, 3])
def test_each_sample_sees_what_it_would_alone(window):
    row = packed(SAMPLES)
    mask = tree_mask(
        row["tree_kv_index"], row["tree_cu_seqlens_q"], row["tree_cu_seqlens_k"], window
    )
    ids, positions = row["input_ids"], row["position_ids"]
    for sample, node in zip(row["segment_id"].tolist(), row["token_index"].tolist(), strict=True):
        seen = sorted(mask[node].nonzero().flatten().tolist(), key=lambda i: positions[i])
        depth = int(positions[node])
        first = 0 if window is None else max(0, depth + 1 - window)
        assert [int(ids[i]) for i in seen] == SAMPLES[sample][first : depth + 1]
        assert positions[seen].tolist() == list(range(first, depth + 1))


def test_log_probabilities_and_gradients_are_those_of_separate_samples():
    torch.manual_seed(0)
    model = tiny_model(dtype=torch.float64)
    row = packed(SAMPLES)
    tree = {name: row[name] for name in ("tree_kv_index", "tree_cu_seqlens_q", "tree_cu_seqlens_k")}
    targets = torch.tensor([token for ids in SAMPLES for token in ids[1:]])

    model.set_attn_implementation(TREE_ATTENTION)
    logits = model(
        input_ids=row["input_ids"].unsqueeze(0),
        position_ids=row["position_ids"].unsqueeze(0),
        use_cache=False,
        **tree,
        tree_max_seqlen_q=0,
        tree_max_seqlen_k=0,
    ).logits[0]
    found = logits.log_softmax(-1)[row["token_index"], targets]
    found.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]

    model.zero_grad()
    model.set_attn_implementation("sdpa")
    alone = []
    for ids in SAMPLES:
        logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        alone.append(logps.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1))
    torch.cat(alone).sum().backward()
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-12, atol=1e-12)
    for got, parameter in zip(gradients, model.parameters(), strict=True):
        # Qwen3 normalises in float32
        torch.testing.assert_close(got, parameter.grad, rtol=1e-5, atol=1e-6)


def test_the_log_probabilities_that_are_compared_are_the_models():
    model = tiny_model(dtype=torch.float64).train()
    model.set_attn_implementation("sdpa")
    rows = [ids for ids in SAMPLES if len(ids) > 3]
    expected = []
    for ids in rows:
        logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        expected += logps.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1).tolist()
    model.set_attn_implementation(TREE_ATTENTION)
    assert trainer_logps(model, rows, torch.device("cpu")) == pytest.approx(expected, abs=1e-6)
    assert model.training
    assert _packed(rows[0], torch.device("cpu"))["input_ids"].tolist() == [rows[0]]


def test_a_benchmark_during_training_generates_with_other_attention():
    model = tiny_model().train()
    prompt = torch.tensor([[3, 4, 5]])
    model.set_attn_implementation("sdpa")
    expected = model.eval().generate(prompt, max_new_tokens=5, do_sample=False).tolist()
    model.train().set_attn_implementation(TREE_ATTENTION)
    with undisturbed(model):
        assert model.generate(prompt, max_new_tokens=5, do_sample=False).tolist() == expected
    assert model.config._attn_implementation == TREE_ATTENTION
    with pytest.raises(TypeError, match="tree_kv_index"):
        model.generate(prompt, max_new_tokens=5, do_sample=False)


def test_capped_scores_are_refused():
    one = torch.zeros(1, 1, 1, 2)
    index = torch.zeros(1, dtype=torch.long)
    ends = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"softcap=50.0 is not supported"):
        dense_tree_attention(
            torch.nn.Identity(),
            *(one, one, one, None),
            tree_kv_index=index,
            tree_cu_seqlens_q=ends,
            tree_cu_seqlens_k=ends,
            softcap=50.0,
        )
