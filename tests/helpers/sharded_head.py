"""The cases of `test_vocab_parallel.py`, and what each process computes for them.

Dimensions: N tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from shaped_kernels import METRICS, RewardShape, shaped_linear_loss
from shaped_kernels.triton_launch import Trial, trying
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PROCESSES = 3
N, D = 23, 6


@dataclass(frozen=True)
class Case:
    """A head and its inputs. `V` = 29 is shards of 10, 10 and 9 tokens; 4 is 2, 2 and none."""

    shape: RewardShape
    V: int = 29
    dtype: torch.dtype = torch.float64
    logits: str = "random"  # "integers" and "equal" have ties, also across shards, in any dtype
    targets: str = "some ignored"
    impossible: tuple[int, ...] = ()  # the tokens whose bias is −inf
    # "hidden" or "bias", an index, and the value at this place
    broken: tuple[tuple[str, int, float], ...] = ()
    logit_scale: float = 1.0
    softcap: float | None = None
    rows_per_chunk: int = 5
    trained: tuple[str, ...] = ("hidden", "weight", "bias")
    weighted: bool = False  # token weights of both signs
    z_loss: float = 0.0
    reduction: str = "sum"


FULL = RewardShape(beta=-0.25, lambda_head=0.3, lambda_tail=-0.2, top_k=5)
CASES = {
    "cross-entropy": Case(RewardShape()),
    "product": Case(FULL),
    "exponent": Case(RewardShape(0.5, 0.3, -0.2, 5, "exponent")),
    "power": Case(RewardShape(0.0, 0.1, -0.1, 5, "power", alpha=0.5)),
    "no tail": Case(RewardShape(0.5, 0.3, -0.2, top_k=29)),
    "head larger than a shard": Case(RewardShape(-0.25, 0.3, -0.2, top_k=17)),
    "head of all but one": Case(RewardShape(-0.25, 0.3, -0.2, top_k=28)),
    "ties": Case(FULL, logits="integers"),
    "ties, head of one": Case(RewardShape(0.5, 0.0, -0.2, top_k=1), logits="integers"),
    "ties, head larger than a shard": Case(
        RewardShape(-0.25, 0.3, -0.2, top_k=17), logits="integers"
    ),
    "all logits equal": Case(
        RewardShape(-0.25, 0.3, -0.2, top_k=12), logits="equal", impossible=(0, 11)
    ),
    "empty shard": Case(RewardShape(-0.25, 0.3, -0.2, top_k=3), V=4),
    "one token": Case(RewardShape(-0.25, 0.3, -0.2, top_k=3), V=1),
    "impossible tokens": Case(FULL, impossible=(*range(10, 20), 3, 28)),
    "one possible token": Case(FULL, impossible=tuple(range(28)), targets="one possible"),
    "all tokens impossible": Case(FULL, impossible=tuple(range(29))),
    "a row of NaN": Case(FULL, broken=(("hidden", 1, torch.nan),)),
    "a row of NaN, ignored": Case(FULL, broken=(("hidden", 4, torch.nan),)),
    "NaN in one shard": Case(FULL, broken=(("bias", 12, torch.nan),)),
    "NaN in one shard, cross-entropy": Case(RewardShape(), broken=(("bias", 28, torch.nan),)),
    "inf in one shard": Case(FULL, broken=(("bias", 0, torch.inf),)),
    "inf in two shards, fp32": Case(
        FULL, dtype=torch.float32, broken=(("bias", 0, torch.inf), ("bias", 28, torch.inf))
    ),
    "softcap and scale": Case(FULL, logit_scale=0.7, softcap=2.5),
    "softcap, empty shard": Case(RewardShape(-0.25, 0.3, -0.2, top_k=3), V=4, softcap=2.5),
    "threshold": Case(RewardShape(positive="threshold", threshold=0.05, lambda_tail=-0.1)),
    "entropy": Case(RewardShape(positive="entropy", top_k=5)),
    "entropy, ties": Case(RewardShape(positive="entropy", top_k=3), logits="integers"),
    "entropy, no tail": Case(RewardShape(positive="entropy", lambda_head=0.3, top_k=29)),
    "entropy, head larger than a shard": Case(
        RewardShape(positive="entropy", lambda_head=0.3, top_k=17)
    ),
    "entropy, one possible token": Case(
        RewardShape(positive="entropy", top_k=5),
        impossible=tuple(range(28)),
        targets="one possible",
    ),
    "temperature": Case(RewardShape(-0.25, 0.3, -0.2, top_k=5, loss_temperature=0.7)),
    "weighted": Case(FULL, weighted=True),
    "z-loss": Case(FULL, z_loss=0.3, logit_scale=0.7, softcap=2.5),
    "z-loss, empty shard": Case(RewardShape(), V=4, z_loss=0.3, reduction="mean", weighted=True),
    "z-loss, one possible token": Case(
        FULL, impossible=tuple(range(28)), targets="one possible", z_loss=0.3
    ),
    "per token": Case(FULL, z_loss=0.3, weighted=True, reduction="none"),
    "all count": Case(FULL, targets="all count"),
    "none counts": Case(FULL, targets="none counts"),
    "one chunk": Case(FULL, rows_per_chunk=1000),
    "frozen head": Case(FULL, trained=("hidden",)),
    "frozen backbone": Case(FULL, trained=("weight", "bias")),
    "evaluation": Case(FULL, trained=()),
    "fp32": Case(FULL, dtype=torch.float32),
    "fp32 ties": Case(FULL, dtype=torch.float32, logits="integers"),
    "bf16": Case(FULL, dtype=torch.bfloat16),
    "bf16 ties": Case(FULL, dtype=torch.bfloat16, logits="integers"),
}
# Far more tokens than the number of elements of any message.
TRAFFIC = Case(FULL, V=2999, logits="equal", targets="all count")


def make_inputs(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """hidden [N, D], weight [V, D], bias [V] and targets [N] with the case's values."""
    generator = torch.Generator().manual_seed(23)
    hidden, weight = (
        torch.randn(size, D, generator=generator, dtype=torch.float64) for size in (N, case.V)
    )
    bias = torch.randn(case.V, generator=generator, dtype=torch.float64)
    if case.logits != "random":
        hidden, weight, bias = hidden.round(), weight.round(), torch.zeros_like(bias)
    if case.logits == "equal":
        weight = torch.zeros_like(weight)
    bias[list(case.impossible)] = -torch.inf
    tensors = {"hidden": hidden, "weight": weight, "bias": bias}
    for name, index, value in case.broken:
        tensors[name][index] = value
    targets = torch.randint(case.V, (N,), generator=generator)
    targets[:3] = torch.arange(3) % case.V  # the first of equals, or almost
    if case.targets == "one possible":
        targets[:] = case.V - 1
    if case.targets != "all count":
        targets[3:9] = -100
    if case.targets == "none counts":
        targets[:] = -100
    inputs = {name: tensor.to(case.dtype).to(dtype) for name, tensor in tensors.items()}
    weights = torch.randn(N, generator=generator, dtype=torch.float64) if case.weighted else None
    return inputs | {"targets": targets, "token_weights": weights}


def compute(
    case: Case, impl: str = "auto", distribute=None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Loss, metrics and gathered gradients of a case; `distribute` shards the head."""
    dtype = dtype or case.dtype
    tensors = make_inputs(case, dtype)
    if distribute is not None:
        tensors |= {name: distribute(tensors[name]) for name in ("weight", "bias")}
    for name in case.trained:
        tensors[name].requires_grad_()
    # The buffer of a shard is 64 columns wide.
    row_mb = (64 if distribute is not None else case.V) * dtype.itemsize / 2**20
    output = shaped_linear_loss(
        tensors["hidden"],
        tensors["weight"],
        tensors["targets"],
        case.shape,
        bias=tensors["bias"],
        logit_scale=case.logit_scale,
        softcap=case.softcap,
        token_weights=tensors["token_weights"],
        z_loss=case.z_loss,
        reduction=case.reduction,
        metrics=METRICS,
        impl=impl,
        chunk_mb=case.rows_per_chunk * row_mb,
    )
    result = {name: value.detach() for name, value in output._asdict().items()}
    if output.loss.requires_grad:
        # With reduction="none", a different factor for each token.
        (output.loss * torch.linspace(0.5, 2.0, output.loss.numel())).sum().backward()
    for name in case.trained:
        gradient = tensors[name].grad
        if name != "hidden" and distribute is not None:
            assert gradient.placements == tensors[name].placements
            gradient = gradient.full_tensor()
        result[f"gradient of {name}"] = gradient
    return result


class Traffic(TorchDispatchMode):
    """Records the collectives, and the number of elements that each is given to read or fill."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.namespace in ("c10d", "_c10d_functional"):
            elements = sum(leaf.numel() for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
            self.calls.append((function.overloadpacket.__name__, elements))
        return result


def main() -> dict[str, object]:
    """All cases in one process of the group."""
    mesh = init_device_mesh("cpu", (PROCESSES,))
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN

    def by_rows(tensor: Tensor):
        return distribute_tensor(tensor, mesh, [Shard(0)])

    results: dict[str, object] = {
        name: compute(case, distribute=by_rows) for name, case in CASES.items()
    }
    case = CASES["product"]
    results["reference"] = compute(case, "reference", by_rows)
    for name, place in (("by columns", Shard(1)), ("replicated", Replicate())):
        results[name] = compute(
            case,
            distribute=lambda t, place=place: distribute_tensor(
                t, mesh, [place if t.dim() > 1 else Replicate()]
            ),
        )
    # The bias of a sharded head may lie differently.
    results["replicated bias"] = compute(
        case,
        distribute=lambda t: distribute_tensor(t, mesh, [Shard(0) if t.dim() > 1 else Replicate()]),
    )
    of_the_sums = METRICS[: METRICS.index("is_top1")]
    for name, metrics in (
        ("traffic", of_the_sums),
        ("traffic of is_top1", (*of_the_sums, "is_top1")),
        ("traffic of target_rank", (*of_the_sums, "target_rank")),
    ):
        inputs = make_inputs(TRAFFIC, torch.float32)
        hidden, weight = (
            inputs["hidden"].requires_grad_(),
            by_rows(inputs["weight"]).requires_grad_(),
        )
        with Traffic() as traffic:
            shaped_linear_loss(
                hidden, weight, inputs["targets"], TRAFFIC.shape, metrics=metrics
            ).loss.backward()
        results[name] = traffic.calls
    results["errors"] = [*_errors(by_rows)]
    hidden = distribute_tensor(torch.ones(N, D), mesh, [Replicate()]).requires_grad_()
    shaped_linear_loss(hidden, by_rows(torch.eye(7, D)), torch.arange(N) % 7).loss.backward()
    assert hidden.grad.placements in ((Replicate(),), (Partial(),))
    results["gradient of a replicated hidden"] = hidden.grad.full_tensor()
    dist.barrier()
    return results


OF_TRITON = (
    *("cross-entropy", "product", "no tail", "head larger than a shard", "ties", "empty shard"),
    *("impossible tokens", "one possible token", "all tokens impossible", "NaN in one shard"),
    *("inf in two shards, fp32", "entropy", "entropy, no tail", "temperature", "weighted"),
    *("per token", "softcap and scale", "frozen head", "evaluation"),
)


def with_triton() -> dict[str, dict[str, Tensor]]:
    """The cases `OF_TRITON` in fp32, where each process runs the Triton row step on its shard."""
    mesh = init_device_mesh("cpu", (PROCESSES,))
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN

    def by_rows(tensor: Tensor):
        return distribute_tensor(tensor, mesh, [Shard(0)])

    from shaped_kernels.triton_shards import ShardedTritonRows

    calls = []
    shape = ShardedTritonRows._shape
    ShardedTritonRows._shape = lambda *arguments: calls.append(1) or shape(*arguments)
    results = {}
    with trying(Trial(sharded=True)):
        for name in OF_TRITON:
            calls.clear()
            results[name] = compute(CASES[name], "triton", by_rows, torch.float32)
            assert bool(calls) == (CASES[name].softcap is None), name
    dist.barrier()
    return results


def _errors(by_rows):
    """The messages of calls that every process must refuse."""
    weight, targets = torch.zeros(29, D), torch.arange(N)
    for head, bias, ids in (
        (by_rows(weight), None, targets + 28),
        (by_rows(weight), torch.zeros(29), targets),
        (weight, by_rows(torch.zeros(29)), targets),
    ):
        try:
            shaped_linear_loss(torch.zeros(N, D), head, ids, bias=bias)
            yield "nothing was raised"
        except ValueError as error:
            yield str(error)


def fail_in_the_last() -> None:
    """Raises in one process while the others are waiting for it."""
    if dist.get_rank() == dist.get_world_size() - 1:
        raise RuntimeError("only this one")
    dist.barrier()
