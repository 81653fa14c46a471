"""What a run of the suite is asked to do: the options of sampling."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shaped_eval.benchmarks.loading import is_stored
from shaped_eval.benchmarks.own import chat_of
from shaped_eval.benchmarks.registry import (
    check_at_hand,
    check_names,
    check_shots,
    check_since,
    day,
)
from shaped_eval.benchmarks.suites import named_benchmarks
from shaped_eval.benchmarks.terms import MANY_SAMPLES, SAMPLES, SMALL_SET, samples_by_default
from shaped_eval.errors import UserError
from shaped_eval.untrusted.own_code import installed, is_path, load_own

BACKENDS = ("transformers", "vllm", "openai")
ENTRY_POINTS = "shaped_trl.backends"
AUTO = "auto"
# Samples that other backends than transformers are asked for at once, and options that are scored
# together, unless `batch_size` says another number.
ASKED_TOGETHER = 32
VLLM_DEFAULTS: dict[str, Any] = {
    "vllm_tensor_parallel_size": 1,
    "vllm_max_model_len": None,
    "vllm_gpu_memory_utilization": None,
    "vllm_args": None,
}
# vLLM raises lower ones to the first number, and refuses higher ones.
VLLM_TEMPERATURES = (0.01, 2.0)


def check_backend(name: str) -> None:
    """Raise UserError for a backend that does not exist, or a path without one."""
    if name not in BACKENDS:
        own_backend(name)


def own_backend(name: str) -> Callable[[SampleConfig], Any]:
    """The class of a backend that is not in `BACKENDS`.

    Args:
        name: an entry point of the group `ENTRY_POINTS`, or the path ``package.module:Class`` that
            the user typed.

    Raises:
        UserError: there is no such backend.
    """
    points = installed(ENTRY_POINTS)
    if name in points:
        return load_own("backend", points[name].value)
    if is_path(name):
        return load_own("backend", name)
    raise UserError(
        f"backend={name!r} is not available: use {' or '.join([*BACKENDS, *points])}, or one of "
        "your own by its path, package.module:Class"
    )


def _own_option(argument: str) -> str | None:
    """The option that stands for an argument of vLLM's engine."""
    own = ("model", "revision", "trust_remote_code", "dtype", "seed")
    if f"vllm_{argument}" in VLLM_DEFAULTS:
        return f"vllm_{argument}"
    return {"tokenizer": "model", "tokenizer_revision": "revision"}.get(
        argument, argument if argument in own else None
    )


def _option(help_text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass
class SampleConfig:
    """Options of sampling. Lists are comma-separated strings, so that a flag and a YAML value read
    alike.

    Raises:
        UserError: a value out of range, an unknown benchmark or backend.
    """

    model: str = field(metadata={"help": "Folder of a saved model, or a model's id on the Hub."})
    benchmarks: str = _option(
        "Benchmarks, separated by commas: names, such as gsm8k,math500, and paths of your own "
        "files, such as ./mine.yaml or ./mine.jsonl.",
        "",
    )
    suite: str | None = _option(
        "A group of benchmarks in place of --benchmarks: base (the paper's 19), "
        "math, code, rl, math2026, modern or all."
    )
    out: str = _option(
        "Folder of the run. An unfinished run there is continued. By default "
        "outputs/eval/NAME, where NAME is the last part of --model.",
        "",
    )
    n: int = _option(
        f"Number of samples per problem. By default {MANY_SAMPLES} if one of the benchmarks has "
        f"fewer than {SMALL_SET} problems, and otherwise {SAMPLES}. It is 1 with --temperature 0."
    )
    temperature: float = _option("Sampling temperature. 0 is greedy decoding.", 0.7)
    top_p: float = _option(
        "Nucleus sampling: sample from the smallest set of tokens that has this probability.", 0.95
    )
    max_new_tokens: int = _option(
        "Maximum length of a completion in tokens. Longer ones are cut, and counted as truncated.",
        1024,
    )
    backend: str = _option(
        "What generates: transformers, vllm (started by this command), openai (any server "
        "that speaks its protocol), or a class of your own, package.module:Class.",
        "transformers",
    )
    seed: int = _option("Seed of the run.", 0)
    limit: int | None = _option(
        "Use only this many problems of each benchmark, from its beginning. By default all are "
        "used."
    )
    since: str | None = _option(
        "Use only problems that were published on this day or later, such as 2025-01-31. For "
        "livecodebench; benchmarks without dates keep all problems."
    )
    model_cutoff: str | None = _option(
        "Last day of the model's training data, such as 2024-12-31. The report then says how many "
        "problems were published before."
    )
    hub_mirror: str | None = _option(
        "Folder of data sets, which is read before the Hub. It holds files "
        "<id>/<config>/<split>.jsonl."
    )
    batch_size: str = _option(
        "Number of samples that are generated together. auto finds it from the free memory, and "
        f"is {ASKED_TOGETHER} with other backends than transformers, which are asked for that "
        "many at once.",
        AUTO,
    )
    dtype: Literal["auto", "float32", "bfloat16"] = _option(
        "Type of the weights. auto is the type of the checkpoint.", "auto"
    )
    chat_template: bool = _option(
        "Put each question into the tokenizer's chat template, without worked "
        "examples. Off by default, since many base models ship a template that they "
        "were not trained on.",
        False,
    )
    shots: int | None = _option(
        "Number of worked examples in a base model's prompt. By default each "
        "benchmark has its own number."
    )
    revision: str | None = _option("Branch, tag or commit of the model on the Hub.")
    trust_remote_code: bool = _option(
        "Run Python code from the model's repository. Without this option, a model "
        "that needs such code is refused.",
        False,
    )
    continuous_batching: bool = _option(
        "With transformers: start the next sample as soon as one is finished. The "
        "samples are not repeatable then.",
        False,
    )
    vllm_tensor_parallel_size: int = _option(
        "With vllm: number of GPUs that hold one copy of the model.", 1
    )
    vllm_max_model_len: int | None = _option(
        "With vllm: longest prompt and completion together, in tokens. By default the model's "
        "context."
    )
    vllm_gpu_memory_utilization: float | None = _option(
        "With vllm: share of a GPU's memory that it may use. By default vLLM's own."
    )
    vllm_args: dict | str | None = field(
        default=None,
        metadata={
            "help": "With vllm: further arguments of its engine as JSON, such as "
            "'{\"enable_prefix_caching\": false}'."
        },
    )
    tensor_parallel_size: int | None = _option("The old name of vllm_tensor_parallel_size.")
    base_url: str = _option(
        "With openai: address of the server, up to /v1, such as http://localhost:8000/v1. The key "
        "is read from the environment variable OPENAI_API_KEY.",
        "",
    )
    concurrency: int = _option("With openai: number of requests at the same time.", 16)

    def __post_init__(self) -> None:
        self.out = self.out or str(Path("outputs/eval") / Path(self.model).name)
        if self.tensor_parallel_size is not None:
            self.vllm_tensor_parallel_size = self.tensor_parallel_size
            self.tensor_parallel_size = None
        for name in ("since", "model_cutoff"):
            if (given := getattr(self, name)) is not None:  # in YAML, it is a date
                setattr(self, name, day(name, str(given)))
        if self.n is None:
            self.n = 1 if self.temperature == 0 else samples_by_default(self.benchmark_names)
        self._read_batch_size()
        for name in ("n", "max_new_tokens", "concurrency"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is out of range: use 1 or more")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit={self.limit} is out of range: use 1 or more, or leave it out")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"temperature={self.temperature} is out of range: use 0 (greedy) or more"
            )
        if self.temperature == 0 and self.n != 1:
            print(
                f"n={self.n} greedy samples are all the same: temperature=0 makes it n=1",
                file=sys.stderr,
            )
            self.n = 1
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} is out of range: use more than 0, at most 1")
        check_backend(self.backend)
        self._check_backend_options()
        if not is_stored(self.out, self.benchmark_names):
            check_names(self.benchmark_names)
            check_since(self.since, self.benchmark_names)
            if self.suite is None:  # a suite goes without what is not at hand
                check_at_hand(self.benchmark_names)
            self.chat_template = chat_of(self.benchmark_names, self.chat_template)
        check_shots(self.shots, self.chat_template)

    def _read_batch_size(self) -> None:
        """Make `batch_size` a number, except for the backend that finds it.

        The command line reads it as a text. run.json has a number, as it always had.
        """
        given = str(self.batch_size)
        finds_it = self.backend == "transformers" and not self.continuous_batching
        if given == AUTO and not finds_it:
            self.batch_size = ASKED_TOGETHER  # type: ignore[assignment]
        elif given != AUTO:
            if not (given.isascii() and given.isdecimal() and int(given) > 0):
                raise UserError(f"batch_size={given} is out of range: use 1 or more, or {AUTO}")
            self.batch_size = int(given)  # type: ignore[assignment]

    @property
    def fixed_batch_size(self) -> int | None:
        """The number that `batch_size` says; None where it is found from the memory."""
        return None if self.batch_size == AUTO else int(self.batch_size)

    def _check_backend_options(self) -> None:
        for name, backend, default in (
            ("continuous_batching", "transformers", False),
            *((name, "vllm", default) for name, default in VLLM_DEFAULTS.items()),
            ("base_url", "openai", ""),
        ):
            if self.backend != backend and getattr(self, name) != default:
                raise UserError(
                    f"{name}={getattr(self, name)!r} has no meaning with "
                    f"backend={self.backend!r}: leave it out"
                )
        if self.backend == "vllm":
            self._check_vllm()
        if self.backend == "openai":
            self._check_server()

    def _check_vllm(self) -> None:
        for name in ("vllm_tensor_parallel_size", "vllm_max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} is out of range: use 1 or more")
        share = self.vllm_gpu_memory_utilization
        if share is not None and not 0 < share <= 1:
            raise UserError(
                f"vllm_gpu_memory_utilization={share} is out of range: use more than 0, at most 1"
            )
        coldest, hottest = VLLM_TEMPERATURES
        if self.temperature != 0 and not coldest <= self.temperature <= hottest:
            raise UserError(
                f"temperature={self.temperature} is outside of what vLLM samples with: use 0 "
                f"(greedy), or {coldest} to {hottest}"
            )
        if self.vllm_args is None:
            return
        given = self.engine_arguments()
        for name in given:
            if option := _own_option(name):
                raise UserError(f"vllm_args: {name!r} has an option of its own: use --{option}")
        # equal arguments are one setting, however they are written
        self.vllm_args = json.dumps(given, sort_keys=True)

    def engine_arguments(self) -> dict[str, Any]:
        """What `vllm_args` gives, by the names of vLLM's `EngineArgs`.

        Raises:
            UserError: it is not a JSON object.
        """
        given = self.vllm_args or {}
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError as error:
                raise UserError(f"vllm_args={given!r} is not JSON: {error}") from error
        if not isinstance(given, dict):
            raise UserError(
                f"vllm_args={given!r} is not a JSON object, such as "
                '{"enable_prefix_caching": false}'
            )
        return given

    def _check_server(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise UserError(
                f"base_url={self.base_url!r} is not an address: give the whole of it, such as "
                "http://localhost:8000/v1"
            )
        if "@" in self.base_url or "?" in self.base_url:
            raise UserError(
                "base_url holds a user, a password or a query, which must not be written into "
                "run.json: use OPENAI_API_KEY"
            )

    @property
    def benchmark_names(self) -> list[str]:
        return named_benchmarks(self.benchmarks, self.suite)
