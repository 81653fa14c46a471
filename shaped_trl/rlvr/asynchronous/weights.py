"""New weights for the server through a folder, on a machine without NCCL.

The weights are written to a folder in memory, the server reads them from there, and the folder is
removed. A process that is killed meanwhile leaves the folder; the next run on this machine removes
it. vLLM has no authentication on the endpoints that it needs for this
(`VLLM_SERVER_DEV_MODE`): who reaches its port can replace the model and run methods of its workers.
The server must therefore listen on 127.0.0.1, or in a network that nobody else reaches.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import torch
from safetensors.torch import save_file
from shaped_eval.untrusted.texts import one_line
from trl.experimental.async_grpo.vllm_client import VLLMClient

from shaped_trl.launch import CONTINUES
from shaped_trl.rlvr.asynchronous.worker import RolloutsFailed
from shaped_trl.vllm_worker import EXTENSION

MEMORY = Path("/dev/shm")
PREFIX = "shaped-trl-weights-"
CONTROL_TIMEOUT_S = 300


class FolderTransfer:
    """TRL's protocol of a weight transfer, by a folder that trainer and server see.

    Args:
        client: TRL's client of the server.
        timeout_s: seconds in which the server has to read the weights.
    """

    def __init__(self, client: VLLMClient, timeout_s: int):
        self.client, self.timeout_s = client, timeout_s

    def init_weight_transfer(self) -> None:
        """Remove what killed runs have left in memory, and wait for the server.

        Raises:
            RolloutsFailed: it does not answer in time.
        """
        remove_abandoned(_place())
        try:
            self.client.wait_for_server_ready()
        except TimeoutError as error:
            raise RolloutsFailed(one_line(str(error))) from error

    def pause(self) -> None:
        self.client.pause(timeout=CONTROL_TIMEOUT_S)

    def send_weights(self, iterator: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Write the parameters to a folder, and have the server load them.

        Completions that are under way go on with the new weights, and their keys and values are
        computed anew, so that each token has the log-probability of one version of the weights.
        """
        with locked_folder(_place()) as folder:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in iterator}
            save_file(tensors, folder / "model.safetensors")
            self._post(
                "collective_rpc",
                json={"method": "load_folder", "kwargs": {"folder": str(folder)}},
                timeout=self.timeout_s,
            )
        self._post(
            "reset_prefix_cache",
            params={"reset_running_requests": "true"},
            timeout=CONTROL_TIMEOUT_S,
        )

    def resume(self) -> None:
        self.client.resume(timeout=CONTROL_TIMEOUT_S)

    def destroy(self) -> None:
        """Nothing is left of a transfer."""

    def _post(self, path: str, **options: object) -> None:
        response = requests.post(f"{self.client.server_url}/{path}", **options)  # type: ignore[arg-type]
        if response.status_code != 200:
            raise RolloutsFailed(
                f"the vLLM server at {self.client.server_url} did not take the weights "
                f"({path}: {response.status_code} {one_line(response.text)[:200]}): with "
                "weight_transfer='folder' it must run on this machine, with VLLM_SERVER_DEV_MODE=1 "
                f"and --worker-extension-cls {EXTENSION}"
            )


def _place() -> Path:
    return MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())


@contextmanager
def locked_folder(place: Path) -> Iterator[Path]:
    """A new folder in `place` that is locked while it is in use, and removed afterwards.

    The kernel releases the lock when this process ends, however it ends.
    """
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=place) as folder:
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(lock)


def remove_abandoned(place: Path) -> None:
    """Remove this user's folders of weights that no process has locked.

    An empty one stays: its process may be about to lock it.
    """
    for folder in place.glob(f"{PREFIX}*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # another user's, no folder, or gone by now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_uid == os.getuid() and os.listdir(lock):
                shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # a run is writing to it, or the server reads from it
        finally:
            os.close(lock)


@contextmanager
def server_errors(address: str) -> Iterator[None]:
    """Turn a server that is gone during a transfer into one line.

    Raises:
        RolloutsFailed: it refuses connections, or does not answer in time.
    """
    try:
        yield
    except (requests.ConnectionError, requests.Timeout) as error:
        raise RolloutsFailed(
            f"the vLLM server at {address} does not answer any more: start it again; {CONTINUES}"
        ) from error
