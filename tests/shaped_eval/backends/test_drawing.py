"""Draws of tokens: their distribution, and that rows are independent of each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from shaped_eval.backends.drawing import TokenDraw, _exponential, _nucleus, row_seed
from shaped_eval.errors import UserError

VOCABULARY = 300


def logits(rows: int, vocabulary: int = VOCABULARY, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))


def by_hand(row: torch.Tensor, temperature: float, top_p: float) -> np.ndarray:
    """softmax(row / temperature), cut to the nucleus, in float64."""
    p = (row.double() / temperature).softmax(-1).numpy()
    order = np.argsort(-p, kind="stable")
    kept = order[: int((np.cumsum(p[order]) < top_p).sum()) + 1]
    cut = np.zeros_like(p)
    cut[kept] = p[kept]
    return cut / cut.sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.95), (1.5, 0.99)])
def test_tokens_have_the_distribution_of_temperature_and_nucleus(temperature, top_p):
    draws = 20_000
    row = logits(1)
    draw = TokenDraw(temperature, top_p, [row_seed(1, i) for i in range(draws)], "cpu")
    drawn = draw(row.expand(draws, -1), 0).numpy()
    expected = by_hand(row[0], temperature, top_p)
    seen = np.bincount(drawn, minlength=VOCABULARY)
    assert set(np.flatnonzero(seen)) <= set(np.flatnonzero(expected))
    often = expected * draws >= 5
    observed = [*seen[often], seen[~often].sum()]
    wanted = [*(draws * expected[often]), draws * expected[~often].sum()]
    pairs = [(o, w) for o, w in zip(observed, wanted, strict=True) if w > 0]
    assert stats.chisquare(*zip(*pairs, strict=True)).pvalue > 1e-3


def test_the_noise_is_exponential_and_differs_in_seed_step_and_token():
    seeds = torch.arange(200)
    tokens = torch.arange(VOCABULARY).expand(200, -1)
    first, second = (_exponential(seeds, step, tokens).numpy() for step in (0, 1))
    assert stats.kstest(first.ravel(), "expon").pvalue > 1e-3
    assert stats.kstest(second.ravel(), "expon").pvalue > 1e-3
    size = first.size
    for one, other in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(size)


def test_splitmix64_gives_its_published_numbers():
    """Of the seed 1234567, from the reference implementation of Vigna."""
    from shaped_eval.backends.drawing import _GOLDEN, _mix, _signed

    states = torch.tensor([_signed(1234567 + i * _GOLDEN) for i in (1, 2, 3)])
    numbers = [value % 2**64 for value in _mix(states).tolist()]
    assert numbers == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_row_draws_the_same_alone_and_in_any_company():
    rows = logits(6)
    seeds = [row_seed(3, i) for i in range(6)]
    together = TokenDraw(1.0, 0.95, seeds, "cpu")
    before = [together(rows, step) for step in range(3)]
    for index in range(6):
        alone = TokenDraw(1.0, 0.95, [seeds[index]], "cpu")
        for step in range(3):
            assert int(alone(rows[index : index + 1], step)) == int(before[step][index])
    some = torch.tensor([4, 1])
    together.keep(some)
    assert torch.equal(together(rows[some], 2), before[2][some])
    assert len({tuple(tokens.tolist()) for tokens in before}) == 3, "the steps differ"


def test_rounding_changes_few_draws():
    rows = logits(1, 5_000).expand(2_000, -1)
    draw = TokenDraw(1.0, 1.0, [row_seed(5, i) for i in range(2_000)], "cpu")
    rounded = rows + 1e-6 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
    assert int((draw(rows, 0) != draw(rounded, 0)).sum()) <= 1


def test_the_nucleus_is_found_where_few_candidates_do_not_hold_it():
    flat = logits(2, 2_000, scale=0.1)
    tokens, log_p = _nucleus(flat, 0.9)
    for row in range(2):
        kept = set(tokens[row][log_p[row] > -torch.inf].tolist())
        assert kept == set(np.flatnonzero(by_hand(flat[row], 1.0, 0.9)))
        assert len(kept) > 1_000


def test_temperature_0_takes_the_largest():
    rows = logits(4)
    assert torch.equal(TokenDraw(0.0, 0.5, [0] * 4, "cpu")(rows, 0), rows.argmax(-1))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(temperature, bad):
    rows = logits(2)
    rows[1, 7] = bad
    with pytest.raises(UserError, match="its logits are not finite"):
        TokenDraw(temperature, 0.9, [1, 2], "cpu")(rows, 0)
    fine = logits(1)
    fine[0, :5] = -float("inf")  # tokens that a model excludes
    assert int(TokenDraw(temperature, 0.9, [1], "cpu")(fine, 0)) >= 5
