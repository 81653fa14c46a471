"""The package as a kernel of the Hub, loaded from a build folder by the `kernels` library."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_stand_in import client_environment, hub_stand_in, point_client_at
from places import ROOT

pytest.importorskip("kernels", reason="the Hub's `kernels` library is not installed")
SOURCE = ROOT / "kernels"
PUBLISH = runpy.run_path(str(SOURCE / "publish.py"))

FROM_BUILD = """\
import sys
from pathlib import Path
from kernels import get_local_kernel
sys.modules["shaped_kernels"] = None  # importing it by its own name fails
kernel = get_local_kernel(Path.cwd(), backend="cpu")
"""
FROM_HUB = """\
import sys
from kernels import get_kernel
sys.modules["shaped_kernels"] = None
kernel = get_kernel("me/shaped-kernels", version=1, backend="cpu", trust_remote_code=True)
assert kernel.RewardShape(beta=-0.25).top_k == 100
"""
DIRECT = "import shaped_kernels as kernel"
COMPUTE = """
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
hidden, weight = torch.randn(7, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
shape = kernel.RewardShape(beta=-0.25, lambda_head=0.1, lambda_tail=-0.1, top_k=5)
targets = torch.randint(50, (7,))
for impl in ("chunked", "triton"):
    hidden.grad = weight.grad = None
    output = kernel.shaped_linear_loss(
        hidden, weight, targets, shape, metrics=kernel.METRICS, impl=impl
    )
    output.loss.backward()
    torch.save([t.detach() for t in (*output, hidden.grad, weight.grad)], f"{impl}.pt")
"""


def run(code: str, folder: Path, **environment: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"} | (environment or {"HF_HUB_OFFLINE": "1"})
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", code]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr


def test_build_toml_is_valid():
    from kernels._rust import Backend, Build  # the parser of kernel-builder

    assert Build.open(SOURCE).general.backends == [Backend.CPU, Backend.CUDA]


@pytest.mark.slow
def test_a_loaded_kernel_gives_the_numbers_of_the_package(tmp_path):
    """Loss, metrics and gradients are the same bits, with "chunked" and an interpreted "triton"."""
    pytest.importorskip("triton", reason="triton is not installed")
    results = {}
    for name, code in (("build", FROM_BUILD), ("direct", DIRECT)):
        folder = tmp_path / name
        folder.mkdir()
        PUBLISH["build"](folder)
        run(code + COMPUTE, folder)
        results[name] = [torch.load(folder / f"{impl}.pt") for impl in ("chunked", "triton")]
    for loaded, direct in zip(results["build"], results["direct"], strict=True):
        assert len(loaded) == 11
        for a, b in zip(loaded, direct, strict=True):
            assert torch.equal(a, b)


@pytest.mark.slow
def test_a_published_kernel_is_loaded_by_its_version(tmp_path, monkeypatch, capsys):
    with hub_stand_in() as server:
        point_client_at(server, monkeypatch)
        assert PUBLISH["main"](["me/shaped-kernels"]) == 0
        assert PUBLISH["main"](["me/shaped-kernels"]) == 0  # all of it is there
        key = "kernel", "me/shaped-kernels"
        assert set(server.files[key]) == {"README.md"}
        assert (
            'get_kernel("me/shaped-kernels", version=1' in server.files[key]["README.md"].decode()
        )
        variants = {
            path.split("/")[1] for path in server.branches[key, "v1"] if path.startswith("build/")
        }
        assert variants == {"torch-cpu", "torch-cuda"}
        assert len(server.messages) == 2
        run(FROM_HUB, tmp_path, **client_environment(server, tmp_path / "home"))
        server.refuse, server.refused = (403, "", "no rights"), "/create"
        assert PUBLISH["main"](["you/shaped-kernels"]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("you/")]
    assert "403" in line
    assert "token" in line
