"""Checks the weights of a saved model before they are loaded.

safetensors files hold only numbers. A pickle (`pytorch_model.bin`) is read by torch's restricted
unpickler (`weights_only`), which runs no code: a pickle that holds anything other than weights is
refused.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from shaped_eval.errors import UserError

PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")


def check_weights(folder: str | Path, field: str, *, needed: bool = True) -> None:
    """Check the files of weights in a folder; of safetensors only the headers are read.

    Does nothing if `folder` is not a folder.

    Args:
        field: the option that named the folder.
        needed: whether a folder without weights is an error.

    Raises:
        UserError: a file is damaged or is a pickle with anything other than weights, or weights are
            needed but there are none.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        return
    named = f"{field}={str(folder)!r}"
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise UserError(
                f"{named}: {path.name} is damaged ({error}): copy or save the model again"
            ) from error
    if files:
        return
    pickles = [path for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    for path in pickles:
        try:
            _unpickled(path)
        except Exception as error:  # damaged bytes can raise anything in torch's reader
            raise UserError(
                f"{named}: {path.name} is damaged, or holds something other than weights, and is "
                "not loaded: provide the model as safetensors"
            ) from error
    if needed and not pickles:
        raise UserError(f"{named} holds no weights (*.safetensors): save the model there")


def _unpickled(path: Path) -> None:
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    torch.load(path, weights_only=True, map_location="meta", mmap=zipped)
