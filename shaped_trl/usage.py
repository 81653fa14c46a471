"""What the `shaped-trl` command prints about itself, and how it reads its words."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Sequence

from shaped_eval.errors import UserError

USAGE = """\
usage: shaped-trl COMMAND [options]

Shape a language model's token distribution before reinforcement learning, and measure whether it paid.

  demo      the main job, end to end, on a CPU in minutes: shape, RLVR, evaluate, report
  train     pre-training or mid-training with a reward-shaped next-token loss
  rlvr      reinforcement learning with verifiable rewards (GRPO, clip-higher, dynamic sampling)
  eval      sample, grade and report in one
  sample    problems -> samples.jsonl      grade     samples -> verdicts.jsonl
  report    verdicts -> results.json, report.md, report.html (a study's folder: the study's report)
  compare   two runs on the same problems: paired differences, and which problems changed
  study     arms x stages -> runs -> one report
  recipes   list the shipped recipes, or copy one to edit it

`shaped-trl COMMAND --help` explains a command. A RECIPE is a YAML file or the name of a shipped recipe.
"""

TRAIN = """\
usage: shaped-trl train --config RECIPE [--shape PRESET] [--FIELD VALUE ...]

Pre- or mid-training with the reward-shaped next-token loss. The default shape is cross-entropy.
  shaped-trl train --config gsm8k/train --shape precision --output_dir outputs/precision
  shaped-trl train --config text/train --beta -0.25 --lambda_tail -0.1 --top_k 100
  ... --num_processes 8 --accelerate_config fsdp2   on 8 devices (ddp, fsdp2, zero3, tp, a file): recipes/README.md
PRESET: cross_entropy, precision, diversity (beta in the exponent form, the paper's Eq. 11), precision_product,
diversity_product (in the product form, this project's variant), tail_penalty, head_reward.
--dry_run prints parameters, tokens, steps, memory for --devices N and the first batch, and trains nothing.
Run it again on the same output_dir to continue an interrupted run.
"""

RLVR = """\
usage: shaped-trl rlvr --config RECIPE [--FIELD VALUE ...]

Reinforcement learning with verifiable rewards: TRL's GRPO with clip-higher, dynamic sampling, lengths by step, and a
detector that stops a run without a learning signal and names the cause.
  shaped-trl rlvr --config gsm8k/rlvr --model_name_or_path outputs/precision --output_dir outputs/rl
  ... --completion_length_schedule '{0: 8192, 700: 16384}'   longer completions from step 700 on
  ... --dynamic_sampling false                               what is left is TRL's GRPOTrainer, with clip-higher
  ... --audit_reward only                                    try blind answers, load no model, train nothing
  ... --num_processes 8                                      on 8 devices, started here
  ... --use_vllm true --vllm_mode colocate                   vLLM generates; --vllm_mode server: on other GPUs
Before the first step blind answers (nothing, 0, nan, the prompt, the most frequent gold, ...) are graded on 64
prompts. Where one passes on more than 30% (--audit_threshold) the run is refused: --audit_reward off|warn|refuse|only.
rl_log.jsonl and rl_log.png say what the rollouts were spent on; --log_completions true shows them with their verdicts.
Run it again on the same output_dir to continue an interrupted run.
"""

SAMPLE = """\
usage: shaped-trl {command} --model MODEL (--benchmarks A,B | --suite S) --out DIR [--FIELD VALUE ...]

{what}
  shaped-trl {command} --model Qwen/Qwen3-0.6B-Base --benchmarks gsm8k,math500 --n 16 --out outputs/eval
  accelerate launch --num_processes 8 -m shaped_trl.cli {command} ...    shares the run among 8 GPUs
Run it again on the same folder to continue an interrupted run. Options may stand in a YAML file: --config RECIPE.
"""


def take_config(argv: list[str], fallback: str | None = None) -> tuple[str | None, list[str]]:
    """Split `--config RECIPE` (or `--config=RECIPE`) off the arguments."""
    rest, config = [], fallback
    words = iter(argv)
    for word in words:
        if word == "--config":
            config = next(words, None)
            if config is None:
                raise UserError("--config needs the path or name of a recipe")
        elif word.startswith("--config="):
            config = word.partition("=")[2]
        else:
            rest.append(word)
    return config, rest


def print_help(text: str, own: Sequence[type], inherited: str = "") -> int:
    """Print what a command is for, then its own options with their defaults."""
    print(text)
    print("Options:")
    for option_class in own:
        bases = (
            {field.name for base in option_class.__mro__[1:] for field in _fields(base)}
            if inherited
            else set()
        )
        for field in dataclasses.fields(option_class):
            changed = field.name in inspect.get_annotations(option_class)
            if field.name in bases and not changed:
                continue
            default = "" if field.default in (None, dataclasses.MISSING) else f" [{field.default}]"
            print(f"  --{field.name:24} {field.metadata.get('help', '')}{default}")
    if inherited:
        print(f"\n{inherited}")
    return 0


def _fields(option_class: type) -> tuple:
    return dataclasses.fields(option_class) if dataclasses.is_dataclass(option_class) else ()


def wants_help(argv: Sequence[str]) -> bool:
    return not argv or "-h" in argv or "--help" in argv


def argparser(command: str, description: str) -> argparse.ArgumentParser:
    """Of one command; what it cannot read raises UserError."""
    parser = argparse.ArgumentParser(
        f"shaped-trl {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def refuse(message: str) -> None:
        raise UserError(f"{command}: {message}; see `shaped-trl {command} --help`")

    parser.error = refuse  # type: ignore[method-assign,assignment]
    return parser
