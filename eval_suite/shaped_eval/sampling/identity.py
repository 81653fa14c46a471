"""What a run is, as run.json records it, and whether a folder already holds the same one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shaped_eval.backends import Backend
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.provenance import package_versions, source_commit, stable_hash
from shaped_eval.records import Problem, write_atomic
from shaped_eval.reporting.outcomes import read_record
from shaped_eval.sampling.chunks import Chunk, complete_chunks, num_samples

# Options that do not determine the samples: where they are written, where rows are read (the rows
# themselves are hashed), what is known of the model, and the server or the number of devices.
_NOT_SETTINGS = (
    "out",
    "hub_mirror",
    "model",
    "model_cutoff",
    "benchmarks",
    "suite",
    "base_url",
    "concurrency",
    "tensor_parallel_size",
    "vllm_tensor_parallel_size",
    "vllm_gpu_memory_utilization",
)
# Left out of the settings where they have their defaults, so that the hash equals that of runs made
# before these options existed.
_LATER_OPTIONS = {
    "trust_remote_code": False,
    "vllm_max_model_len": None,
    "vllm_args": None,
    "since": None,
}


def run_record(config: SampleConfig, backend: Backend, problems: list[Problem]) -> dict[str, Any]:
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in _NOT_SETTINGS and (key, value) not in _LATER_OPTIONS.items()
    }
    if (sampler := getattr(backend, "sampler", None)) is not None:
        settings["sampler"] = sampler
    task_hash = stable_hash([asdict(problem) for problem in problems])
    server = {"base_url": config.base_url} if config.base_url else {}
    return {
        "model": config.model,
        "model_identity": backend.identity,
        "settings": settings,
        "task_hash": task_hash,
        "sampling_hash": stable_hash([backend.identity, task_hash, settings]),
        "device": backend.device,
        # a backend of the user's own need not say
        "dtype": getattr(backend, "dtype", None),
        "repeatability": backend.repeatability,
        **server,
        **({"model_cutoff": config.model_cutoff} if config.model_cutoff else {}),
        "versions": package_versions(*(["vllm"] if config.backend == "vllm" else [])),
        "commit": source_commit(),
    }


def is_of_another_sampler(
    config: SampleConfig, problems: Sequence[Problem], record: dict[str, Any]
) -> bool:
    """Whether ``config.out`` holds this run, complete, with samples of another sampler's version.

    Raises:
        UserError: it is such a run, but not complete. This version would add other samples.
    """
    out = Path(config.out)
    if not (out / "run.json").exists():
        return False
    old, settings = read_record(out), dict(record["settings"])
    version, old_version = settings.pop("sampler", None), old["settings"].get("sampler")
    if version == old_version:
        return False
    if old_version is not None:
        settings["sampler"] = old_version
    elif config.fixed_batch_size is None:  # that version did not know `auto`
        settings["batch_size"] = old["settings"].get("batch_size")
    same = stable_hash([record["model_identity"], record["task_hash"], settings])
    if same != old.get("sampling_hash"):
        return False
    whole = [Chunk((problem,), 0, num_samples(problem, config.n)) for problem in problems]
    if len(complete_chunks(out, whole)) == len(whole):
        return True
    raise UserError(
        f"out={str(out)!r} was begun with version {old_version or 1} of the sampler, and "
        f"version {version} draws other samples: choose another --out, or report what is there "
        f"with `shaped-trl report {out} --interrupted`"
    )


def has_begun(out: Path, record: dict[str, Any]) -> bool:
    """Whether `out` already holds this run. Raises UserError if it holds another run."""
    run_file = out / "run.json"
    if run_file.exists():
        old = read_record(out)
        _check_same_run(out, old, record)
        # what is known of the model decides nothing about its samples, and may be added later
        if record.get("model_cutoff", old.get("model_cutoff")) != old.get("model_cutoff"):
            _write_record(out, {**old, "model_cutoff": record["model_cutoff"]})
        return True
    if any(out.glob("samples*.jsonl")):
        raise UserError(
            f"out={str(out)!r} holds samples.jsonl but no run.json: choose another --out"
        )
    return False


def begin(out: Path, record: dict[str, Any], problems: list[Problem]) -> None:
    """Write the run's problems and its record, which later commands do not change."""
    rows = "".join(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
    write_atomic(out / "problems.jsonl", rows)
    _write_record(out, record)


def _write_record(out: Path, record: dict[str, Any]) -> None:
    write_atomic(out / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _check_same_run(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if old.get("sampling_hash") == new["sampling_hash"]:
        return
    old_settings = {"benchmarks": ",".join(old.get("benchmarks", [])), **old.get("settings", {})}
    new_settings = {"benchmarks": ",".join(new["benchmarks"]), **new["settings"]}
    for name, value in new_settings.items():
        if name != "sampler" and old_settings.get(name) != value:
            raise UserError(
                f"{name}={value!r}, but the run in {str(out)!r} has {old_settings.get(name)!r}: "
                "choose another --out, or continue with the run's own settings"
            )
    if old.get("model_identity") != new["model_identity"]:
        raise UserError(
            f"model={new['model']!r} is not the model that the run in {str(out)!r} began with "
            f"({old.get('model')!r}), or it has changed since: choose another --out"
        )
    raise UserError(
        f"benchmarks={new_settings['benchmarks']!r}: the problems or prompts are not those that "
        f"the run in {str(out)!r} began with: choose another --out"
    )
