"""Compiles the kernels of impl="triton" without a GPU, and prints the registers that they use.

    compile_kernels.py DTYPE ARCHITECTURE V...   (bfloat16, float16 or float32; 80, 90 or 100)

One JSON line per configuration that `plan` can ask for: {"name", "registers", "limit", "spills",
"known"}. Only trials have known spills.
Run it without TRITON_INTERPRET.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from shaped_kernels import RewardShape
from shaped_kernels.shape import LossOptions
from shaped_kernels.triton_kernels import scale, shape_rows
from shaped_kernels.triton_launch import Trial, trying
from shaped_kernels.triton_rows import plan
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
# name: (shape, metrics, whether tokens have weights)
SHAPES = {
    "cross-entropy": (RewardShape(beta=-0.25), (), False),
    "weighted": (RewardShape(beta=-0.25), (), True),
    "entropy": (RewardShape(beta=-0.25), ("entropy",), False),
    "head": (RewardShape(lambda_tail=-0.1, top_k=100), (), False),
    "weighted head": (RewardShape(lambda_tail=-0.1, top_k=100), ("entropy",), True),
    "large head": (RewardShape(lambda_tail=-0.1, top_k=1000), (), False),
}

# name: what is off by default, and the spills that are known. They are of the search for the head
# set, which runs once for a row.
TRIALS = {"64 registers": (Trial(head_rows=2), 38), "groups": (Trial(group=128), 0)}


def compile_and_measure(
    kernel, signature: dict, constants: dict, architecture: int, options: dict, V: int
) -> tuple[int, int]:
    """(registers, instructions that spill) of a thread, with aligned pointers as in use."""
    names = kernel.arg_names
    signature = signature | dict.fromkeys(constants, "constexpr")
    aligned = [
        name
        for name, kind in signature.items()
        if kind.startswith("*") or name in ("width", "numel") or (name == "V" and V % 16 == 0)
    ]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    constants = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, {name: signature[name] for name in names}, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run(
                [TOOLS / tool, flag, file.name], check=True, capture_output=True, text=True
            ).stdout
            for tool, flag in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    return int(re.search(r"REG:(\d+)", usage)[1]), len(re.findall(r"\b(?:STL|LDL)\b", code))


def of_rows(dtype: torch.dtype, V: int, shape: tuple, softcap: float | None, grad: bool):
    """(kernel, signature, constants, options) of the row step, and its launch."""
    rewards, metrics, weighted = shape
    arguments, launch = plan(V, dtype, LossOptions(rewards, 1.0, softcap, metrics, None, None))
    constants = {key: value for key, value in arguments.items() if key.isupper()} | {"GRAD": grad}
    if not weighted:
        constants["weights_ptr"] = None
    if not arguments["GROUP"]:
        constants["scratch_ptr"] = None
    signature = {
        "logits_ptr": POINTERS[dtype],
        "targets_ptr": "*i64",
        "weights_ptr": "*fp32",
        "out_ptr": "*fp32",
        "scratch_ptr": "*i32",
        "V": "i32",
        "width": "i32",
    }
    signature |= {
        key: "fp32" if isinstance(value, float) else "i32" for key, value in arguments.items()
    }
    options = {"num_warps": launch.warps, "maxnreg": launch.registers, "enable_fp_fusion": True}
    return (shape_rows, signature, constants, options), launch


def configurations(dtype: torch.dtype, V: int):
    """(name, compiled, limit of registers, known spills) of all kernels for `dtype`."""
    for (name, shape), softcap, grad in itertools.product(SHAPES.items(), (None, 30.0), (1, 0)):
        compiled, launch = of_rows(dtype, V, shape, softcap, bool(grad))
        full_name = f"{name}{', softcap' if softcap else ''}{'' if grad else ', evaluation'}"
        # Without a head set, two rows share the 65,536 registers of a multiprocessor.
        shared = launch if "head" in name else launch._replace(rows=2)
        yield full_name, compiled, shared.registers, 0
    for (name, (trial, spills)), grad in itertools.product(TRIALS.items(), (True, False)):
        with trying(trial):
            compiled, launch = of_rows(dtype, V, SHAPES["head"], None, grad)
        full_name = f"head, trial: {name}{'' if grad else ', evaluation'}"
        yield full_name, compiled, launch.registers, spills
    for out in {dtype, torch.float32}:
        signature = {
            "in_ptr": "*fp32",
            "out_ptr": POINTERS[out],
            "factor_ptr": "*fp32",
            "numel": "i64",
        }
        constants = {"IN_PLACE": out == torch.float32, "BLOCK": 4096}
        compiled = scale, signature, constants, {"enable_fp_fusion": True}
        yield f"scale to {out}", compiled, 128, 0


if __name__ == "__main__":
    dtype, architecture = getattr(torch, sys.argv[1]), int(sys.argv[2])
    for V in map(int, sys.argv[3:]):
        for name, compiled, limit, known in configurations(dtype, V):
            kernel, signature, constants, options = compiled
            registers, spills = compile_and_measure(
                kernel, signature, constants, architecture, options, V
            )
            row = {"name": f"{name}, V={V}", "registers": registers, "limit": limit}
            print(json.dumps(row | {"spills": spills, "known": known}), flush=True)
