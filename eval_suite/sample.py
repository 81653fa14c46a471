"""Problems to samples: ``run.json``, ``problems.jsonl`` and ``samples.jsonl`` of a run's folder.

The unit of repeatability is a chunk: one problem and a range of sample indices, generated together from a
seed that only the run's seed, the problem's id and the range decide. A chunk whose rows are not all in the
file is generated anew as a whole, so a run that was killed ends with the rows of one that was not.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval_suite.backends import Backend, check_backend, load_backend
from eval_suite.benchmarks import check_names, check_shots, load_problems
from eval_suite.benchmarks.suites import named_benchmarks
from eval_suite.errors import UserError
from eval_suite.provenance import package_versions, source_commit, stable_hash
from eval_suite.records import (
    Problem,
    Sample,
    append_jsonl,
    drop_truncated_line,
    read_jsonl,
    write_atomic,
)

# What does not decide the samples: where they go, and where rows come from (the rows themselves are hashed).
_NOT_SETTINGS = ("out", "hub_mirror", "model", "benchmarks", "suite")


def _option(help_text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass
class SampleConfig:
    """Options of sampling. Lists are comma-separated strings, so that a flag and a YAML value read alike.

    Raises:
        UserError: a value out of range, an unknown benchmark or backend.
    """

    model: str = field(metadata={"help": "Folder of a saved model, or a model's id on the Hub."})
    benchmarks: str = _option("Benchmarks, separated by commas, such as gsm8k,math500.", "")
    suite: str | None = _option("In place of benchmarks: base, math, code, rl or all.")
    out: str = _option(
        "Folder of the run, where an unfinished one is continued; default: outputs/eval/ and the model's name.", ""
    )
    n: int = _option("Samples per problem.", 16)
    temperature: float = _option("Sampling temperature; 0 is greedy and needs n=1.", 0.7)
    top_p: float = _option("Nucleus sampling: the smallest set of tokens with this probability.", 0.95)
    max_new_tokens: int = _option("Most tokens of a completion; longer ones are cut and counted.", 1024)
    backend: str = _option("What generates: transformers.", "transformers")
    seed: int = _option("Seed of the run.", 0)
    limit: int | None = _option("Only the first so many problems of each benchmark.")
    hub_mirror: str | None = _option("Folder that holds the data sets, read in place of the Hub.")
    batch_size: int = _option("Samples of a problem generated together; part of what decides them.", 32)
    dtype: Literal["auto", "float32", "bfloat16"] = _option("Weights; auto is the checkpoint's.", "auto")
    chat_template: bool = _option(
        "Put each question into the tokenizer's chat template, without worked examples. Off by default even "
        "where there is a template: many base models ship one that they were not trained on.",
        False,
    )
    shots: int | None = _option("Worked examples in a base model's prompt; default: each benchmark's own number.")
    revision: str | None = _option("Branch, tag or commit of the model on the Hub.")

    def __post_init__(self) -> None:
        self.out = self.out or str(Path("outputs/eval") / Path(self.model).name)
        for name in ("n", "max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is out of range: use 1 or more")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit={self.limit} is out of range: use 1 or more, or leave it out")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature} is out of range: use 0 (greedy) or more")
        if self.temperature == 0 and self.n != 1:
            raise UserError(f"n={self.n} greedy samples are all the same: use n=1 with temperature=0")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} is out of range: use more than 0, at most 1")
        check_backend(self.backend)
        check_names(self.benchmark_names)
        check_shots(self.shots, self.chat_template)

    @property
    def benchmark_names(self) -> list[str]:
        return named_benchmarks(self.benchmarks, self.suite)


class Chunk(NamedTuple):
    """Samples [start, start + size) of one problem."""

    problem: Problem
    start: int
    size: int

    def seed(self, run_seed: int) -> int:
        """63 bits or fewer, the same on every machine."""
        return int(stable_hash([run_seed, self.problem.problem_id, self.start, self.size])[:15], 16)


def sample(config: SampleConfig, *, progress: bool = True) -> Path:
    """Generate what is missing of the run in ``config.out``, and return that folder.

    Raises:
        UserError: the folder holds a run with other settings, a prompt does not fit the model's context, or
            model or data cannot be found.
    """
    out = Path(config.out)
    problems = load_problems(
        config.benchmark_names,
        hub_mirror=config.hub_mirror,
        limit=config.limit,
        chat=config.chat_template,
        shots=config.shots,
    )
    backend = load_backend(config)
    _check_lengths(config, backend, problems)
    _open_run(out, _run_record(config, backend, problems), problems)
    samples_file = out / "samples.jsonl"
    done = _keep_complete_chunks(samples_file, config.n, config.batch_size)
    missing = [
        chunk
        for chunk in _chunks(problems, config.n, config.batch_size)
        if (chunk.problem.problem_id, chunk.start) not in done
    ]
    _generate_chunks(config, backend, missing, samples_file, len(problems) * config.n, progress)
    return out


def _chunks(problems: list[Problem], n: int, batch_size: int) -> Iterator[Chunk]:
    for problem in problems:
        for start in range(0, n, batch_size):
            yield Chunk(problem, start, min(batch_size, n - start))


def _check_lengths(config: SampleConfig, backend: Backend, problems: list[Problem]) -> None:
    """A prompt must fit, and its completion ends with the context: beyond it a model answers with noise."""
    context = backend.context_tokens()
    if context is None:
        return
    cut = 0
    for problem in problems:
        tokens = backend.prompt_tokens(problem.prompt)
        if tokens >= context:
            raise UserError(
                f"benchmarks={problem.benchmark!r}: the prompt of {problem.problem_id} has {tokens} tokens, which "
                f"leaves no room in the model's context of {context} tokens: leave this benchmark out, or use fewer "
                "--shots"
            )
        cut += tokens + config.max_new_tokens > context
    if cut:
        print(
            f"{cut} of {len(problems)} prompts leave less than max_new_tokens={config.max_new_tokens} in the model's "
            f"context of {context} tokens: their completions end there, counted as truncated",
            file=sys.stderr,
        )


def _run_record(config: SampleConfig, backend: Backend, problems: list[Problem]) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(config).items() if key not in _NOT_SETTINGS}
    task_hash = stable_hash([asdict(problem) for problem in problems])
    return {
        "model": config.model,
        "model_identity": backend.identity,
        "benchmarks": config.benchmark_names,
        "settings": settings,
        "task_hash": task_hash,
        "sampling_hash": stable_hash([backend.identity, task_hash, settings]),
        "device": backend.device,
        "versions": package_versions(),
        "commit": source_commit(),
    }


def _open_run(out: Path, record: dict[str, Any], problems: list[Problem]) -> None:
    """Begin a run, or make sure that the one in `out` is this one. Its first record stays."""
    run_file = out / "run.json"
    if run_file.exists():
        _check_same_run(out, json.loads(run_file.read_text(encoding="utf-8")), record)
        return
    if (out / "samples.jsonl").exists():
        raise UserError(f"out={str(out)!r} holds samples.jsonl but no run.json: choose another --out")
    rows = "".join(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
    write_atomic(out / "problems.jsonl", rows)
    write_atomic(run_file, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _check_same_run(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if old.get("sampling_hash") == new["sampling_hash"]:
        return
    old_settings = {"benchmarks": ",".join(old.get("benchmarks", [])), **old.get("settings", {})}
    new_settings = {"benchmarks": ",".join(new["benchmarks"]), **new["settings"]}
    for name, value in new_settings.items():
        if old_settings.get(name) != value:
            raise UserError(
                f"{name}={value!r}, but the run in {str(out)!r} has {old_settings.get(name)!r}: choose "
                "another --out, or go on with the run's own settings"
            )
    if old.get("model_identity") != new["model_identity"]:
        raise UserError(
            f"model={new['model']!r} is not the model that the run in {str(out)!r} began with "
            f"({old.get('model')!r}), or has changed since: choose another --out"
        )
    raise UserError(
        f"benchmarks={new_settings['benchmarks']!r}: problems or prompts are not those that the run in "
        f"{str(out)!r} began with: choose another --out"
    )


def _keep_complete_chunks(path: Path, n: int, batch_size: int) -> set[tuple[str, int]]:
    """Keys (problem id, start) of the chunks whose rows are all in `path`; rows of others are dropped."""
    if not path.exists():
        return set()
    drop_truncated_line(path)
    counts = Counter(_chunk_key(row, batch_size) for row in read_jsonl(path))
    complete = {key for key, count in counts.items() if count == min(batch_size, n - key[1])}
    if len(complete) < len(counts):
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            for row in read_jsonl(path):
                if _chunk_key(row, batch_size) in complete:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    return complete


def _chunk_key(row: dict[str, Any], batch_size: int) -> tuple[str, int]:
    return row["problem_id"], row["sample_index"] // batch_size * batch_size


def _generate_chunk(backend: Backend, chunk: Chunk, run_seed: int) -> list[Sample]:
    problem = chunk.problem
    completions = backend.generate(problem.prompt, chunk.size, chunk.seed(run_seed), problem.meta.get("stop", []))
    return [
        Sample(problem.problem_id, chunk.start + offset, done.text, done.finish_reason, done.tokens)
        for offset, done in enumerate(completions)
    ]


def _generate_chunks(
    config: SampleConfig,
    backend: Backend,
    chunks: list[Chunk],
    path: Path,
    total_samples: int,
    progress: bool,
) -> None:
    done_samples = total_samples - sum(chunk.size for chunk in chunks)
    tokens, began = 0, time.monotonic()
    with _progress_bar(progress) as bar:
        task = bar.add_task("sampling", total=total_samples, completed=done_samples, speed="")
        try:
            for chunk in chunks:
                samples = _generate_chunk(backend, chunk, config.seed)
                append_jsonl(path, samples)
                done_samples += chunk.size
                tokens += sum(sample.tokens for sample in samples)
                speed = f"{tokens / (time.monotonic() - began):,.0f} tokens/s"
                bar.update(task, completed=done_samples, speed=speed)
        except KeyboardInterrupt:
            bar.stop()
            done = f"{done_samples} of {total_samples} samples"
            print(f"stopped at {done}; the same command goes on from there", file=sys.stderr)
            raise


def _progress_bar(shown: bool) -> Progress:
    """A bar on standard error; nothing where that is not a terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not (shown and console.is_terminal),
    )
