"""Checks checkpoints that an engine has divided among processes, before they are loaded.

torch's reader of FSDP2's checkpoints and DeepSpeed's own unpickle files without any restriction,
and a pickle can call whatever it names. A run's folder may be somebody else's. So its files may
name only what the engines write there: descriptions of tensors, and plain values. torch reads the
other files of a checkpoint, such as the scheduler's, with such a restriction by itself.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import one_line

# what torch writes into FSDP2's `.metadata`, besides types of numbers
_METADATA = {
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            *("Metadata", "MetadataIndex", "StorageMeta", "BytesStorageMetadata"),
            *("TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
            "_MEM_FORMAT_ENCODING",
        )
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # its name in Python 3.13
}
# what DeepSpeed writes, besides what torch's restricted reader admits
_SETTINGS = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",  # of stages 1 and 2
)
_TAG = re.compile(r"global_step\d+")  # of a folder of DeepSpeed's, which the file `latest` names


def check_sharded(checkpoint: str | Path) -> None:
    """Check the files of FSDP2 or DeepSpeed in a checkpoint, if there are any.

    Of tensors only the descriptions are read.

    Raises:
        UserError: a file is damaged, or names anything that the engine does not write there.
    """
    checkpoint = Path(checkpoint)
    # accelerate also takes one of the two folders themselves as a checkpoint
    for path in [*checkpoint.glob("*.metadata"), *checkpoint.glob("*/*.metadata")]:
        with _explained(checkpoint, path):
            _check_metadata(path)
    latest = checkpoint / "latest"
    if latest.is_file():
        with _explained(checkpoint, latest):
            tag = latest.read_text(encoding="utf-8").strip()
            if not _TAG.fullmatch(tag):
                raise ValueError(f"{tag!r} is not a folder of DeepSpeed's")
        for path in sorted((checkpoint / tag).glob("*.pt")):
            with _explained(checkpoint, path):
                _check_state(path)


@contextmanager
def _explained(checkpoint: Path, path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged bytes can raise anything in a reader of pickles
        named = re.search(r"GLOBAL (\S+)", str(error))  # in the long message of torch's reader
        reason = f"it names {named[1]}" if named else one_line(str(error))[:100]
        raise UserError(
            f"checkpoint {str(checkpoint)!r} is not continued: {path.relative_to(checkpoint)} is "
            "damaged, or holds something other than the state of a training, and loading it could "
            f"run code ({reason}): continue from another checkpoint, or start from a saved model "
            "with --model_name_or_path and another --output_dir"
        ) from error


class _StandIn:
    """Takes the place of whatever a pickle names, so that reading it has no effect."""

    def __new__(cls, *args: Any) -> _StandIn:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Also keeps a pickle from setting attributes of a class, since it has no `self` there."""


class _Names(pickle.Unpickler):
    """Reads a pickle that names nothing but what `.metadata` may name. Nothing of it is called."""

    def find_class(self, module: str, name: str) -> Any:
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or (module, name) in _METADATA:
            return _StandIn
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _check_metadata(path: Path) -> None:
    """Check a `.metadata`, and the pickles in other files whose places it gives."""
    content = path.read_bytes()
    _Names(io.BytesIO(content)).load()
    metadata = pickle.loads(content)
    if not isinstance(metadata, Metadata):
        raise ValueError(f"it holds {type(metadata).__name__}")
    stored: dict[Any, Any] = metadata.storage_data
    for index, place in stored.items():
        # torch reads tensors with a restriction of its own, and other values without one
        if not isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
            continue
        if place.relative_path != Path(place.relative_path).name or place.transform_descriptors:
            raise ValueError(f"{index.fqn} is not stored as FSDP2 does")
        with open(path.parent / place.relative_path, "rb") as file:
            file.seek(place.offset)
            torch.load(io.BytesIO(file.read(place.length)), weights_only=True)


def _check_state(path: Path) -> None:
    """Check a file of DeepSpeed's with torch's restricted reader."""
    with torch.serialization.safe_globals([(_StandIn, name) for name in _SETTINGS]):
        torch.load(path, weights_only=True, map_location="meta", mmap=True)
