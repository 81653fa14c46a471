"""`shaped-trl rlvr --dry_run`: what a run would do, and how long it would take, from its own steps.

The first steps are taken in a temporary folder, and nothing of them is kept.
"""

from __future__ import annotations

import copy
import math
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from shaped_eval.errors import UserError
from shaped_eval.sampling.progress import duration
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import ModelConfig

from shaped_trl.data.prompt_options import PromptArguments
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.rewards import RewardArguments
from shaped_trl.rlvr.run import build_trainer


@dataclass
class RLVRDryRunArguments:
    """The option for a look at a run before it starts."""

    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Print the number of prompts, completions and tokens, the memory, and the time "
            "estimated from a few steps. Nothing is kept."
        },
    )


def dry_run(
    prompts: PromptArguments, args: RLVRConfig, model_args: ModelConfig, rewards: RewardArguments
) -> Iterator[str]:
    """The plan of a run, line by line.

    Raises:
        UserError: as the run itself, before it trains.
    """
    if args.world_size > 1:
        raise UserError(
            "dry_run=True times one process: start it without a launcher, and divide the time by "
            "what the other devices add"
        )
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(prompts, _short(args, folder), model_args, rewards)
        steps, batches = _steps(args, trainer)
        per_batch = args.generation_batch_size
        yield f"model        {model_args.model_name_or_path}, on {trainer.accelerator.device}"
        yield (
            f"prompts      {len(trainer.train_dataset):,}; a generation batch has "
            f"{per_batch // args.num_generations:,} with {args.num_generations} completions each"
        )
        replaced = ", and more to replace groups" if args.dynamic_sampling else ""
        yield (
            f"steps        {steps:,}, with {_counted(batches, 'generation batch', 'es')} of "
            f"{per_batch:,} completions{replaced}"
        )
        most = batches * per_batch * args.max_completion_length
        yield f"tokens       {most:,} at most in completions that are trained on"
        clock = _Clock()
        for kind in (ProgressCallback, PrinterCallback):
            trainer.pop_callback(kind)
        trainer.add_callback(clock)
        trainer.train()
    yield _memory_line(trainer.accelerator.device)
    yield _time_line(clock, args, steps)


def _short(args: RLVRConfig, folder: str) -> RLVRConfig:
    """The arguments of a run of a few generation batches that keeps and reports nothing."""
    short = copy.copy(args)
    short.output_dir = folder
    short.max_steps = 2 * _timed_steps(args)  # the first ones warm up
    short.logging_steps = 1
    short.save_strategy = "no"
    short.eval_strategy = "no"
    short.report_to = []
    short.push_to_hub = False
    short.resume_from_checkpoint = None
    return short


def _timed_steps(args: RLVRConfig) -> int:
    """The steps that one generation batch serves, or one step that several of them serve."""
    return max(1, round(args.generation_period_steps))


def _steps(args: RLVRConfig, trainer: Any) -> tuple[int, int]:
    """Optimizer steps and generation batches of the whole run."""
    period = args.generation_period_steps
    if args.max_steps > 0:
        return args.max_steps, math.ceil(args.max_steps / period)
    prompts = args.generation_batch_size // args.num_generations
    batches = int(len(trainer.train_dataset) * args.num_train_epochs / prompts)
    return int(batches * period), batches


class _Clock(TrainerCallback):
    """The moment at which each step ends, and the logs of the steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.logs: list[dict[str, float]] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.monotonic())

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.logs.append(dict(logs))


def _memory_line(device: torch.device) -> str:
    if device.type == "cpu":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return f"memory       {peak / 2**30:.2f} GiB at most so far, of this process"
    peak = torch.accelerator.max_memory_allocated(device)
    return f"memory       {peak / 2**30:.2f} GiB at most so far, on {device}"


def _time_line(clock: _Clock, args: RLVRConfig, steps: int) -> str:
    timed = len(clock.ends) - _timed_steps(args)
    if timed < 1:
        raise UserError(
            "dry_run=True: training ended before a step could be timed; see the lines above"
        )
    seconds = (clock.ends[-1] - clock.ends[-1 - timed]) / timed
    lengths = [row["completion_length"] for row in clock.logs if "completion_length" in row]
    length = sum(lengths) / len(lengths)
    return (
        f"time         about {duration(seconds * steps)}, at {seconds:,.1f} s a step; completions "
        f"had {length:,.0f} tokens on average, and longer ones take longer"
    )


def _counted(count: int, what: str, plural: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else plural}"
