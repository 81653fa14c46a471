"""Convert the weights of a saved model to another dtype, such as that of its first checkpoint."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from shaped_eval.untrusted.files import replacing
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME


def cast_saved(folder: str | Path, dtype: str, keep: Collection[str] = ()) -> str | None:
    """Round a saved model's float32 weights to `dtype`, file by file, and name it in config.json.

    Args:
        folder: what `save_pretrained` wrote. A folder without a model's weights, such as an
            adapter's, stays as it is.
        dtype: "float32", "bfloat16" or "float16".
        keep: parts of the names of weights that stay in float32.

    Returns:
        the dtype that the weights had, if it was another one; else None.
    """
    folder = Path(folder)
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        return None
    config = json.loads((folder / CONFIG_NAME).read_text())
    # a model of several parts may name the dtype of each
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    before = next((part["dtype"] for part in parts if part.get("dtype")), "another dtype")
    if before == dtype:
        return None
    for file in files:
        _cast_file(file, getattr(torch, dtype), keep)
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if index.exists():
        content = json.loads(index.read_text())
        content["metadata"]["total_size"] = sum(map(_bytes_of_weights, files))
        _write_json(index, content)
    for part in parts:
        if "dtype" in part:
            part["dtype"] = dtype
    _write_json(folder / CONFIG_NAME, config | {"dtype": dtype})
    return before


def kept_in_float32(model: Any, dtype: str) -> set[str]:
    """Parts of the names of weights that transformers loads in float32, whatever `dtype` says."""
    kept: set[str] = set()
    lists = ["_keep_in_fp32_modules_strict"]
    if dtype == "float16":
        lists.append("_keep_in_fp32_modules")
    for name in lists:
        kept.update(getattr(model, name, None) or ())
    return kept


def _cast_file(file: Path, dtype: torch.dtype, keep: Iterable[str]) -> None:
    with safe_open(file, framework="pt") as weights:
        metadata = weights.metadata()
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not any(part in name for part in keep):
            tensors[name] = tensor.to(dtype)
    with replacing(file, "wb") as new:
        new.write(save(tensors, metadata))


def _bytes_of_weights(file: Path) -> int:
    with safe_open(file, framework="pt") as weights:
        return sum(weights.get_tensor(name).nbytes for name in weights.keys())  # noqa: SIM118


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
