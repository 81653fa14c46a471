"""The package as a kernel of the Hub: loaded from a build folder, under another name, by the `kernels` library."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

pytest.importorskip("kernels", reason="the Hub's `kernels` library is not installed")
SOURCE = Path(__file__).resolve().parents[2] / "kernels"
GENERAL = tomllib.loads((SOURCE / "build.toml").read_text())["general"]

FROM_BUILD = """\
import sys
from pathlib import Path
from kernels import get_local_kernel
sys.modules["shaped_kernels"] = None  # not to be had by its own name: a module that asks for it fails
kernel = get_local_kernel(Path.cwd(), backend="cpu")
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
    output = kernel.shaped_linear_loss(hidden, weight, targets, shape, metrics=kernel.METRICS, impl=impl)
    output.loss.backward()
    torch.save([t.detach() for t in (*output, hidden.grad, weight.grad)], f"{impl}.pt")
"""


def build(folder: Path) -> None:
    """What kernel-builder makes of pure Python: for each backend a flat copy of the package and its metadata."""
    module = GENERAL["name"].replace("-", "_")
    for backend in GENERAL["backends"]:
        variant = folder / "build" / f"torch-{backend}"
        shutil.copytree(SOURCE / "torch-ext" / module, variant, ignore=shutil.ignore_patterns("__pycache__"))
        metadata = {name: GENERAL[name] for name in ("name", "version", "license")}
        metadata |= {"id": f"_{module}_{backend}_0123abc", "python-depends": [], "backend": {"type": backend}}
        (variant / "metadata.json").write_text(json.dumps(metadata))


def run(code: str, folder: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr


def test_build_toml_is_valid():
    from kernels._rust import Backend, Build  # the parser of kernel-builder

    assert Build.open(SOURCE).general.backends == [Backend.CPU, Backend.CUDA]


def test_a_loaded_kernel_gives_the_numbers_of_the_package(tmp_path):
    """Bit for bit: loss, metrics and gradients of "chunked", and of "triton" in Triton's interpreter."""
    pytest.importorskip("triton", reason="triton is not installed")
    results = {}
    for name, code in (("build", FROM_BUILD), ("direct", DIRECT)):
        folder = tmp_path / name
        build(folder)
        run(code + COMPUTE, folder)
        results[name] = [torch.load(folder / f"{impl}.pt") for impl in ("chunked", "triton")]
    for loaded, direct in zip(results["build"], results["direct"], strict=True):
        assert len(loaded) == 10
        for a, b in zip(loaded, direct, strict=True):
            assert torch.equal(a, b)
