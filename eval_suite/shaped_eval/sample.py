"""From problems to samples: run.json, problems.jsonl and samples.jsonl in a run's folder.

The unit of repeatability is a chunk (`shaped_eval.sampling.chunks`): samples that are generated
together from a seed, which depends only on the run's seed, the problems' ids and the range. A chunk
with missing rows is generated again as a whole. A killed and resumed run therefore ends with the
same rows as an uninterrupted one, as far as the backend is repeatable.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from shaped_eval.backends import Backend, check_backend, load_backend
from shaped_eval.benchmarks import check_names, check_shots, load_problems, not_in_mirror
from shaped_eval.benchmarks.suites import named_benchmarks
from shaped_eval.errors import UserError
from shaped_eval.provenance import package_versions, source_commit, stable_hash
from shaped_eval.records import (
    Problem,
    append_jsonl,
    check_folder,
    drop_truncated_line,
    write_atomic,
)
from shaped_eval.reporting.outcomes import read_record
from shaped_eval.sampling.chunks import Chunk, collect, complete_chunks, plan_chunks, samples_file
from shaped_eval.sampling.fit import fit_problems
from shaped_eval.sampling.likelihood import (
    check_scoring,
    likelihoods_file,
    score_chunks,
    takes_turns,
)
from shaped_eval.sampling.processes import Processes
from shaped_eval.sampling.progress import RepetitionCheck, SamplingProgress

# Options that do not determine the samples: where they are written, where rows are read (the rows
# themselves are hashed), and the server or the number of devices.
_NOT_SETTINGS = (
    "out",
    "hub_mirror",
    "model",
    "benchmarks",
    "suite",
    "base_url",
    "concurrency",
    "tensor_parallel_size",
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
    benchmarks: str = _option("Benchmarks, separated by commas, such as gsm8k,math500.", "")
    suite: str | None = _option("In place of benchmarks: base, math, code, rl or all.")
    out: str = _option(
        "Folder of the run, where an unfinished one is continued; default: outputs/eval/ and the model's name.",
        "",
    )
    n: int = _option("Samples per problem.", 16)
    temperature: float = _option("Sampling temperature; 0 is greedy and needs n=1.", 0.7)
    top_p: float = _option(
        "Nucleus sampling: the smallest set of tokens with this probability.", 0.95
    )
    max_new_tokens: int = _option(
        "Most tokens of a completion; longer ones are cut and counted.", 1024
    )
    backend: str = _option(
        "What generates: transformers, vllm (in this process), or openai (any server that speaks its protocol).",
        "transformers",
    )
    seed: int = _option("Seed of the run.", 0)
    limit: int | None = _option("Only the first so many problems of each benchmark.")
    hub_mirror: str | None = _option("Folder that holds the data sets, read in place of the Hub.")
    batch_size: int = _option(
        "Samples generated together; with vllm and openai, samples asked for at once. Part of what decides them.",
        32,
    )
    dtype: Literal["auto", "float32", "bfloat16"] = _option(
        "Weights; auto is the checkpoint's.", "auto"
    )
    chat_template: bool = _option(
        "Put each question into the tokenizer's chat template, without worked examples. Off by default even "
        "where there is a template: many base models ship one that they were not trained on.",
        False,
    )
    shots: int | None = _option(
        "Worked examples in a base model's prompt; default: each benchmark's own number."
    )
    revision: str | None = _option("Branch, tag or commit of the model on the Hub.")
    trust_remote_code: bool = _option(
        "Run Python code that the model's repository brings. Without it such a model is refused.",
        False,
    )
    continuous_batching: bool = _option(
        "With transformers: a finished sample's place is taken by the next. Samples are then not repeatable.",
        False,
    )
    tensor_parallel_size: int = _option("With vllm: GPUs that hold one copy of the model.", 1)
    base_url: str = _option(
        "With openai: the server's address up to /v1. The key is read from OPENAI_API_KEY.", ""
    )
    concurrency: int = _option("With openai: requests under way at once.", 16)

    def __post_init__(self) -> None:
        self.out = self.out or str(Path("outputs/eval") / Path(self.model).name)
        for name in ("n", "max_new_tokens", "batch_size", "tensor_parallel_size", "concurrency"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is out of range: use 1 or more")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit={self.limit} is out of range: use 1 or more, or leave it out")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(
                f"temperature={self.temperature} is out of range: use 0 (greedy) or more"
            )
        if self.temperature == 0 and self.n != 1:
            raise UserError(
                f"n={self.n} greedy samples are all the same: use n=1 with temperature=0"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} is out of range: use more than 0, at most 1")
        check_backend(self.backend)
        self._check_backend_options()
        check_names(self.benchmark_names)
        check_shots(self.shots, self.chat_template)

    def _check_backend_options(self) -> None:
        for name, backend, default in (
            ("continuous_batching", "transformers", False),
            ("tensor_parallel_size", "vllm", 1),
            ("base_url", "openai", ""),
        ):
            if self.backend != backend and getattr(self, name) != default:
                raise UserError(
                    f"{name}={getattr(self, name)!r} has no meaning with backend={self.backend!r}: leave it out"
                )
        if self.backend != "openai":
            return
        if not self.base_url.startswith(("http://", "https://")):
            raise UserError(
                f"base_url={self.base_url!r} is no address: write it whole, such as http://localhost:8000/v1"
            )
        if "@" in self.base_url or "?" in self.base_url:
            raise UserError(
                "base_url holds a user, a password or a query, which run.json must not: use OPENAI_API_KEY"
            )

    @property
    def benchmark_names(self) -> list[str]:
        return named_benchmarks(self.benchmarks, self.suite)


def sample(
    config: SampleConfig,
    *,
    progress: bool = True,
    processes: Processes | None = None,
    backend: Backend | None = None,
) -> Path:
    """Generate what is missing of the run in ``config.out``, and return that folder.

    Args:
        config: the run.
        progress: show a bar, or lines where standard error is no terminal.
        processes: those that share the run, each calling this with the same `config`; none but this
            one.
        backend: what generates, such as a model in memory; None for the one that `config` names.

    Raises:
        UserError: the folder holds a run with other settings, a prompt does not fit the model's
            context, or model, data or server cannot be found; before anything is written.
    """
    processes = processes or Processes()
    processes.begin()
    if not processes.first:
        processes.wait("ready", range(1))  # the first one finds the user's errors, once
    out = Path(config.out)
    check_folder(out)
    names, left_out = _present(config, quiet=not processes.first)
    problems = load_problems(
        names,
        hub_mirror=config.hub_mirror,
        limit=config.limit,
        chat=config.chat_template,
        shots=config.shots,
    )
    check_scoring(config.backend, problems)
    backend = backend or load_backend(config)
    limits = (backend.context_tokens(), config.max_new_tokens)
    problems = fit_problems(problems, backend.prompt_tokens, *limits, quiet=not processes.first)
    prompt_tokens = _check_lengths(config, backend, problems, quiet=not processes.first)
    chunks = plan_chunks(
        problems, config.n, config.batch_size, prompt_tokens if backend.together else None
    )
    if processes.first:
        record = {
            **_run_record(config, backend, problems),
            "benchmarks": names,
            "left_out": left_out,
        }
        begun = _has_begun(out, record)
        done = collect(out, chunks, config.batch_size)
        if len(done) < len(chunks) and not takes_turns(config.backend, chunks, done):
            backend.prepare()
        if not begun:
            _begin(out, record, problems)
        processes.announce("ready")
    else:
        done = complete_chunks(out, chunks, config.batch_size)
    missing = [chunk for index, chunk in enumerate(chunks) if index not in done]
    share = missing[processes.rank :: processes.size]
    there = sum(map(len, chunks)) - sum(map(len, missing)) if processes.size == 1 else 0
    name = (
        "sampling"
        if processes.size == 1
        else f"sampling, process {processes.rank + 1} of {processes.size}"
    )
    with SamplingProgress(there + sum(map(len, share)), there, progress, name) as bar:
        path = samples_file(out, processes.rank, processes.size)
        drop_truncated_line(path)
        scored = [chunk for chunk in share if chunk.decoding == "likelihood"]
        for samples in score_chunks(
            config, backend, scored, likelihoods_file(out, processes.rank, processes.size)
        ):
            append_jsonl(path, samples)
            bar.advance(len(samples), 0)
        for decoding in ("greedy", None):
            chosen = [chunk for chunk in share if chunk.decoding == decoding]
            _generate(config, backend, chosen, path, bar)
    processes.announce("sampled")
    if processes.first:
        processes.wait("sampled", range(processes.size))
        if len(collect(out, chunks, config.batch_size)) < len(chunks):
            raise UserError(
                f"out={str(out)!r} lacks samples, as after two commands at once: repeat this one"
            )
    return out


def _present(config: SampleConfig, quiet: bool) -> tuple[list[str], list[str]]:
    """The run's benchmarks, and those of its suite that are left out because the mirror lacks them.

    Benchmarks that are named one by one must exist.
    """
    names = config.benchmark_names
    left_out = not_in_mirror(names, config.hub_mirror) if config.suite else []
    if len(left_out) == len(names):
        return names, []
    if left_out and not quiet:
        print(
            f"suite={config.suite!r}: the mirror has no data for {', '.join(left_out)}; they are "
            "left out, and averages are over the others",
            file=sys.stderr,
        )
    return [name for name in names if name not in left_out], left_out


def _generate(
    config: SampleConfig,
    backend: Backend,
    chunks: Sequence[Chunk],
    path: Path,
    bar: SamplingProgress,
) -> None:
    """Append the rows of `chunks` to `path`, each chunk in one write when it is done."""
    repetition = RepetitionCheck()
    requests = [chunk.request(config.seed) for chunk in chunks]
    with closing(backend.complete(requests)) as results:
        for index, completions in results:
            samples = chunks[index].samples(completions)
            append_jsonl(path, samples)
            bar.advance(len(samples), sum(sample.tokens for sample in samples))
            repetition.add(samples)
    if config.temperature > 0 and repetition.suspicious:
        print(
            f"all samples of each problem are the same at temperature={config.temperature}: check "
            f"that {config.backend} samples; some servers decode greedily unless the model's own "
            "generation settings enable sampling",
            file=sys.stderr,
        )


def _check_lengths(
    config: SampleConfig, backend: Backend, problems: list[Problem], quiet: bool
) -> dict[str, int]:
    """Length in tokens of each problem's prompt; empty where only a server knows the lengths.

    A prompt must fit in the context, and its completion ends with the context, because a model's
    output beyond it is noise.

    Raises:
        UserError: a prompt leaves no room for a completion.
    """
    problems = [problem for problem in problems if problem.meta.get("decoding") != "likelihood"]
    lengths = {problem.problem_id: backend.prompt_tokens(problem.prompt) for problem in problems}
    known = {key: tokens for key, tokens in lengths.items() if tokens is not None}
    context = backend.context_tokens()
    if context is None or not known:
        return known
    cut = 0
    for problem in problems:
        tokens = known[problem.problem_id]
        if tokens >= context:
            raise UserError(
                f"benchmarks={problem.benchmark!r}: the prompt of {problem.problem_id} has "
                f"{tokens} tokens, which leaves no room in the model's context of {context} "
                "tokens: leave this benchmark out, or use fewer --shots"
            )
        cut += tokens + config.max_new_tokens > context
    if cut and not quiet:
        print(
            f"{cut} of {len(problems)} prompts leave less than "
            f"max_new_tokens={config.max_new_tokens} in the model's context of {context} tokens: "
            "their completions end there and count as truncated",
            file=sys.stderr,
        )
    return known


def _run_record(config: SampleConfig, backend: Backend, problems: list[Problem]) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(config).items() if key not in _NOT_SETTINGS}
    if not config.trust_remote_code:
        del settings[
            "trust_remote_code"
        ]  # so that the hash equals that of runs made before this option existed
    task_hash = stable_hash([asdict(problem) for problem in problems])
    server = {"base_url": config.base_url} if config.base_url else {}
    return {
        "model": config.model,
        "model_identity": backend.identity,
        "settings": settings,
        "task_hash": task_hash,
        "sampling_hash": stable_hash([backend.identity, task_hash, settings]),
        "device": backend.device,
        "repeatability": backend.repeatability,
        **server,
        "versions": package_versions(*(["vllm"] if config.backend == "vllm" else [])),
        "commit": source_commit(),
    }


def _has_begun(out: Path, record: dict[str, Any]) -> bool:
    """Whether `out` already holds this run. Raises UserError if it holds another run."""
    run_file = out / "run.json"
    if run_file.exists():
        _check_same_run(out, read_record(out), record)
        return True
    if any(out.glob("samples*.jsonl")):
        raise UserError(
            f"out={str(out)!r} holds samples.jsonl but no run.json: choose another --out"
        )
    return False


def _begin(out: Path, record: dict[str, Any], problems: list[Problem]) -> None:
    """Write the run's problems and its record, which later commands do not change."""
    rows = "".join(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
    write_atomic(out / "problems.jsonl", rows)
    write_atomic(out / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _check_same_run(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if old.get("sampling_hash") == new["sampling_hash"]:
        return
    old_settings = {"benchmarks": ",".join(old.get("benchmarks", [])), **old.get("settings", {})}
    new_settings = {"benchmarks": ",".join(new["benchmarks"]), **new["settings"]}
    for name, value in new_settings.items():
        if old_settings.get(name) != value:
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
