"""`RolloutWorker`: the trainer's end of the rollout process, which it starts, watches and ends."""

from __future__ import annotations

import os
import queue
import signal
from typing import Any

import requests
from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import one_line
from trl.experimental.async_grpo import async_rollout_worker
from trl.experimental.async_grpo.async_rollout_worker import AsyncRolloutWorker

from shaped_trl.launch import CONTINUES, end_with_parent
from shaped_trl.rlvr.asynchronous.loop import Clock, RolloutLoop
from shaped_trl.rlvr.printing import print_rollouts_visibly
from shaped_trl.rlvr.prompt_stream import PromptStream

HEALTH_TIMEOUT_S = 10.0


class RolloutsFailed(UserError):
    """The rollout process or the server has ended; the message names the first cause."""


class RolloutWorker(AsyncRolloutWorker):
    """TRL's worker with `RolloutLoop`, which ends with the trainer however that ends.

    Args:
        server: address of the vLLM server.
        queue_maxsize: most completions that wait for the trainer.

    Raises:
        UserError: vLLM is not installed.
    """

    _process: Any  # of TRL's worker: None until it is started

    def __init__(self, server: str, queue_maxsize: int):
        try:
            super().__init__(queue_maxsize=queue_maxsize, vllm_server_url=server)
        except ImportError as error:  # TRL takes parts of its transfers from vLLM
            raise UserError(
                "asynchronous: true needs vLLM in the trainer's environment as well: install the "
                "extra vllm, or vLLM's build for CPUs"
            ) from error
        self.server = server.rstrip("/")
        # TRL starts the loop by this name, in the new process.
        self._loop_cls = run_loop

    def set_up(self, **kwargs: Any) -> None:
        """Give arguments of the loop, before it is started."""
        self._loop_kwargs |= kwargs

    def begin_at(self, stream: PromptStream, clock: Clock) -> None:
        """Say with which prompts and which weights the loop begins.

        TRL counts prompts by itself for that, in the order of the data set.
        """
        self.set_up(stream=stream, clock=clock, dataset_start_index=0, parent=os.getpid())

    def check_health(self, stale_after_s: float) -> None:
        # TRL asks this while the queue is empty. It looks for an exception of the loop and for a
        # loop that hangs; a process that was killed would look like one that hangs.
        process = self._process
        if self._failed_event.is_set():
            raise RolloutsFailed(f"the rollout process failed: {self._reason()}; {CONTINUES}")
        if process is not None and not process.is_alive():
            ended = _how_it_ended(process.exitcode)
            raise RolloutsFailed(f"the rollout process {ended}; {CONTINUES}")
        check_server(self.server)
        super().check_health(stale_after_s)

    def _reason(self) -> str:
        try:
            name, message, _ = self._exception_info_queue.get(timeout=1.0)
        except queue.Empty:
            return "its traceback is above"
        return one_line(message if name == "UserError" else f"{name}: {message}")

    def stop(self) -> None:
        # TRL sets an event that a thread of the loop waits for, and then waits for the completions
        # that are under way. Nothing of them is needed any more, and setting the event would hang
        # after the process was killed: a waiting process has to confirm it.
        process, self._process = self._process, None
        if process is not None and process.pid is not None:
            process.kill()
            process.join()


def check_server(address: str) -> None:
    """Raise `RolloutsFailed` if nothing listens at the address of the vLLM server any more."""
    try:
        requests.get(f"{address}/health", timeout=HEALTH_TIMEOUT_S)
    except requests.Timeout:  # it may be busy
        return
    except requests.ConnectionError as error:
        raise RolloutsFailed(
            f"the vLLM server at {address} does not answer any more: start it again; {CONTINUES}"
        ) from error


def run_loop(*, parent: int, **kwargs: Any) -> RolloutLoop:
    """The loop, in its own process: this ends with process `parent`, and leaves Ctrl-C to it."""
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before the line above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print_rollouts_visibly(async_rollout_worker)
    return RolloutLoop(**kwargs)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
