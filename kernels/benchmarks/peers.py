"""The variants to measure: our loss, its peers and the bare matmuls.

Each is a function of (hidden, weight, targets). Peers are imported when they are called, so that
one that is not installed costs only its own row.


Dimensions: N tokens, D hidden, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from shaped_kernels import METRICS as ALL_METRICS
from shaped_kernels import RewardShape, shaped_linear_loss
from shaped_kernels.triton_launch import Trial, trying
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

# The metrics of a training step. The rank takes an extra pass, and is for evaluation. The logsumexp
# is for a z-loss.
METRICS = tuple(name for name in ALL_METRICS if name not in ("target_rank", "logsumexp"))
CROSS_ENTROPY = RewardShape()
# The committed rows were measured with this form.
BETA = RewardShape(beta=-0.25, positive="product")
EXPONENT = RewardShape(beta=-0.25, positive="exponent")
FULL_SHAPE = RewardShape(
    beta=-0.25, lambda_head=0.1, lambda_tail=-0.1, top_k=100, positive="product"
)
_TRL_VOCABULARY_CHUNK = 32_768  # as in TRL's trainers


class Variant(NamedTuple):
    """One thing to measure.

    Attributes:
        name: the name in tables and rows, and for `--variants`.
        loss: maps (hidden [N, D], weight [V, D], targets [N]) to the summed loss, a scalar; a floor
            does its matmuls and returns 0 without a gradient.
        shape: the rewards; None for a floor, which computes no loss.
        sums: the dtype in which the weight's gradient is summed over chunks, or "one matmul" if
            there are no chunks.
        devices: the devices that it runs on.
        cpu_rows: the most tokens for it on a CPU, since more would take minutes per call or tens of
            GB; None means any number.
        apart: the module of a peer that is first tried in a separate process, because a kernel that
            corrupts the CUDA context would end the run.
    """

    name: str
    loss: Loss
    shape: RewardShape | None
    sums: str
    devices: tuple[str, ...] = ("cuda", "cpu")
    cpu_rows: int | None = None
    apart: str | None = None

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("ours")

    @property
    def is_floor(self) -> bool:
        return self.shape is None


def all_variants(dtype: torch.dtype) -> list[Variant]:
    """All variants for inputs of `dtype`, ours first."""
    own = str(dtype).removeprefix("torch.")
    cuda = ("cuda",)
    return [
        Variant("ours cross-entropy", ours(CROSS_ENTROPY), CROSS_ENTROPY, "float32"),
        Variant("ours beta", ours(BETA), BETA, "float32"),
        Variant("ours beta, exponent", ours(EXPONENT), EXPONENT, "float32"),
        Variant("ours full", ours(FULL_SHAPE), FULL_SHAPE, "float32"),
        Variant("ours full, metrics", ours(FULL_SHAPE, METRICS), FULL_SHAPE, "float32"),
        Variant(
            "ours cross-entropy, bf16 sums",
            ours(CROSS_ENTROPY, (), True),
            CROSS_ENTROPY,
            "bfloat16",
            cuda,
        ),
        Variant("ours beta, bf16 sums", ours(BETA, (), True), BETA, "bfloat16", cuda),
        Variant(
            "ours full, metrics, bf16 sums",
            ours(FULL_SHAPE, METRICS, True),
            FULL_SHAPE,
            "bfloat16",
            cuda,
        ),
        *trials(),
        Variant("Liger C=1", liger(1), CROSS_ENTROPY, own, cuda),
        Variant("Liger C=16", liger(16), CROSS_ENTROPY, own, cuda),
        Variant("Liger C=16, fp32 sums", liger(16, torch.float32), CROSS_ENTROPY, "float32", cuda),
        Variant("Liger SM90", liger_sm90, CROSS_ENTROPY, own, cuda, apart="cutlass"),
        Variant("TRL ChunkedLogProbFunction", trl_chunked, CROSS_ENTROPY, "float32", cpu_rows=512),
        Variant("torch linear_cross_entropy", torch_chunked, CROSS_ENTROPY, own, cpu_rows=256),
        Variant(
            "Cut Cross-Entropy", cut("high"), CROSS_ENTROPY, own, cuda, apart="cut_cross_entropy"
        ),
        Variant("Cut Cross-Entropy, unfiltered", cut(None), CROSS_ENTROPY, own, cuda),
        Variant("QuACK", quack, CROSS_ENTROPY, "float32", cuda, apart="quack"),
        Variant("full logits, compiled", compiled_full_logits, CROSS_ENTROPY, "one matmul", cuda),
        Variant("full logits", full_logits, CROSS_ENTROPY, "one matmul"),
        Variant(
            "full logits, full shape", reference(FULL_SHAPE), FULL_SHAPE, "one matmul", cpu_rows=512
        ),
        Variant("floor: 3 matmuls, our chunks", floor(), None, own),
        Variant("floor: 3 matmuls, one chunk", floor(whole=True), None, "one matmul"),
        Variant("floor: 3 matmuls of QuACK", floor(quack_matmuls), None, own, cuda, apart="quack"),
        Variant("floor: 3 matmuls and a pass", floor(with_pass=True), None, own, ("cpu",)),
    ]


def trials() -> list[Variant]:
    """Ours with one choice that is off by default, since no GPU has measured it.

    Compare each with the variant of the same name without the trial.
    """
    full, name = functools.partial(ours, FULL_SHAPE, METRICS), "ours full, metrics, trial:"
    plain = functools.partial(ours, CROSS_ENTROPY)
    losses: dict[str, tuple[Loss, RewardShape]] = {
        f"{name} 64 registers": (full(trial=Trial(head_rows=2)), FULL_SHAPE),
        f"{name} groups": (full(trial=Trial(group=128)), FULL_SHAPE),
        f"{name} chunks of D rows": (full(rows_like_hidden=True), FULL_SHAPE),
        "ours cross-entropy, trial: chunks of D rows": (
            plain(rows_like_hidden=True),
            CROSS_ENTROPY,
        ),
        "ours cross-entropy, trial: fp32 gradient": (plain(fp32_gradient=True), CROSS_ENTROPY),
    }
    return [
        Variant(name, loss, shape, "float32", ("cuda",)) for name, (loss, shape) in losses.items()
    ]


def ours(
    shape: RewardShape,
    metrics: tuple[str, ...] = (),
    sums_like_weight: bool = False,
    chunk_rows: int | None = None,
    rows_like_hidden: bool = False,
    fp32_gradient: bool = False,
    trial: Trial | None = None,
) -> Loss:
    """Our loss, with `chunk_rows` instead of the default budget.

    `rows_like_hidden`: a chunk has as many rows as hidden states have dimensions. Its logits then
    take no more memory than the weight. `fp32_gradient`: the weight's gradient is not rounded.
    """

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        # Not "auto", which would silently use a slower implementation if one cannot run.
        impl = "triton" if weight.is_cuda else "chunked"
        settings: dict[str, Any] = {"accum_dtype": weight.dtype} if sums_like_weight else {}
        rows = hidden.shape[1] if rows_like_hidden else chunk_rows
        if rows is not None:
            # Rows are a multiple of 64 columns apart, which may take a little more.
            settings["chunk_mb"] = rows * (weight.shape[0] + 64) * weight.dtype.itemsize / 2**20
        if fp32_gradient:
            weight.grad_dtype = torch.float32
        with trying(trial or Trial()):
            return shaped_linear_loss(
                hidden, weight, targets, shape, metrics=metrics, impl=impl, **settings
            ).loss

    return loss


def reference(shape: RewardShape) -> Loss:
    """Autograd through full logits, for any shape."""
    return lambda *inputs: shaped_linear_loss(*inputs, shape, impl="reference").loss


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(hidden, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets, reduction="sum")


@functools.cache
def _compiled() -> Any:
    return torch.compile(full_logits, dynamic=False)


def compiled_full_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return _compiled()(hidden, weight, targets)


def liger(chunk_constant: int, accum_dtype: torch.dtype | None = None) -> Loss:
    """Liger's fused loss (0.8.5).

    C is its `chunk_mem_const`: it holds logits of about C·N·D elements at a time.
    """

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

        # bias, class weights, ignore_index, z-loss, smoothing, reduction, softcap, return_z_loss,
        # accum_dtype, then token scaling, accuracy, predictions, the choice of implementation
        # (twice) and C
        first = (None, None, -100, 0.0, 0.0, "sum", None, False, accum_dtype)
        last = (False, False, False, None, None, chunk_constant)
        return LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, targets, *first, *last)[0]

    return loss


def liger_sm90(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Liger's backend for Hopper (0.8.5), for N a multiple of 128 and V a multiple of 256."""
    from liger_kernel.ops.cutedsl.ops.fused_linear_cross_entropy_sm90 import (
        liger_fused_linear_cross_entropy_sm90,
    )

    return liger_fused_linear_cross_entropy_sm90(hidden, weight, targets, reduction="sum")


def torch_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    if not hasattr(F, "linear_cross_entropy"):
        raise ImportError(f"torch {torch.__version__} has no linear_cross_entropy (2.13 has it)")
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)


def trl_chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    # no bias, temperature 1, no softcap, logit scale 1, no outputs besides the log-probabilities
    arguments = (hidden, weight, None, targets, 1.0, _TRL_VOCABULARY_CHUNK, None, 1.0, ())
    return -ChunkedLogProbFunction.apply(*arguments)[0].sum()


def cut(filter_eps: str | None) -> Loss:
    """Cut Cross-Entropy (25.1.1).

    Its default, "high", leaves out gradient blocks below eps/32; None computes all of them.
    """

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        from cut_cross_entropy import linear_cross_entropy

        return linear_cross_entropy(hidden, weight, targets, reduction="sum", filter_eps=filter_eps)

    return loss


def quack(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """QuACK (0.6.5), with 4096 rows per chunk.

    On Hopper with bf16 it chooses its scaled-exp pipeline itself.
    """
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return chunked_linear_cross_entropy(hidden, weight, targets, reduction="sum")


class Matmuls(NamedTuple):
    """`product(a, b, out)` writes a @ b, and `add(a, b, out)` adds it."""

    product: Callable[[Tensor, Tensor, Tensor], Any]
    add: Callable[[Tensor, Tensor, Tensor], Any]


def torch_matmuls() -> Matmuls:
    return Matmuls(
        lambda a, b, out: torch.mm(a, b, out=out), lambda a, b, out: torch.addmm(out, a, b, out=out)
    )


def quack_matmuls() -> Matmuls:
    """Those of QuACK (0.6.5), which it tunes at the first call of a shape."""
    from quack.gemm_interface import gemm, gemm_add_inplace

    return Matmuls(lambda a, b, out: gemm(a, b, out=out), gemm_add_inplace)


def floor(
    make_matmuls: Callable[[], Matmuls] = torch_matmuls,
    with_pass: bool = False,
    whole: bool = False,
) -> Loss:
    """The three matmuls alone: logits, and the gradients of hidden states and weight.

    The gradients are summed in the inputs' dtype, over the chunks of our loss, or over all rows at
    once (`whole`). `with_pass` adds e^z over the logits, in place.
    """

    @torch.no_grad()
    def matmuls(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        key = (*hidden.shape, *weight.shape, hidden.dtype, hidden.device)
        if key not in _our_chunks:
            _our_chunks[key] = our_chunks(hidden, weight, targets)
        product, add = make_matmuls()
        chunks = [hidden.shape[0]] if whole else _our_chunks[key]
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.empty_like(weight)
        logits = hidden.new_empty(max(chunks), weight.shape[0])
        start = 0
        for rows in chunks:
            part, logits_CV = hidden[start : start + rows], logits[:rows]
            product(part, weight.t(), logits_CV)
            if with_pass:
                logits_CV.exp_()
            product(logits_CV, weight, grad_hidden[start : start + rows])
            (product if start == 0 else add)(logits_CV.t(), part, grad_weight)
            start += rows
        return hidden.new_zeros(())

    return matmuls


_our_chunks: dict[tuple[Any, ...], list[int]] = {}


def our_chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> list[int]:
    """The rows of each matmul to logits in our loss, recorded while it runs."""
    with torch.enable_grad(), _MatmulRows(weight.shape) as recorded:
        ours(CROSS_ENTROPY)(hidden, weight, targets)
    assert sum(recorded.rows) == hidden.shape[0], (
        f"our loss made logits of {recorded.rows} rows out of {hidden.shape[0]}"
    )
    return recorded.rows


class _MatmulRows(TorchDispatchMode):
    """Records the rows of every torch.mm of [C, D] with the transpose of a [V, D] weight."""

    def __init__(self, weight_shape: torch.Size) -> None:
        super().__init__()
        self.rows: list[int] = []
        self._transposed = weight_shape[::-1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten.mm and args[1].shape == self._transposed:
            self.rows.append(args[0].shape[0])
        return func(*args, **(kwargs or {}))
