"""Checkpoints that engines have divided are checked without running what they name."""

from __future__ import annotations

import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dist_cp
from shaped_eval.errors import UserError
from shaped_eval.untrusted.sharded import check_sharded
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    Metadata,
    MetadataIndex,
)

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
REFUSED = "is not continued: .* or holds something other than the state of a training"


class Touch:
    """What it names would create a file if it were called."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint as of FSDP2, in one process: tensors, and values of an optimizer."""
    state = {
        "weight": torch.arange(6.0, dtype=torch.bfloat16).view(2, 3),
        "group": {"lr": 0.1, "betas": (0.9, 0.95), "foreach": None},
    }
    for name in ("pytorch_model_fsdp_0", "optimizer_0"):
        writer = dist_cp.FileSystemWriter(tmp_path / "checkpoint" / name)
        dist_cp.save(state, storage_writer=writer, no_dist=True)
    return tmp_path / "checkpoint"


@pytest.fixture
def ran(tmp_path: Path):
    """What a hostile pickle would create; it must not exist at the end."""
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


def metadata_of(folder: Path) -> Metadata:
    return dist_cp.FileSystemReader(folder).read_metadata()


def test_what_torch_writes_is_accepted(checkpoint: Path) -> None:
    check_sharded(checkpoint)
    check_sharded(checkpoint / "optimizer_0")
    stored = metadata_of(checkpoint / "optimizer_0").state_dict_metadata.values()
    # otherwise the values' own pickles would not have been checked
    assert any(isinstance(each, BytesStorageMetadata) for each in stored)


@pytest.mark.parametrize(
    "place",
    [
        "pytorch_model_fsdp_0/.metadata",
        "optimizer_0/.metadata",
        "optimizer_0/__0.metadata",
        "new/.metadata",
        ".metadata",
    ],
)
def test_a_description_that_names_something_else_is_refused(
    place: str, checkpoint: Path, ran: Path
) -> None:
    (checkpoint / place).parent.mkdir(exist_ok=True)
    (checkpoint / place).write_bytes(pickle.dumps(Touch(ran)))
    with pytest.raises(UserError, match=rf"{REFUSED}.*it names (posix|nt)\.mkdir"):
        check_sharded(checkpoint)


def test_a_value_beside_the_tensors_that_names_something_else_is_refused(
    checkpoint: Path, ran: Path
) -> None:
    folder = checkpoint / "optimizer_0"
    metadata = metadata_of(folder)
    torch.save(Touch(ran), folder / "__0_0.distcp.new")
    place = metadata.storage_data[MetadataIndex("group.lr")]
    place.relative_path, place.offset = "__0_0.distcp.new", 0
    place.length = (folder / "__0_0.distcp.new").stat().st_size
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match=REFUSED):
        check_sharded(checkpoint)
    place.relative_path = str(folder / "__0_0.distcp")
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match=r"group\.lr is not stored as FSDP2 does"):
        check_sharded(checkpoint)


def test_a_pickle_cannot_change_a_class(checkpoint: Path) -> None:
    content = (  # the class, then (None, {"changed": 1}) as the state to set on it
        b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n"
        b"N}X\x07\x00\x00\x00changedI1\ns\x86b."
    )
    (checkpoint / "optimizer_0/.metadata").write_bytes(content)
    with pytest.raises(UserError, match=REFUSED):
        check_sharded(checkpoint)
    assert not hasattr(Metadata, "changed")


@pytest.mark.parametrize("content", [b"", b"\x80", b"N.", b"\x80\x02}.", b"\0" * 99], ids=repr)
def test_a_damaged_description_is_refused(content: bytes, checkpoint: Path) -> None:
    (checkpoint / "optimizer_0/.metadata").write_bytes(content)
    with pytest.raises(UserError, match=r"optimizer_0/\.metadata is damaged"):
        check_sharded(checkpoint)


@pytest.fixture
def zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as DeepSpeed writes it, whose classes stand in for DeepSpeed's."""
    names = {"deepspeed.runtime.fp16.loss_scaler": "LossScaler"}
    names["deepspeed.runtime.zero.config"] = "ZeroStageEnum"
    names["deepspeed.utils.tensor_fragment"] = "fragment_address"
    settings = {}
    for module, name in names.items():
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            package = ".".join(parts[:end])
            monkeypatch.setitem(sys.modules, package, ModuleType(package))
        made = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, made)
        settings[name] = made()
        settings[name].scale = 1.0
    folder = tmp_path / "checkpoint"
    (folder / "global_step3").mkdir(parents=True)
    (folder / "latest").write_text("global_step3\n")
    state = {"module": OrderedDict(weight=torch.ones(2)), **settings}
    torch.save(state, folder / "global_step3/zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return folder


def test_what_deepspeed_writes_is_accepted(zero: Path) -> None:
    check_sharded(zero)


def test_a_state_of_deepspeeds_that_names_something_else_is_refused(zero: Path, ran: Path) -> None:
    torch.save({"module": Touch(ran)}, zero / "global_step3/mp_rank_00_model_states.pt")
    with pytest.raises(UserError, match=rf"{REFUSED}.*it names (posix|nt)\.mkdir"):
        check_sharded(zero)


@pytest.mark.parametrize("tag", ["../elsewhere", "/tmp", "", "global_step3/.."])
def test_deepspeed_is_led_to_no_other_folder(tag: str, zero: Path) -> None:
    (zero / "latest").write_text(tag)
    with pytest.raises(UserError, match="is not a folder of DeepSpeed's"):
        check_sharded(zero)
