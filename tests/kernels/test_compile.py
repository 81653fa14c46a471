"""Under `torch.compile(fullgraph=True)`, the loss and its gradients are those of eager mode."""

import pytest
import torch
from shaped_kernels import RewardShape, linear_log_probs, shaped_linear_loss
from shaped_kernels.operators import _linear_loss, _linear_losses, _Settings
from torch import Tensor

# torch's compiler uses functions that torch has deprecated, and the interpreter of Triton computes
# with numpy, which warns of infinities that the arithmetic handles.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning"),
]
N, D, V = 11, 6, 37
FULL = RewardShape(-0.25, 0.3, -0.2, top_k=5)
CASES = {
    "cross-entropy": (RewardShape(), {}),
    "mean": (FULL, {"reduction": "mean", "z_loss": 0.05}),
    "per token": (FULL, {"reduction": "none", "softcap": 2.5}),
    "metrics": (FULL, {"metrics": ("nll", "entropy"), "logit_scale": 0.7, "chunk_mb": 4e-4}),
    "neighbour": (RewardShape(positive="power", loss_temperature=0.7), {"impl": "chunked"}),
}


def make_inputs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(31)
    sizes = {"hidden": (N, D), "weight": (V, D), "bias": (V,), "token_weights": (N,)}
    inputs = {
        name: torch.randn(size, generator=generator).to(dtype) for name, size in sizes.items()
    }
    targets = torch.randint(V, (N,), generator=generator)
    targets[2:5] = -100
    for name in ("hidden", "weight", "bias"):
        inputs[name].requires_grad_()
    return inputs | {"targets": targets}


def results(inputs: dict[str, Tensor], shape: RewardShape, arguments: dict, compiled: bool):
    """Loss, metrics and gradients of tanh(hidden) and of the head."""

    def objective(hidden: Tensor, weight: Tensor, bias: Tensor):
        hidden = torch.tanh(hidden)
        given = inputs | {"hidden": hidden, "weight": weight, "bias": bias}
        output = shaped_linear_loss(**given, shape=shape, **arguments)
        return [value for value in output if value is not None]

    leaves = [inputs[name] for name in ("hidden", "weight", "bias")]
    run = torch.compile(objective, fullgraph=True, backend="aot_eager") if compiled else objective
    loss, *metrics = run(*leaves)
    factors = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).view(loss.shape)
    assert not any(metric.requires_grad for metric in metrics)
    return [loss.detach(), *metrics, *torch.autograd.grad((factors * loss).sum(), leaves)]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", CASES)
def test_loss_metrics_and_gradients_are_those_of_eager_mode(name):
    shape, arguments = CASES[name]
    inputs = make_inputs()
    ours, truth = (results(inputs, shape, arguments, compiled) for compiled in (True, False))
    for got, expected in zip(ours, truth, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)


def test_the_triton_row_step_is_an_operator_too():
    inputs = make_inputs(torch.float32)
    arguments = {"impl": "triton", "metrics": ("nll",)}
    ours, truth = (results(inputs, FULL, arguments, compiled) for compiled in (True, False))
    for got, expected in zip(ours, truth, strict=True):
        torch.testing.assert_close(got, expected)


def test_another_shape_gives_another_loss():
    """A schedule changes the shape between the steps of a compiled model."""
    inputs = make_inputs()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(hidden: Tensor, shape: RewardShape) -> Tensor:
        return shaped_linear_loss(hidden, inputs["weight"], inputs["targets"], shape).loss

    for beta in (-0.25, 0.1, 0.5):
        shape = RewardShape(beta, 0.1, -0.1, top_k=5)
        truth = shaped_linear_loss(inputs["hidden"], inputs["weight"], inputs["targets"], shape)
        torch.testing.assert_close(compiled(inputs["hidden"], shape), truth.loss)


def test_half_precision_and_autocast_keep_their_dtypes():
    inputs = make_inputs(torch.float32)
    leaves = inputs["hidden"], inputs["weight"]

    def loss_of(hidden: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return shaped_linear_loss(hidden, weight, inputs["targets"], FULL).loss

    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    ours, truth = (torch.autograd.grad(f(*leaves), leaves) for f in (compiled, loss_of))
    for got, expected in zip(ours, truth, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected)
    halves = [leaf.detach().bfloat16().requires_grad_() for leaf in leaves]

    def plain(hidden: Tensor, weight: Tensor) -> Tensor:
        return shaped_linear_loss(hidden, weight, inputs["targets"], FULL).loss

    compiled = torch.compile(plain, fullgraph=True, backend="aot_eager")
    ours, truth = (torch.autograd.grad(f(*halves), halves) for f in (compiled, plain))
    for got, expected in zip(ours, truth, strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got, expected)


def test_an_evaluation_and_a_frozen_head_compute_only_what_they_need():
    inputs = make_inputs()
    weight = inputs["weight"].detach()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(hidden: Tensor) -> Tensor:
        return shaped_linear_loss(hidden, weight, inputs["targets"], FULL).loss

    truth = shaped_linear_loss(inputs["hidden"], weight, inputs["targets"], FULL).loss
    (expected,) = torch.autograd.grad(truth, inputs["hidden"])
    (got,) = torch.autograd.grad(compiled(inputs["hidden"]), inputs["hidden"])
    torch.testing.assert_close(got, expected)
    with torch.no_grad():
        loss = compiled(inputs["hidden"])
    assert not loss.requires_grad
    torch.testing.assert_close(loss, truth.detach())


def test_log_probabilities_are_compiled_too():
    inputs = make_inputs()
    leaves = inputs["hidden"], inputs["weight"]

    def log_probs_of(hidden: Tensor, weight: Tensor) -> Tensor:
        return linear_log_probs(hidden, weight, inputs["targets"], 0.7).log_probs

    compiled = torch.compile(log_probs_of, fullgraph=True, backend="aot_eager")
    factors = torch.linspace(-2, 3, N, dtype=torch.float64)
    ours, truth = (
        torch.autograd.grad((factors * f(*leaves)).sum(), leaves) for f in (compiled, log_probs_of)
    )
    for got, expected in zip(ours, truth, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)


def test_a_bad_target_is_named_when_the_graph_runs():
    inputs = make_inputs()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(hidden: Tensor, targets: Tensor) -> Tensor:
        return shaped_linear_loss(hidden, inputs["weight"], targets).loss

    with pytest.raises(ValueError, match=rf"targets contains {V}, outside the vocabulary"):
        compiled(inputs["hidden"], inputs["targets"].clone().fill_(V))


@pytest.mark.slow
@pytest.mark.parametrize("factors", [True, False])
def test_the_operators_are_registered_as_torch_requires(factors):
    inputs = make_inputs()
    settings = _Settings(
        *([-0.25, 0.1, -0.1, 1.0, 0.0, 1.0], 5, "exponent", 1.0, None, 0.0, "nll,entropy"),
        *(None, None, -100, "chunked", torch.float64, [True] * 3),
    )
    tensors = [inputs[name] for name in ("hidden", "weight", "bias", "targets", "token_weights")]
    factor_N = torch.linspace(-1, 1, N, dtype=torch.float64) if factors else None
    torch.library.opcheck(_linear_loss, (*tensors, factor_N, *settings))
    torch.library.opcheck(_linear_losses, (*tensors, *settings))
