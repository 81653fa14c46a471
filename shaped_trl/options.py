"""The option classes of the commands that take a recipe. Each function imports what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from shaped_eval.errors import UserError

from shaped_trl.run_record import MAY_CHANGE


@dataclass
class GradeOptions:
    """Options of grading and reporting within `eval`."""

    pass_at: str | None = field(
        default=None,
        metadata={
            "help": "Values of k for pass@k and maj@k, separated by commas. By default the "
            "powers of two up to n, and n."
        },
    )
    num_workers: int | None = field(
        default=None,
        metadata={"help": "Number of grading processes. By default one for each core."},
    )
    allow_weak_sandbox: bool = field(
        default=False,
        metadata={"help": "Run generated code even if it cannot be confined on this machine."},
    )

    keep_reasoning: bool = field(
        default=False,
        metadata={
            "help": "Grade the text in <think> tags, too. By default it is dropped before grading."
        },
    )

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 1:
            raise UserError(
                f"num_workers={self.num_workers} must be at least 1; leave it out for one per core"
            )


def train_options() -> list[type]:
    from trl import ModelConfig

    from shaped_trl.data.corpora import CorpusArguments
    from shaped_trl.launch import LaunchArguments
    from shaped_trl.training.config import ShapedConfig
    from shaped_trl.training.dry_run import DryRunArguments
    from shaped_trl.training.evaluation import BenchmarkArguments

    return [
        CorpusArguments,
        ShapedConfig,
        ModelConfig,
        BenchmarkArguments,
        DryRunArguments,
        LaunchArguments,
    ]


@dataclass
class ModeArguments:
    """Which trainer `rlvr` uses."""

    asynchronous: bool = field(
        default=False,
        metadata={
            "help": "Train while a vLLM server generates (experimental). `--asynchronous true "
            "--help` shows the options."
        },
    )
    serve: Annotated[bool, MAY_CHANGE] = field(
        default=False,
        metadata={
            "help": "Start the vLLM server of this asynchronous run, with the options that the run "
            "needs, and do not train."
        },
    )


def rlvr_options(asynchronous: bool = False) -> list[type]:
    from trl import ModelConfig

    from shaped_trl.data.prompt_options import PromptArguments
    from shaped_trl.launch import LaunchArguments
    from shaped_trl.rlvr.config import RLVRConfig
    from shaped_trl.rlvr.dry_run import RLVRDryRunArguments
    from shaped_trl.rlvr.rewards import RewardArguments
    from shaped_trl.training.evaluation import BenchmarkArguments

    trainer_and_model: list[type] = [RLVRConfig, ModelConfig]
    if asynchronous:
        from shaped_trl.rlvr.asynchronous.config import AsyncModelConfig, AsyncRLVRConfig

        trainer_and_model = [AsyncRLVRConfig, AsyncModelConfig]
    return [
        PromptArguments,
        *trainer_and_model,
        RewardArguments,
        BenchmarkArguments,
        LaunchArguments,
        RLVRDryRunArguments,
        ModeArguments,
    ]


def rlvr_options_elsewhere(asynchronous: bool) -> dict[str, str]:
    """Options of the other trainer of `rlvr`, and what to say of them."""
    from shaped_trl.rlvr.asynchronous.config import only_asynchronous, only_synchronous

    return only_synchronous() if asynchronous else only_asynchronous()


def sample_options() -> list[type]:
    from shaped_eval.config import SampleConfig
    from shaped_eval.sampling.show import ShowOptions

    return [SampleConfig, ShowOptions]


def eval_options() -> list[type]:
    from shaped_eval.checkpoints import CheckpointOptions
    from shaped_eval.config import SampleConfig
    from shaped_eval.publish import PublishOptions
    from shaped_eval.sampling.dry_run import DryRunOptions

    return [SampleConfig, GradeOptions, CheckpointOptions, PublishOptions, DryRunOptions]
