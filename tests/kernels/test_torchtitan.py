"""`shaped_kernels.torchtitan` with a stand-in for torchtitan 0.3, or itself if it is installed."""

import sys

import pytest
import torch
from processes import run_processes
from shaped_kernels import RewardShape, shaped_linear_loss
from torch import nn
from torchtitan_stand_in import Decoder, batch, fsdp_step, give_head, import_adapter, modules

# torchtitan compiles its attention when it is imported, and torch's compiler uses functions that
# torch has deprecated
ignore_compiler = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
FULL = RewardShape(beta=-0.25, lambda_head=0.3, lambda_tail=-0.2, top_k=5)


def imported(monkeypatch, stand_in):
    """The adapter, newly imported for one test."""
    for name, module in {**stand_in, "shaped_kernels.torchtitan": None}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return import_adapter(sys.modules)


@pytest.fixture(params=["stand-in", "torchtitan"])
def adapter(request, monkeypatch):
    if request.param == "torchtitan":
        pytest.importorskip("torchtitan", reason="torchtitan is not installed")
    return imported(monkeypatch, modules() if request.param == "stand-in" else {})


def built(adapter, **fields):
    return adapter.ShapedLoss.Config(impl="chunked", **fields).build(compile_config=None)


def decoder(**changes) -> Decoder:
    torch.manual_seed(0)
    return Decoder(**changes).double()


def reference_step(model: Decoder, shape: RewardShape) -> dict:
    """The mean over valid targets, from full logits with autograd."""
    inputs, labels = batch()
    hidden = model.norm(model.tok_embeddings(inputs))
    head = model.lm_head
    loss = shaped_linear_loss(
        hidden, head.weight, labels, shape, bias=head.bias, impl="reference"
    ).loss
    loss = loss / (labels != -100).sum()
    loss.backward()
    return {"losses": loss.detach()} | {name: p.grad for name, p in model.named_parameters()}


def assert_same(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value.expand_as(found[name]), rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("shape", [RewardShape(), FULL])
@pytest.mark.parametrize("bias", [False, True])
def test_accumulated_steps_are_one_step_of_full_logits(adapter, shape, bias):
    model = decoder(bias=bias)
    loss_fn = built(adapter, shape=shape)
    give_head(model, loss_fn, adapter.ChunkedLossWrapper)
    inputs, labels = batch()
    valid, total = (labels != -100).sum(), 0.0
    for rows in (slice(0, 1), slice(1, 4)):
        positions = torch.arange(inputs.shape[1]).expand_as(inputs[rows])
        loss, metrics = loss_fn(model(inputs[rows]), labels[rows], valid, positions=positions)
        loss.backward()
        total += loss.detach()
        assert metrics == {}
    found = {"losses": total} | {name: p.grad for name, p in model.named_parameters()}
    assert_same(found, reference_step(decoder(bias=bias), shape))


def test_validation_gives_the_sum_over_targets(adapter):
    model = decoder()
    loss_fn = built(adapter)
    give_head(model, loss_fn, adapter.ChunkedLossWrapper)
    inputs, labels = batch()
    with torch.no_grad():
        loss, _ = loss_fn(model(inputs), labels)
        logits = model.lm_head(model(inputs))
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_a_head_that_does_more_than_a_matmul_is_refused(adapter):
    class SoftCapped(nn.Linear):
        def forward(self, x):
            return super().forward(x).tanh()

    with pytest.raises(ValueError, match="SoftCapped is not a plain linear layer"):
        built(adapter).set_lm_head(SoftCapped(4, 5))


def test_full_dtensor_is_refused(monkeypatch):
    loss_fn = built(imported(monkeypatch, modules(backend="full_dtensor")))
    with pytest.raises(ValueError, match="spmd_types"):
        loss_fn(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("reshard_after_forward", [False, True])
def test_fsdp2(tmp_path, reshard_after_forward):
    """Two processes with norm and head in one FSDP group, as in torchtitan, take the same step."""
    config = {"shape": FULL, "impl": "chunked", "reshard_after_forward": reshard_after_forward}
    expected = reference_step(decoder(), FULL)
    for found in run_processes(fsdp_step, 2, tmp_path, config):
        assert_same(found, expected)


@ignore_compiler
@pytest.mark.distributed
def test_torchtitans_llama(tmp_path):
    """FSDP2 (also tied) and tensor parallelism give the losses and gradients of one process."""
    pytest.importorskip("torchtitan", reason="torchtitan is not installed")
    import torchtitan_ranks

    for errors in run_processes(torchtitan_ranks.relative_errors, 2, tmp_path):
        assert len(errors) == len(torchtitan_ranks.CASES)
        for case, of_case in errors.items():
            assert max(of_case.values()) < 1e-6, case


@ignore_compiler
def test_every_field_is_a_flag_of_torchtitan(tmp_path, monkeypatch):
    pytest.importorskip("torchtitan", reason="torchtitan is not installed")
    from torchtitan.config import ConfigManager

    adapter = imported(monkeypatch, {})
    example = [line[4:] for line in adapter.__doc__.splitlines() if line.startswith("    ")]
    (tmp_path / "my_run.py").write_text("\n".join(example))
    monkeypatch.syspath_prepend(tmp_path)
    argv = [
        "--module",
        "my_run",
        "--config",
        "precision",
        "--loss.shape.beta",
        "-0.5",
        "--loss.impl",
        "chunked",
    ]
    config = ConfigManager().parse_args(argv)
    assert config.loss == adapter.ShapedLoss.Config(
        shape=RewardShape(beta=-0.5, lambda_tail=-0.1), impl="chunked"
    )
    assert config.training.disable_cuda_graphs
