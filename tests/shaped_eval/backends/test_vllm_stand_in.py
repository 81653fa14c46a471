"""The vllm backend against a stand-in for vLLM's engine, which `test_vllm.py` runs itself."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from shaped_eval.backends.vllm import visible_devices
from shaped_eval.errors import UserError
from shaped_eval.records import Sample, read_jsonl
from shaped_eval.sample import sample
from tiny_eval import NUM_PROBLEMS


@dataclass
class Parameters:
    """The used part of vLLM's SamplingParams."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = 16
    seed: int | None = None
    stop: list[str] | None = None
    output_kind: str = "cumulative"


@dataclass
class Output:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None


@dataclass
class Result:
    """The used part of vLLM's RequestOutput."""

    request_id: str
    finished: bool = False
    outputs: list[Output] = field(default_factory=list)


class Engine:
    """The used part of vLLM's LLM and of its engine: requests and samples end in any order."""

    made: list[dict[str, Any]] = []
    given: list[Parameters] = []
    running: dict[str, tuple[dict[str, Any], Parameters]] = {}
    most = 0
    vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=4))

    def __init__(
        self,
        model: str,
        *,
        revision,
        tokenizer_revision,
        trust_remote_code,
        dtype,
        seed,
        tensor_parallel_size,
        max_model_len,
        **others,
    ) -> None:
        assert trust_remote_code is False
        self.made.append(
            {
                "model": model,
                "tensor_parallel_size": tensor_parallel_size,
                "dtype": dtype,
                "max_model_len": max_model_len,
                **others,
            }
        )
        self.llm_engine = self

    def add_request(self, request_id, prompt, parameters):
        assert request_id not in self.running
        self.running[request_id] = prompt, parameters
        self.given.append(parameters)
        Engine.most = max(self.most, sum(one.n for _, one in self.running.values()))

    def step(self):
        """The request that came last ends first; another one is under way."""
        other, (name, (prompt, parameters)) = Result("0"), self.running.popitem()
        done = Result(name, finished=True)
        text = f"{prompt['prompt_token_ids'][1]}-{parameters.seed}"
        done.outputs = [
            Output(i, f"{text}-{i}", [1] * (i + 1), "length" if i else "stop")
            for i in reversed(range(parameters.n))
        ]
        return [other, done]

    def abort_request(self, request_ids):
        for name in request_ids:
            del self.running[name]


@pytest.fixture
def stand_in(monkeypatch) -> type[Engine]:
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM, module.SamplingParams = Engine, Parameters
    parameters = ModuleType("vllm.sampling_params")
    parameters.RequestOutputKind = SimpleNamespace(FINAL_ONLY="final")
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)
    for name, empty in {"made": [], "given": [], "running": {}, "most": 0}.items():
        monkeypatch.setattr(Engine, name, empty)
    return Engine


def test_vllm_is_called_as_documented(make_config, model_folder, stand_in, monkeypatch):
    """A stand-in has the interface of vLLM, which `test_vllm.py` runs itself."""
    monkeypatch.setattr("shaped_eval.backends.vllm.SAMPLES_IN_FLIGHT", 7)
    folder = sample(make_config(backend="vllm", vllm_tensor_parallel_size=2))
    assert stand_in.made == [
        {
            "model": str(model_folder),
            "tensor_parallel_size": 2,
            "dtype": "float32",
            "max_model_len": None,
            "enable_chunked_prefill": False,
        }
    ], "the checkpoint's dtype, and no options but those that are needed on a CPU"
    assert sum(parameters.n for parameters in stand_in.given) == 5 * NUM_PROBLEMS
    assert 7 <= stand_in.most < 9, "samples in flight"
    given = stand_in.given[0]
    assert given.output_kind == "final"
    assert (given.n, given.temperature, given.top_p, given.max_tokens, given.stop) == (
        2,
        1.0,
        0.95,
        12,
        ["\nQuestion:"],
    )
    seeds = [parameters.seed for parameters in stand_in.given]
    assert len(set(seeds)) == len(seeds)
    samples = read_jsonl(folder / "samples.jsonl", Sample)
    (one,) = [s for s in samples if (s.problem_id, s.sample_index) == ("gsm8k/0", 3)]
    assert one.completion.endswith("-1"), "samples stand in the order of their index"
    assert (one.finish_reason, one.tokens) == ("length", 2)
    record = json.loads((folder / "run.json").read_text())
    assert record["repeatability"].startswith("best effort")
    assert "vllm" in record["versions"]


def test_vllm_unfinished_samples_are_no_samples(make_config, stand_in, monkeypatch):
    original, names = Engine.step, []

    def third_is_aborted(self):
        results = original(self)
        names.append(results[-1].request_id)
        if len(names) == 3:
            results[-1].outputs[0].finish_reason = "abort"
        return results

    monkeypatch.setattr(Engine, "step", third_is_aborted)
    config = make_config(backend="vllm")
    with pytest.raises(RuntimeError, match="finish_reason='abort'"):
        sample(config)
    assert not stand_in.running, "the engine still works on requests that nobody waits for"
    written = read_jsonl(Path(config.out) / "samples.jsonl", Sample)
    assert len(list(written)) == sum(one.n for one in stand_in.given[-2:])


def test_without_vllm_the_error_says_what_to_install(make_config):
    with pytest.raises(
        UserError, match=r"needs the package vllm: pip install 'shaped-trl\[vllm\]'"
    ):
        sample(make_config(backend="vllm"))


def test_each_process_takes_its_own_gpus():
    visible = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
    assert visible_devices({**visible, "LOCAL_RANK": "0"}, 2) == "4,5"
    assert visible_devices({**visible, "LOCAL_RANK": "1"}, 2) == "6,7"
    with pytest.raises(
        UserError, match=r"vllm_tensor_parallel_size=2: 4 visible GPUs are not enough for process 2"
    ):
        visible_devices({**visible, "LOCAL_RANK": "2"}, 2)
