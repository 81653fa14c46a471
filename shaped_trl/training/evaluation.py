"""Benchmarks during training: the evaluation suite grades samples from the model in memory.

    output_dir/_evaluations/step-500/   a run of the suite, which `shaped-trl report` reads
    the trainer's log                   benchmark/gsm8k/avg@4, pass@4, cons@4, truncated, unparsed,
                                        all from 0 to 1

Training continues bit for bit as it would without evaluations (`live.undisturbed`). One process
generates and grades while the others wait for it, so problems and samples have to be few enough for
`ddp_timeout`. Engines under which no process has the whole model are refused; the checkpoints of
such a run can be evaluated after training.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from accelerate.utils import broadcast_object_list
from shaped_eval.benchmarks.own import name_of
from shaped_eval.benchmarks.registry import check_names
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_run
from shaped_eval.report import report_run
from shaped_eval.reporting.outcomes import read_record
from shaped_eval.sample import sample
from transformers import Trainer, TrainerCallback

from shaped_trl.run_record import MAY_CHANGE
from shaped_trl.training.live import LiveBackend, base_model, undisturbed

# A run of the suite holds the gold answers, so it must not be pushed: a Trainer that pushes its
# output_dir leaves out names that begin with an underscore.
FOLDER = "_evaluations"
PREFIX = "benchmark/"


@dataclass
class BenchmarkArguments:
    """Benchmarks to run during `train` and `rlvr`, sampled at temperature 0.7 and top-p 0.95.

    Raises:
        UserError: a benchmark is unknown, or a number is out of range.
    """

    eval_benchmarks: Annotated[str | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "Benchmarks to run on the model during training, separated by commas: "
            "before the first step, every eval_benchmark_steps, and after the last "
            "step. Off by default.",
        },
    )
    eval_benchmark_steps: Annotated[int, MAY_CHANGE] = field(
        default=500,
        metadata={
            "help": "Number of optimizer steps between two evaluations on benchmarks.",
        },
    )
    eval_benchmark_n: Annotated[int, MAY_CHANGE] = field(
        default=4, metadata={"help": "Number of samples per problem."}
    )
    eval_benchmark_limit: Annotated[int | None, MAY_CHANGE] = field(
        default=None,
        metadata={
            "help": "Use only this many problems of each benchmark, from its beginning. By "
            "default all are used.",
        },
    )
    eval_benchmark_max_new_tokens: Annotated[int, MAY_CHANGE] = field(
        default=512,
        metadata={"help": "Maximum length of a completion in tokens."},
    )
    eval_benchmark_chat_template: Annotated[bool, MAY_CHANGE] = field(
        default=False,
        metadata={
            "help": "Put the questions into the tokenizer's chat template.",
        },
    )

    def __post_init__(self) -> None:
        if self.eval_benchmarks is None:
            return
        for name in ("steps", "n", "limit", "max_new_tokens"):
            value = getattr(self, f"eval_benchmark_{name}")
            if value is not None and value < 1:
                raise UserError(f"eval_benchmark_{name}={value} is out of range: use 1 or more")
        try:
            check_names([name.strip() for name in self.eval_benchmarks.split(",") if name.strip()])
        except UserError as error:
            raise UserError(f"eval_{error}") from error

    def sample_config(
        self, output_dir: str, step: int, hub_mirror: str | None, seed: int
    ) -> SampleConfig:
        """The suite's options for the evaluation of one step."""
        assert self.eval_benchmarks is not None
        return SampleConfig(
            model=f"{output_dir}, step {step}",
            benchmarks=self.eval_benchmarks,
            out=str(Path(output_dir) / FOLDER / f"step-{step}"),
            n=self.eval_benchmark_n,
            max_new_tokens=self.eval_benchmark_max_new_tokens,
            limit=self.eval_benchmark_limit,
            chat_template=self.eval_benchmark_chat_template,
            hub_mirror=hub_mirror,
            seed=seed,
        )


class BenchmarkCallback(TrainerCallback):
    """Evaluate `trainer.model` on benchmarks before, during and after training.

    Evaluations take place before the first step, every `eval_benchmark_steps`, and after the last
    step. Each is logged before the checkpoint of its step is written, so that a resumed run has it
    only once. An evaluation that was killed continues if the model has the same weights at that
    step again, and starts anew otherwise.

    Args:
        trainer: the trainer that the callback is added to.
        arguments: what to evaluate; `eval_benchmarks` must be set.
        hub_mirror: a folder in which benchmarks are looked up before the Hub.

    Raises:
        UserError: the engine shards the model, or its adapter cannot generate; at the first step,
            a benchmark was not found or its prompts do not fit into the model's context.
    """

    def __init__(
        self, trainer: Trainer, arguments: BenchmarkArguments, hub_mirror: str | None = None
    ) -> None:
        self.trainer = trainer
        self.arguments = arguments
        self.hub_mirror = hub_mirror
        _check_engine(trainer)
        self.model = base_model(trainer.model)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.evaluate()

    def on_step_end(self, args, state, control, **kwargs):
        if (
            state.global_step % self.arguments.eval_benchmark_steps == 0
            or state.global_step >= state.max_steps
        ):
            self.evaluate()

    def evaluate(self) -> dict[str, float]:
        """Evaluate the model as it is now, and log and return the numbers.

        All processes have to call this together.
        """
        trainer = self.trainer
        shared: list[Any] = [None, None]
        if trainer.is_world_process_zero():
            try:
                shared[0] = self._measure(trainer.state.global_step)
            except Exception as error:  # tell the other processes, which would wait forever
                shared[1] = f"{type(error).__name__}: {error}"
                broadcast_object_list(shared)
                raise
        broadcast_object_list(shared)
        numbers, failure = shared
        if failure is not None:
            raise RuntimeError(f"the evaluation failed in the first process: {failure}")
        training_is_logged_next = trainer.control.should_log
        # Our trainers' own `log` would end the interval over which training is averaged.
        Trainer.log(trainer, dict(numbers))
        trainer.control.should_log = training_is_logged_next
        return numbers

    def _measure(self, step: int) -> dict[str, float]:
        began = time.monotonic()
        args = self.trainer.args
        config = self.arguments.sample_config(args.output_dir, step, self.hub_mirror, args.seed)
        with undisturbed(self.model):
            backend = LiveBackend(config, self.model, self.trainer.processing_class)
            _drop_other(Path(config.out), backend.identity, config)
            folder = sample(config, progress=False, backend=backend)
            grade_run(folder, progress=False)
            results = report_run(folder)
        return {**_numbers(results), f"{PREFIX}runtime": round(time.monotonic() - began, 3)}


def add_benchmarks(
    trainer: Trainer, arguments: BenchmarkArguments | None, hub_mirror: str | None
) -> None:
    """Add a `BenchmarkCallback` if `eval_benchmarks` is set."""
    if arguments is not None and arguments.eval_benchmarks is not None:
        trainer.add_callback(BenchmarkCallback(trainer, arguments, hub_mirror))


def _numbers(results: dict[str, Any]) -> dict[str, float]:
    numbers = {}
    for benchmark, entry in results.items():
        n = entry["n"]
        for key in dict.fromkeys([f"avg@{n}", *([f"pass@{n}", f"cons@{n}"] if n > 1 else [])]):
            if key in entry["metrics"]:  # programs have no majority vote
                numbers[f"{PREFIX}{benchmark}/{key}"] = entry["metrics"][key]["value"]
        for rate in ("truncated", "unparsed"):
            numbers[f"{PREFIX}{benchmark}/{rate}"] = entry[rate]
    return numbers


def _drop_other(folder: Path, identity: str, config: SampleConfig) -> None:
    """Remove an earlier attempt at this step if it had other weights or settings."""
    record_file = folder / "run.json"
    if not record_file.is_file():
        return
    try:
        record = read_record(folder)
    except UserError:  # the record is damaged
        record = {"settings": {}}
    same = record.get("model_identity") == identity and record.get("benchmarks") == [
        name_of(name) for name in config.benchmark_names
    ]
    if not same or any(
        getattr(config, name, value) != value for name, value in record["settings"].items()
    ):
        shutil.rmtree(folder)


def _check_engine(trainer: Trainer) -> None:
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    parallelism = getattr(trainer.accelerator, "parallelism_config", None)
    engines = {
        "FSDP": trainer.is_fsdp_enabled,
        "DeepSpeed ZeRO-3": trainer.is_deepspeed_enabled
        and plugin is not None
        and plugin.zero_stage == 3,
        "tensor parallelism": trainer.get_tp_size() > 1,
        "context or sequence parallelism": parallelism is not None
        and (parallelism.cp_size > 1 or getattr(parallelism, "sp_size", 1) > 1),
    }
    engine = next((name for name, used in engines.items() if used), None)
    if engine is not None:
        raise UserError(
            f"eval_benchmarks is not supported with {engine}, where no process has the whole "
            "model: leave it out, and evaluate the checkpoints: shaped-trl eval "
            f"--model {trainer.args.output_dir} --every_checkpoint true"
        )
