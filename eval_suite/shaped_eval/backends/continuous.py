"""Continuous batching of transformers: when a sample ends, the next one takes its place at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from shaped_eval.backends.base import Completion, Completions, Request
from shaped_eval.backends.static import TransformersBackend, is_out_of_memory, tail_tokens
from shaped_eval.errors import UserError

SAMPLES_IN_FLIGHT = 256
# Stop strings are searched for every so many tokens, because decoding is costly. What is generated
# beyond a stop string is dropped.
CHECK_TOKENS = 8
# Without these the library would take nine tenths of a CPU machine's memory for its cache.
PAGE_TOKENS = 64
CPU_BATCH_TOKENS = 2048


@dataclass
class _Unit:
    """A request in progress: `done[i]` is its i-th sample, or None until that has ended."""

    request: Request
    prompt_ids: list[int]
    room: int
    done: list[Completion | None] = field(default_factory=list)


class ContinuousBackend(TransformersBackend):
    """`ContinuousBatchingManager` of transformers, with the settings of `TransformersBackend`.

    All samples are drawn from one stream in the order in which the scheduler processes them, which
    depends on timing. The library does not support stop strings, so this class searches for them
    and cancels the request.

    This backend is meant for GPUs, where it has not been measured. On one CPU core, with lengths
    from 1 to 128 tokens (mean 55), it takes 1.05 times (hidden size 64) to 1.7 times (hidden size
    256) the processor time of static batches of 32. With half as many samples per batch it takes
    0.7 times. Measured with torch 2.13 and transformers 5.23.
    """

    repeatability = (
        "best effort: one seed, but which samples share a batch, and in which order, depends on "
        "timing"
    )
    together = False
    sampler = None

    @cached_property
    def _sampling_settings(self) -> Any:
        if self._config.temperature == 0:
            return self._settings
        sampling = {"temperature": self._config.temperature, "top_p": self._config.top_p}
        # the library's own top_k is 50
        return self._make_settings({"do_sample": True, "top_k": 0, **sampling})

    def complete(self, requests: Sequence[Request]) -> Completions:
        import torch

        if not requests:
            return
        settings = self._settings if requests[0].greedy else self._sampling_settings
        options = self._options(requests)
        state = torch.get_rng_state()
        try:
            with self._model.continuous_batching_context_manager(
                generation_config=settings, continuous_batching_config=options
            ) as manager:
                yield from _Feed(self, manager, requests).run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"continuous_batching=True does not fit in the memory of {self.device}: leave it "
                "out"
            ) from error
        finally:
            torch.set_rng_state(state)

    def _options(self, requests: Sequence[Request]) -> Any:
        """The library's options, with the seed of the first request.

        A resumed run must not repeat the stream of the run before it, so the run's seed does not
        do.
        """
        from transformers import ContinuousBatchingConfig

        options: dict[str, Any] = {"seed": requests[0].seed}
        if self.device == "cpu":
            prompt_tokens = max(
                self.prompt_tokens(prompt) for prompt in {r.prompts[0] for r in requests}
            )
            samples = min(SAMPLES_IN_FLIGHT, sum(request.num_samples for request in requests))
            pages = math.ceil((prompt_tokens + self._room(prompt_tokens)) / PAGE_TOKENS)
            options |= {"page_size": PAGE_TOKENS, "num_blocks": samples * (pages + 1)}
            options |= {"max_batch_tokens": CPU_BATCH_TOKENS}
        return ContinuousBatchingConfig(**options)


class _Feed:
    """Keeps `SAMPLES_IN_FLIGHT` samples in progress, and yields each request when it is done."""

    def __init__(
        self, backend: ContinuousBackend, manager: Any, requests: Sequence[Request]
    ) -> None:
        self._backend = backend
        self._manager = manager
        self._waiting = iter(enumerate(requests))
        self._units: dict[int, _Unit] = {}
        # id -> request, sample, tokens searched so far
        self._samples: dict[str, tuple[int, int, int]] = {}

    def run(self) -> Completions:
        try:
            yield from self._results()
        finally:
            # after an error or Ctrl-C the library would otherwise complete them
            for name in self._samples:
                self._manager.cancel_request(name)

    def _results(self) -> Completions:
        self._fill()
        while self._samples:
            output = self._manager.get_result(timeout=1)
            if output is None:
                if not self._manager.is_running():
                    raise RuntimeError(
                        "continuous batching ended before its samples were done; see the log above"
                    )
                continue
            place = self._samples.get(output.request_id)
            if place is None:  # it was cancelled, but one more token arrived
                continue
            if output.error is not None:
                raise RuntimeError(f"continuous batching failed: {output.error}")
            completion = self._completion(output, place)
            if completion is None:
                continue
            del self._samples[output.request_id]
            index, sample, _ = place
            unit = self._units[index]
            unit.done[sample] = completion
            done = [one for one in unit.done if one is not None]
            if len(done) == len(unit.done):
                del self._units[index]
                yield index, done
            self._fill()

    def _fill(self) -> None:
        while (
            len(self._samples) < SAMPLES_IN_FLIGHT
            and (item := next(self._waiting, None)) is not None
        ):
            index, request = item
            ids = self._backend._prompts.encode(request.prompts[0])
            room = self._backend._room(len(ids))
            self._units[index] = _Unit(request, ids, room, [None] * request.num_samples)
            for sample in range(request.num_samples):
                name = f"{index}.{sample}"
                self._samples[name] = (index, sample, 0)
                self._manager.add_request(
                    ids,
                    request_id=name,
                    max_new_tokens=room,
                    streaming=bool(request.stop),
                    eos_token_id=self._backend._settings.eos_token_id,
                )

    def _completion(self, output: Any, place: tuple[int, int, int]) -> Completion | None:
        """The sample if it has ended, else None."""
        index, sample, searched = place
        unit = self._units[index]
        ids = output.generated_tokens
        stop = unit.request.stop
        finished = output.is_finished()
        if not finished and len(ids) < searched + CHECK_TOKENS:
            return None
        stop_length = find_stop(self._backend._tokenizer, ids, stop, searched)
        if stop_length is None and not finished:
            self._samples[output.request_id] = (index, sample, len(ids))
            return None
        if not finished:
            self._manager.cancel_request(output.request_id)
        return self._backend._completion(unit.prompt_ids, ids[: unit.room], stop_length, stop)


def find_stop(tokenizer: Any, ids: Sequence[int], stop: Sequence[str], searched: int) -> int | None:
    """The smallest number of tokens, above `searched`, that contain a stop string; or None."""
    tail = tail_tokens(stop)

    def shows(start: int, end: int) -> bool:
        text = tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
        return any(string in text for string in stop)

    if not stop or not shows(max(0, searched + 1 - tail), len(ids)):
        return None
    ends = range(searched + 1, len(ids) + 1)
    return next((end for end in ends if shows(max(0, end - tail), end)), None)
