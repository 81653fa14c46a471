"""Rows with NaN or infinities have no finite loss in any implementation, and affect no other row.

A token whose logits hold NaN or +inf, or are all −inf, has NaN for its loss, its metrics and its
gradient, as in torch's cross-entropy. A logit of −inf beside finite ones is a token that cannot
come: everything is finite then.
"""

import pytest
import torch
import torch.nn.functional as F
from shaped_kernels import METRICS, RewardShape, shaped_linear_loss
from torch import Tensor

# The interpreter computes with numpy, which warns of the NaN and infinities in these tests.
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
IMPLEMENTATIONS = ("reference", "chunked", "triton")
N, D, V = 4, 6, 40
VALUES = [torch.nan, torch.inf, -torch.inf]
# a row and its target, an ignored row, and another token
ROW, TARGET, IGNORED, OTHER = 1, 8, 2, 20
SHAPES = {
    "cross-entropy": RewardShape(),
    "product": RewardShape(beta=-0.25, positive="product"),
    "exponent": RewardShape(beta=0.5),
    "power": RewardShape(positive="power"),
    "head": RewardShape(-0.25, 0.1, -0.1, top_k=7),
    "no tail": RewardShape(0.5, 0.1, -0.1, top_k=V),
    "threshold": RewardShape(positive="threshold", threshold=0.01),
    "entropy": RewardShape(positive="entropy", top_k=7),
    "temperature": RewardShape(0.5, 0.1, -0.1, top_k=7, loss_temperature=0.7),
}
PLACES = {
    "hidden states of a row": ("hidden", ROW),
    "hidden state": ("hidden", (ROW, 2)),
    "hidden states of an ignored row": ("hidden", IGNORED),
    "weights of a token": ("weight", OTHER),
    "weight of a target": ("weight", (TARGET, 2)),
    "logit of a token": ("bias", OTHER),
    "logit of a target": ("bias", TARGET),
    "logits of half the tokens": ("bias", slice(0, V, 2)),
    "all logits": ("bias", slice(None)),
    "all logits but one": ("bias", slice(1, None)),
}


def make_inputs(place: str, value: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """hidden [N, D], weight [V, D], bias [V] and targets [N], with `value` at `place`.

    One target is ignored.
    """
    generator = torch.Generator().manual_seed(5)
    sizes = {"hidden": (N, D), "weight": (V, D), "bias": (V,)}
    inputs = {
        name: torch.randn(size, generator=generator).to(DEVICE, dtype)
        for name, size in sizes.items()
    }
    name, index = PLACES[place]
    inputs[name][index] = value
    return inputs | {"targets": torch.tensor([3, TARGET, -100, 0], device=DEVICE)}


def results(
    inputs: dict[str, Tensor], shape: RewardShape, impl: str, softcap: float | None
) -> dict[str, Tensor]:
    """Loss, metrics and gradients in float64."""
    leaves = {name: inputs[name].clone().requires_grad_() for name in ("hidden", "weight", "bias")}
    arguments = leaves | {
        "targets": inputs["targets"],
        "shape": shape,
        "softcap": softcap,
        "metrics": METRICS,
    }
    output = shaped_linear_loss(**arguments, impl=impl)
    output.loss.backward()
    return {
        **{name: value.detach().double() for name, value in output._asdict().items()},
        **{f"gradient of {name}": leaf.grad.double() for name, leaf in leaves.items()},
    }


def torch_nll(inputs: dict[str, Tensor], softcap: float | None) -> Tensor:
    """The nll [N] of torch's own cross-entropy, 0 if ignored."""
    logits = F.linear(inputs["hidden"], inputs["weight"], inputs["bias"]).float()
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, inputs["targets"], reduction="none")


def check(
    place: str, value: float, shape: RewardShape, dtype: torch.dtype, softcap: float | None
) -> None:
    inputs = make_inputs(place, value, dtype)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5  # the interpreter truncates to bf16
    nll = torch_nll(inputs, softcap).double()
    truth = results(inputs, shape, "reference", softcap)
    for impl in IMPLEMENTATIONS:
        ours = results(inputs, shape, impl, softcap)
        # A target without a competitor has nll 0 with ours and with torch's.
        torch.testing.assert_close(ours["nll"], nll, rtol=tolerance, atol=tolerance, equal_nan=True)
        assert ours["loss"].isnan() == nll.isnan().any()
        for name in METRICS:
            assert torch.equal(ours[name].isnan(), nll.isnan()), (impl, name)
        assert torch.equal(
            ours["gradient of hidden"].isnan().any(-1) | ~nll.isnan(), torch.ones_like(nll).bool()
        )
        assert ours["gradient of hidden"][IGNORED].count_nonzero() == 0
        for name, expected in truth.items():
            torch.testing.assert_close(
                ours[name],
                expected,
                rtol=tolerance,
                atol=2 * tolerance,
                equal_nan=True,
                msg=lambda text, name=name, impl=impl: f"{impl}, {name}: {text}",
            )


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(("number", "place"), [*enumerate(PLACES)])
def test_all_implementations_say_what_torch_says(number, place, value):
    """Each place with one shape, and in the slow suite with all shapes."""
    check(place, value, [*SHAPES.values()][number % len(SHAPES)], torch.float32, None)


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
def test_all_implementations_say_what_torch_says_for_all_shapes(shape, place, value):
    """Each with one of four settings, so that every shape and every place has all of them."""
    number = [*SHAPES].index(shape) + [*PLACES].index(place) + VALUES.index(value)
    dtype = (torch.float32, torch.bfloat16)[number % 2]
    # A softcap makes an infinite logit finite, so that all tokens are possible. If fewer than
    # top_k logits are finite, the kernel may then choose another one of equal members of the
    # head set.
    capped = number // 2 % 2 and place not in ("all logits", "all logits but one")
    check(place, value, SHAPES[shape], dtype, 3.0 if capped else None)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_an_evaluation_of_a_broken_model_has_no_number_and_the_rest_keeps_its_own(impl):
    """Without gradients, in half precision, with a head set: only the row with NaN changes."""
    whole, broken = (
        make_inputs("hidden state", value, torch.bfloat16) for value in (0.5, torch.nan)
    )
    shape = SHAPES["head"]
    with torch.no_grad():
        expected, got = (
            shaped_linear_loss(**inputs, shape=shape, metrics=METRICS, impl=impl)
            for inputs in (whole, broken)
        )
    assert got.loss.isnan()
    for name in METRICS:
        before, after = getattr(expected, name), getattr(got, name)
        assert after[ROW].isnan()
        after[ROW] = before[ROW]
        assert torch.equal(before, after)
