"""vLLM in this process, offline.

Written against the documented interface of vLLM. It has not been run, because it needs a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from shaped_eval.backends.base import Completion, Completions, Request
from shaped_eval.backends.prompts import PromptEncoder
from shaped_eval.errors import UserError

if TYPE_CHECKING:
    from shaped_eval.config import SampleConfig

# Samples given to vLLM in one call. They are written when the call ends, so this is the most that a
# killed run can lose.
SAMPLES_PER_CALL = 2048


class VLLMBackend:
    """`vllm.LLM.generate` with `n` samples per request, on `tensor_parallel_size` GPUs.

    Prompts are tokenized here, as for the other backends. Explicit sampling parameters replace the
    model's own, of which only the end tokens are used. Each of several processes (`accelerate
    launch`) takes GPUs of its own.
    """

    repeatability = (
        "best effort: a seed for each request, but what else is in the batch changes the arithmetic"
    )
    together = False
    device = "cuda"

    def __init__(self, config: SampleConfig) -> None:
        if find_spec("vllm") is None:
            raise UserError("backend='vllm' needs the package vllm: pip install 'shaped-trl[vllm]'")
        self._config = config
        self._prompts = PromptEncoder(config)
        self.identity = self._prompts.identity

    def prompt_tokens(self, prompt: str) -> int:
        return len(self._prompts.encode(prompt))

    def context_tokens(self) -> int | None:
        return self._prompts.context_tokens()

    def prepare(self) -> None:
        _ = self._engine

    @cached_property
    def _engine(self) -> Any:
        config = self._config
        if "LOCAL_RANK" in os.environ:
            devices = visible_devices(os.environ, config.tensor_parallel_size)
            os.environ["CUDA_VISIBLE_DEVICES"] = devices
        from vllm import LLM

        return LLM(
            model=config.model,
            revision=config.revision,
            tokenizer_revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            dtype=config.dtype,
            seed=config.seed,
            tensor_parallel_size=config.tensor_parallel_size,
        )

    def complete(self, requests: Sequence[Request]) -> Completions:
        for indices in _calls(requests):
            outputs = self._engine.generate(
                [
                    {"prompt_token_ids": self._prompts.encode(requests[index].prompts[0])}
                    for index in indices
                ],
                [self._parameters(requests[index]) for index in indices],
                use_tqdm=False,
            )
            for index, output in zip(indices, outputs, strict=True):
                samples = sorted(output.outputs, key=lambda sample: sample.index)
                yield index, [_completion(sample) for sample in samples]

    def _parameters(self, request: Request) -> Any:
        from vllm import SamplingParams

        config = self._config
        temperature = 0.0 if request.greedy else config.temperature
        return SamplingParams(
            n=request.num_samples,
            temperature=temperature,
            top_p=config.top_p if temperature > 0 else 1.0,
            max_tokens=config.max_new_tokens,
            seed=request.seed,
            stop=list(request.stop),
        )


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
            f"tensor_parallel_size={per_process}: {len(devices)} visible GPUs are not enough for "
            f"process {environment['LOCAL_RANK']} of this machine: start fewer processes"
        )
    return ",".join(own)


def _calls(requests: Sequence[Request]) -> Iterator[list[int]]:
    """The indices of the requests, in order, in groups of about `SAMPLES_PER_CALL` samples."""
    group: list[int] = []
    samples = 0
    for index, request in enumerate(requests):
        group.append(index)
        samples += request.num_samples
        if samples >= SAMPLES_PER_CALL:
            yield group
            group = []
            samples = 0
    if group:
        yield group


def _completion(sample: Any) -> Completion:
    if sample.finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a sample with finish_reason={sample.finish_reason!r}")
    return Completion(sample.text, sample.finish_reason, len(sample.token_ids))
