"""vLLM, started by this process, without a server.

It was run with vLLM's CPU build, 0.31. What needs several GPUs was not run.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from shaped_eval.backends.base import Completion, Completions, Request
from shaped_eval.backends.orphans import ended_with_this_process
from shaped_eval.backends.prompts import PromptEncoder
from shaped_eval.backends.static import local_device
from shaped_eval.errors import UserError

if TYPE_CHECKING:
    from shaped_eval.config import SampleConfig

# Samples that vLLM has at a time, of which it runs as many as fit: the others wait in its queue.
SAMPLES_IN_FLIGHT = 2048


class VLLMBackend:
    """vLLM's engine with `n` samples per request, on `vllm_tensor_parallel_size` GPUs.

    It is driven step by step, as `LLM.generate` does, so that each request is written when it ends.

    Prompts are tokenized here, as for the other backends. Explicit sampling parameters replace the
    model's own, of which only the end tokens are used. The weights have the dtype of the
    checkpoint, where vLLM's own default turns float32 into bfloat16. Each of several processes
    (`accelerate launch`) takes GPUs of its own. The engine's processes end with this one. They
    import the main module anew: a script of one's own starts under ``if __name__ == "__main__"``.
    """

    repeatability = (
        "best effort: a seed for each request, but what else is in the batch changes the arithmetic"
    )
    together = False

    def __init__(self, config: SampleConfig) -> None:
        if find_spec("vllm") is None:
            raise UserError("backend='vllm' needs the package vllm: pip install 'shaped-trl[vllm]'")
        self._config = config
        self._prompts = PromptEncoder(config)
        self.identity = self._prompts.identity
        self.dtype = self._prompts.dtype
        self.device = local_device(config.vllm_tensor_parallel_size)
        check_engine_arguments(config.engine_arguments())

    def prompt_tokens(self, prompt: str) -> int:
        return len(self._prompts.encode(prompt))

    def context_tokens(self) -> int | None:
        return self._config.vllm_max_model_len or self._prompts.context_tokens()

    def prepare(self) -> None:
        _ = self._engine

    @cached_property
    def _engine(self) -> Any:
        config = self._config
        if "LOCAL_RANK" in os.environ and self.device != "cpu":
            devices = visible_devices(os.environ, config.vllm_tensor_parallel_size)
            os.environ["CUDA_VISIBLE_DEVICES"] = devices
        # This process has threads by now, such as those of tokenizers: a fork of it may hang.
        os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        from vllm import LLM

        try:
            with ended_with_this_process():
                return LLM(**self._engine_settings())
        # pydantic's errors are ValueErrors
        except (ValueError, RuntimeError) as error:
            raise UserError(explained(error)) from error

    def _engine_settings(self) -> dict[str, Any]:
        """The arguments of `vllm.LLM`."""
        config = self._config
        settings: dict[str, Any] = {
            "model": config.model,
            "revision": config.revision,
            "tokenizer_revision": config.revision,
            "trust_remote_code": config.trust_remote_code,
            "dtype": self.dtype or config.dtype,
            "seed": config.seed,
            "tensor_parallel_size": config.vllm_tensor_parallel_size,
            "max_model_len": config.vllm_max_model_len,
        }
        if config.vllm_gpu_memory_utilization is not None:
            settings["gpu_memory_utilization"] = config.vllm_gpu_memory_utilization
        if self.device == "cpu":
            # vLLM 0.31 draws from a seeded generator there only for prompts that are not divided
            settings["enable_chunked_prefill"] = False
        return settings | config.engine_arguments()

    @property
    def samples_at_once(self) -> int:
        """The most samples that the engine decodes together."""
        return int(self._engine.llm_engine.vllm_config.scheduler_config.max_num_seqs)

    def complete(self, requests: Sequence[Request]) -> Completions:
        engine = self._engine.llm_engine
        waiting = deque(range(len(requests)))
        running: dict[str, int] = {}  # samples of the requests that the engine has, by their name
        try:
            while waiting or running:
                while waiting and sum(running.values()) < SAMPLES_IN_FLIGHT:
                    index = waiting.popleft()
                    running[str(index)] = requests[index].num_samples
                    engine.add_request(str(index), *self._question(requests[index]))
                for output in engine.step():
                    if output.finished:
                        del running[output.request_id]
                        samples = sorted(output.outputs, key=lambda sample: sample.index)
                        completions = [_completion(sample) for sample in samples]
                        yield int(output.request_id), completions
        finally:  # the caller may not want the rest
            if running:
                engine.abort_request(list(running))

    def _question(self, request: Request) -> tuple[dict[str, Any], Any]:
        """Prompt and parameters, as vLLM's engine takes them."""
        ids = self._prompts.encode(request.prompts[0])
        # without its type vLLM warns that it does not know the prompt to be tokenized
        return {"type": "token", "prompt_token_ids": ids}, self._parameters(request)

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        config = self._config
        temperature = 0.0 if request.greedy else config.temperature
        return SamplingParams(
            n=request.num_samples,
            temperature=temperature,
            top_p=config.top_p if temperature > 0 else 1.0,
            max_tokens=config.max_new_tokens,
            # Sample i is drawn with the seed + i. The seeds of requests are hashes, far apart.
            seed=request.seed,
            stop=list(request.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def check_engine_arguments(given: Mapping[str, Any]) -> None:
    """Raise UserError for an argument that the installed vLLM's engine does not have."""
    if not given:
        return
    from vllm.engine.arg_utils import EngineArgs

    known = [one.name for one in fields(EngineArgs)]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `vllm serve --help=all`"
            raise UserError(f"vllm_args: the installed vLLM has no argument {name!r}: {hint}")


def explained(error: Exception, length: str = "vllm_max_model_len") -> str:
    """One line on why vLLM's engine did not start, with the options that mend it.

    Args:
        error: what vLLM raised.
        length: the option that limits the context.
    """
    shorter = f"use a smaller --{length}"
    memory = f"{shorter}, or another --vllm_gpu_memory_utilization"
    # what a text of vLLM's contains -> what mends it; the first that is found counts
    remedies = {
        "memory": memory,
        "max_model_len": shorter,
        "initialization failed": (
            f"its log above names the cause; where memory is short, {memory}"
        ),
    }
    reason = " ".join(str(error).split())
    hint = next((f": {remedy}" for part, remedy in remedies.items() if part in reason), "")
    return f"vLLM does not start ({reason[:300]}){hint}"


def visible_devices(environment: Any, per_process: int) -> str:
    """``CUDA_VISIBLE_DEVICES`` for the process ``LOCAL_RANK``: its `per_process` visible GPUs.

    Raises:
        UserError: fewer GPUs are visible than the processes need.
    """
    import torch

    visible = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(
        map(str, range(torch.cuda.device_count()))
    )
    devices = [device for device in visible.split(",") if device]
    start = int(environment["LOCAL_RANK"]) * per_process
    own = devices[start : start + per_process]
    if len(own) < per_process:
        raise UserError(
            f"vllm_tensor_parallel_size={per_process}: {len(devices)} visible GPUs are not enough "
            f"for process {environment['LOCAL_RANK']} of this machine: start fewer processes"
        )
    return ",".join(own)


def _completion(sample: Any) -> Completion:
    if sample.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a sample with finish_reason={sample.finish_reason!r}")
    return Completion(sample.text, sample.finish_reason, len(sample.token_ids))
