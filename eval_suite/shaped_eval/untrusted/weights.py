"""The weights of a saved model, looked at before they are loaded.

safetensors hold numbers and nothing else. A pickle (`pytorch_model.bin`) is read by torch's
unpickler of weights alone (`weights_only`), which runs nothing: one that holds anything but weights
is refused.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from shaped_eval.errors import UserError

PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")


def check_weights(folder: str | Path, field: str, *, needed: bool = True) -> None:
    """Look at the files of weights in a folder, of which only the heads are read; what is no folder
    is not looked at.

    Args:
        field: the option that named the folder.
        needed: whether a folder without weights is a mistake.

    Raises:
        UserError: a file is damaged, or is a pickle with something else than weights; or there is
            none.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        return
    said = f"{field}={str(folder)!r}"
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise UserError(
                f"{said}: {path.name} is damaged ({error}): copy or save the model again"
            ) from error
    if files:
        return
    pickles = [path for pattern in PICKLES for path in sorted(folder.glob(pattern))]
    for path in pickles:
        try:
            _unpickled(path)
        except Exception as error:  # whatever the bytes of the file make of torch's reader
            raise UserError(
                f"{said}: {path.name} is damaged, or holds something else than weights, and is not loaded: give the "
                "model as safetensors"
            ) from error
    if needed and not pickles:
        raise UserError(f"{said} holds no weights (*.safetensors): save the model there")


def _unpickled(path: Path) -> None:
    with open(path, "rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    torch.load(path, weights_only=True, map_location="meta", mmap=zipped)
