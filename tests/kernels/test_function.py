"""The public function: what it accepts, what it costs, and how it behaves under autograd."""

import pytest
import torch
import torch.nn.functional as F
from shaped_kernels import METRICS, RewardShape, ShapedLossOutput, shaped_linear_loss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

N, D, V = 63, 12, 1001
SHAPE = RewardShape(beta=-0.25, lambda_head=0.1, lambda_tail=-0.1, top_k=50)
CHUNK_ROWS = 9
CHUNK_MB = CHUNK_ROWS * V * 4 / 2**20


def make_inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(17)
    hidden, weight = (
        torch.randn(size, D, generator=generator).to(dtype).requires_grad_() for size in (N, V)
    )
    return hidden, weight, torch.randint(V, (N,), generator=generator)


class Operations(TorchDispatchMode):
    """Records the operations that run and the largest tensor that any of them makes."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.names.append(function.overloadpacket.__name__)
        results = result if isinstance(result, tuple | list) else (result,)
        self.largest = max([self.largest, *(t.numel() for t in results if isinstance(t, Tensor))])
        return result

    @property
    def matmuls(self) -> int:
        return sum(name in ("mm", "addmm", "addmm_") for name in self.names)


@pytest.mark.parametrize("metrics", [(), METRICS], ids=["no-metrics", "all-metrics"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_chunked_makes_no_tensor_of_the_size_of_the_logits(dtype, metrics):
    largest = {}
    chunk_mb = CHUNK_MB * dtype.itemsize / 4
    for impl in ("chunked", "reference"):
        hidden, weight, targets = make_inputs(dtype)
        with Operations() as operations:
            output = shaped_linear_loss(
                hidden,
                weight,
                targets,
                SHAPE,
                softcap=30.0,
                metrics=metrics,
                impl=impl,
                chunk_mb=chunk_mb,
            )
            output.loss.backward()
        largest[impl] = operations.largest
    assert largest["chunked"] == max(CHUNK_ROWS * V, V * D)
    assert largest["reference"] >= N * V


@pytest.mark.parametrize(
    ("trained", "matmuls_per_chunk"),
    [("hidden weight", 3), ("hidden", 2), ("weight", 2), ("bias", 1), ("", 1)],
    ids=["all", "frozen-head", "frozen-backbone", "bias-only", "evaluation"],
)
def test_no_work_is_done_for_gradients_that_nobody_needs(trained, matmuls_per_chunk):
    hidden, weight, targets = make_inputs()
    bias = torch.zeros(V, requires_grad=True)
    tensors = {"hidden": hidden, "weight": weight, "bias": bias}

    def run(impl: str) -> tuple[Tensor, dict[str, Tensor | None], Operations]:
        for name, tensor in tensors.items():
            tensor.requires_grad_(name in trained.split()).grad = None
        with Operations() as operations:
            output = shaped_linear_loss(
                hidden, weight, targets, SHAPE, bias=bias, impl=impl, chunk_mb=CHUNK_MB
            )
        if trained:
            output.loss.backward()
        return (
            output.loss.detach(),
            {name: tensor.grad for name, tensor in tensors.items()},
            operations,
        )

    loss, gradients, operations = run("chunked")
    expected_loss, expected_gradients, _ = run("reference")
    assert operations.matmuls == matmuls_per_chunk * N // CHUNK_ROWS
    torch.testing.assert_close(loss, expected_loss)
    for name, gradient in gradients.items():
        assert (gradient is None) == (name not in trained.split())
        if gradient is not None:
            torch.testing.assert_close(gradient, expected_gradients[name])


def test_no_grad_evaluation_makes_no_gradients_and_the_same_loss():
    hidden, weight, targets = make_inputs()
    trained = shaped_linear_loss(hidden, weight, targets, SHAPE, chunk_mb=CHUNK_MB).loss
    with torch.no_grad(), Operations() as operations:
        evaluated = shaped_linear_loss(hidden, weight, targets, SHAPE, chunk_mb=CHUNK_MB).loss
    assert operations.matmuls == N // CHUNK_ROWS
    assert trained.requires_grad
    assert not evaluated.requires_grad
    assert torch.equal(trained.detach(), evaluated)


@pytest.mark.parametrize(
    ("shape", "metrics", "looks"),
    [
        (RewardShape(beta=0.5), ("entropy", "nll", "is_top1"), False),
        (RewardShape(lambda_head=0.1, lambda_tail=0.1), (), False),
        (RewardShape(lambda_head=0.1, top_k=V), ("head_mass",), False),
        (RewardShape(), ("tail_mass",), True),
        (RewardShape(lambda_tail=-0.1), (), True),
    ],
)
def test_the_top_k_is_looked_for_only_where_it_matters(shape, metrics, looks):
    with Operations() as operations:
        shaped_linear_loss(*make_inputs(), shape, metrics=metrics)
    assert ("topk" in operations.names) is looks


@pytest.mark.parametrize("factor", [1.0, -2.5, 1 / 4096])
def test_the_loss_can_be_scaled(factor):
    gradients = {}
    for impl in ("chunked", "reference"):
        hidden, weight, targets = make_inputs(torch.float64)
        (factor * shaped_linear_loss(hidden, weight, targets, SHAPE, impl=impl).loss).backward()
        gradients[impl] = (hidden.grad, weight.grad)
    torch.testing.assert_close(gradients["chunked"], gradients["reference"], rtol=1e-12, atol=1e-15)


def test_gradients_accumulate_over_calls():
    hidden, weight, targets = make_inputs(torch.float64)
    shaped_linear_loss(hidden, weight, targets, SHAPE).loss.backward()
    whole = weight.grad.clone()
    weight.grad = None
    for part in (slice(0, 20), slice(20, N)):
        shaped_linear_loss(hidden[part], weight, targets[part], SHAPE).loss.backward()
    torch.testing.assert_close(weight.grad, whole, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(
        hidden.grad,
        2 * torch.autograd.grad(shaped_linear_loss(hidden, weight, targets, SHAPE).loss, hidden)[0],
        rtol=1e-12,
        atol=1e-15,
    )


def test_a_second_backward_is_refused_rather_than_wrong():
    loss = shaped_linear_loss(*make_inputs(), SHAPE).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        loss.backward()


def test_a_double_backward_is_refused():
    hidden, weight, targets = make_inputs()
    factor = torch.tensor(2.0, requires_grad=True)
    loss = factor * shaped_linear_loss(hidden, weight, targets, SHAPE).loss
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_ignored_positions_count_for_nothing_and_metrics_keep_the_shape(impl):
    hidden, weight, targets = make_inputs(torch.float64)
    masked = targets.masked_fill(torch.arange(N) % 3 == 0, -100)
    output = shaped_linear_loss(
        hidden.view(7, 9, D), weight, masked.view(7, 9), SHAPE, metrics=METRICS, impl=impl
    )
    output.loss.backward()
    kept = masked != -100
    alone = shaped_linear_loss(
        hidden[kept], weight, targets[kept], SHAPE, metrics=METRICS, impl=impl
    )
    torch.testing.assert_close(output.loss, alone.loss)
    assert hidden.grad[~kept].count_nonzero() == 0
    assert hidden.grad[kept].count_nonzero() == kept.sum() * D
    for name in METRICS:
        value = getattr(output, name)
        assert value.shape == (7, 9)
        assert not value.requires_grad
        assert value.flatten()[~kept].count_nonzero() == 0
        torch.testing.assert_close(value.flatten()[kept], getattr(alone, name))


@pytest.mark.parametrize("impl", ["reference", "chunked"])
@pytest.mark.parametrize("tokens", [0, 5])
def test_without_a_valid_target_the_loss_is_a_differentiable_zero(tokens, impl):
    hidden, weight = (
        torch.randn(tokens, D, requires_grad=True),
        torch.randn(V, D, requires_grad=True),
    )
    targets = torch.full((tokens,), -100)
    output = shaped_linear_loss(hidden, weight, targets, SHAPE, metrics=METRICS, impl=impl)
    output.loss.backward()
    assert output.loss == 0
    assert torch.equal(hidden.grad, torch.zeros_like(hidden))
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    assert torch.equal(output.entropy, torch.zeros(tokens))


def test_metrics_are_none_unless_asked_for_and_do_not_change_the_loss():
    plain = shaped_linear_loss(*make_inputs(), SHAPE)
    assert plain == ShapedLossOutput(plain.loss)
    for name in METRICS:
        output = shaped_linear_loss(*make_inputs(), SHAPE, metrics=(name,))
        assert [field for field in METRICS if getattr(output, field) is not None] == [name]
        assert torch.equal(output.loss, plain.loss)


def test_another_ignore_index_and_int32_targets():
    hidden, weight, targets = make_inputs()
    targets[:5] = 0
    output = shaped_linear_loss(hidden, weight, targets.int(), ignore_index=0)
    expected = F.cross_entropy(F.linear(hidden, weight), targets, ignore_index=0, reduction="sum")
    torch.testing.assert_close(output.loss, expected)


# torch, at a graph break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_module_gives_the_same_gradients():
    hidden, weight, targets = make_inputs(torch.float64)

    def loss_of(hidden: Tensor) -> Tensor:
        return shaped_linear_loss(torch.tanh(hidden), weight, targets, SHAPE).loss / N

    compiled = torch.compile(loss_of, backend="aot_eager")
    loss, expected = compiled(hidden), loss_of(hidden)
    torch.testing.assert_close(loss, expected)
    for got, truth in zip(
        torch.autograd.grad(loss, (hidden, weight)),
        torch.autograd.grad(expected, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(got, truth)


REFUSED = [
    ({"targets": torch.full((N,), V)}, rf"targets contains {V}, outside the vocabulary \[0, {V}\)"),
    ({"targets": torch.full((N,), -1)}, "targets contains -1"),
    ({"targets": torch.zeros(N - 1, dtype=torch.long)}, "targets has shape"),
    ({"targets": torch.zeros(N)}, "targets has dtype"),
    ({"weight": torch.zeros(V, D + 1)}, "do not fit"),
    ({"weight": torch.zeros(V, D, dtype=torch.bfloat16)}, "different dtypes"),
    ({"bias": torch.zeros(V - 1)}, "bias has shape"),
    ({"shape": "precision"}, "RewardShape.preset"),
    ({"softcap": 0.0}, "softcap=0.0"),
    ({"logit_scale": -1.0}, "logit_scale=-1.0"),
    ({"chunk_mb": 0.0}, "chunk_mb=0.0"),
    ({"metrics": ("nll", "perplexity")}, "metrics contains 'perplexity'"),
    ({"metrics": "nll"}, "metrics='nll' is a string"),
    ({"impl": "cuda"}, "impl='cuda' is not available; use auto, reference, chunked, triton"),
    (
        {"accum_dtype": torch.bfloat16},
        r"accum_dtype=torch\.bfloat16 is not None, torch\.float32 or",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"), REFUSED, ids=[message[:24] for _, message in REFUSED]
)
def test_bad_arguments_are_named(arguments, message):
    hidden, weight, targets = make_inputs()
    with pytest.raises(ValueError, match=message) as error:
        shaped_linear_loss(**{"hidden": hidden, "weight": weight, "targets": targets, **arguments})
    assert "\n" not in str(error.value)
