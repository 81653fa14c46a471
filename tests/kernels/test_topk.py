"""The head set is the first k of a stable descending sort, also with ties."""

import pytest
import torch
from shaped_kernels import RewardShape, shaped_linear_loss
from shaped_kernels.topk import head_ids, largest

V = 500


def rows_with_ties(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(13)
    z = torch.randn(64, V, generator=generator)
    if kind == "bf16":
        return z.bfloat16().float()
    if kind == "integers":
        return z.mul(2).round()  # holds 0 and −0, which tie
    if kind == "constant":
        return torch.zeros_like(z)
    if kind == "few finite":
        return z.masked_fill(torch.rand(z.shape, generator=generator) < 0.9, -torch.inf)
    return z


@pytest.mark.parametrize("kind", ["no ties", "bf16", "integers", "constant", "few finite"])
@pytest.mark.parametrize("top_k", [1, 2, 10, 45, V - 1])
def test_the_head_is_that_of_a_stable_sort(kind, top_k):
    z = rows_with_ties(kind)
    expected = z.sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
    in_head, in_expected = (
        torch.zeros_like(z, dtype=torch.bool).scatter(-1, ids, True)
        for ids in (head_ids(z, top_k)[0], expected)
    )
    possible = z != -torch.inf
    assert torch.equal(in_head & possible, in_expected & possible)
    assert (in_head.sum(-1) == top_k).all()


@pytest.mark.parametrize("kind", ["no ties", "bf16", "integers", "constant", "few finite"])
@pytest.mark.parametrize("size", [1, 3, 64, 257, 498, 499, 500])
def test_the_largest_of_groups_are_the_largest_of_all(kind, size):
    """Up to three levels of groups, with and without tokens that are in no group."""
    z = rows_with_ties(kind)[:, V - size :]
    for count in {1, min(2, size), min(7, size), min(31, size)}:
        values, ids = largest(z, count)
        assert torch.equal(values, z.topk(count).values)
        assert torch.equal(z.gather(-1, ids), values)
        assert all(len(set(row)) == count for row in ids.tolist())


def test_ties_are_common_enough_for_the_test_to_mean_something():
    for kind, least in (("bf16", 10), ("integers", 60)):
        sorted_z = rows_with_ties(kind).sort(dim=-1, descending=True).values
        assert (sorted_z[:, 44] == sorted_z[:, 45]).sum() >= least


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_equal_logits_make_the_lowest_ids_the_head(impl):
    targets = torch.tensor([0, 2, 4, 5, V - 1])
    output = shaped_linear_loss(
        torch.zeros(5, 3),
        torch.zeros(V, 3),
        targets,
        RewardShape(top_k=5),
        metrics=("head_mass", "tail_mass", "is_top1", "target_rank"),
        impl=impl,
    )
    torch.testing.assert_close(output.head_mass * V, torch.tensor([4.0, 4, 4, 5, 5]))
    torch.testing.assert_close(output.tail_mass * V, torch.tensor([495.0, 495, 495, 494, 494]))
    assert output.is_top1.tolist() == [1, 0, 0, 0, 0]
    assert output.target_rank.tolist() == [0, 2, 4, 5, V - 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["no ties", "bf16", "integers", "constant", "few finite"])
@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_the_rank_is_that_of_a_stable_sort(impl, kind, dtype):
    """The rank of every token as the target, also an impossible one; the bias sets −inf."""
    for row in rows_with_ties(kind)[:3].to(dtype):
        targets = torch.arange(0, V, 7)
        bias = torch.zeros_like(row).masked_fill(row == -torch.inf, -torch.inf)
        hidden = row.nan_to_num(neginf=0.0).expand(len(targets), V)
        weight = torch.eye(V, dtype=dtype)
        output = shaped_linear_loss(
            hidden, weight, targets, bias=bias, metrics=("target_rank",), impl=impl
        )
        order = row.sort(descending=True, stable=True).indices
        assert output.target_rank.dtype == torch.float32
        assert output.target_rank.tolist() == order.argsort()[targets].tolist()
