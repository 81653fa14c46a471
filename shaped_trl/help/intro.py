"""What the commands that take a recipe are for: the beginning of their help pages.

A line that begins with two spaces is an example, and is printed as it is. All other lines are
wrapped to the terminal.
"""

from shaped_eval.benchmarks.registry import BENCHMARKS, ELSEWHERE, GENERATED

_RECIPE = (
    "A RECIPE is a YAML file of options, or the name of a shipped one; `shaped-trl recipes` lists "
    "these. An option on the command line overrides the recipe."
)
_LEGEND = (
    "A value in brackets is the default. BOOL is true or false, and such an option without a value "
    "means true."
)
_RESUME = (
    "An interrupted run continues from its last checkpoint when the command is repeated with the "
    "same output_dir."
)
_SAMPLING = (
    "An interrupted run continues when the command is repeated with the same folder. Options can "
    "also be written into a YAML file, which --config names."
)

_NAMES = f"Names of benchmarks: {', '.join([*BENCHMARKS, *GENERATED, *ELSEWHERE])}."

_TRAIN = f"""\
usage: shaped-trl train [--config RECIPE] [--OPTION VALUE ...]

Pre-train or mid-train a language model with the reward-shaped next-token loss of arXiv \
2512.22955, to which the numbers of equations refer. By default the loss is cross-entropy.

  shaped-trl train --model_name_or_path MODEL --dataset_name texts.jsonl --shape precision
  shaped-trl train --config gsm8k/train --shape precision
  shaped-trl train --config text/train --beta -0.25 --lambda_tail -0.1
  shaped-trl train --config paper/1b/pretrain --dry_run --devices 64
  shaped-trl train --config gsm8k/train --num_processes 8 --accelerate_config fsdp2

{_RECIPE} {_RESUME}

A row of data has a column text, or prompt and completion, or a chat in messages. Templates build \
these from other columns.

The options of TRL's SFTConfig and ModelConfig that are not listed here are accepted as well. \
`shaped-trl train --help all` lists them. {_LEGEND}
"""

_RLVR = f"""\
usage: shaped-trl rlvr [--config RECIPE] [--OPTION VALUE ...]

Train a language model by reinforcement learning with verifiable rewards. This is TRL's GRPO with \
clip-higher, dynamic sampling and a schedule of the completion length. A run without a learning \
signal stops and names the cause.

  shaped-trl rlvr --config gsm8k/rlvr --model_name_or_path outputs/precision
  shaped-trl rlvr --model_name_or_path MODEL --dataset_name prompts.jsonl --grader math
  shaped-trl rlvr --config gsm8k/rlvr --audit_reward only
  shaped-trl rlvr --config gsm8k/rlvr --completion_length_schedule '{{0: 256, 200: 512}}'
  shaped-trl rlvr --config gsm8k/rlvr --num_processes 8 --use_vllm true

{_RECIPE} {_RESUME}

A row of data has the columns prompt and gold, the right answer. Templates build these from other \
columns.

Before the first step the reward is audited. Blind answers, such as 0 or a copy of the prompt, are \
graded, and the run is refused if one of them passes too often. rl_log.jsonl and rl_log.png in \
output_dir show how many completions were trained on and how many were discarded.

The options of TRL's GRPOConfig and ModelConfig that are not listed here are accepted as well. \
`shaped-trl rlvr --help all` lists them. {_LEGEND}
"""

_RLVR_ASYNC = f"""\
usage: shaped-trl rlvr --asynchronous true [--config RECIPE] [--OPTION VALUE ...]

Train by reinforcement learning with verifiable rewards while a vLLM server generates. This is \
TRL's AsyncGRPOTrainer with dynamic sampling, clip-higher and a schedule of the completion length. \
It is experimental: options may change.

The server is started first, in another terminal, with the same recipe and options. It listens on \
this machine only, unless vllm_server_base_url names another address. Its endpoints for weights \
have no authentication: nobody else may reach them.

  shaped-trl rlvr --config qwen3-0.6b/rlvr-async --serve true
  shaped-trl rlvr --config qwen3-0.6b/rlvr-async

{_RECIPE} {_RESUME}

A row of data has the columns prompt and gold, the right answer. Templates build these from other \
columns. The reward is audited before the first step, as in `shaped-trl rlvr --help`.

The options of TRL's AsyncGRPOConfig and ModelConfig that are not listed here are accepted as \
well. `shaped-trl rlvr --asynchronous true --help all` lists them. {_LEGEND}
"""

_EVAL = f"""\
usage: shaped-trl eval --model MODEL --benchmarks A,B [--OPTION VALUE ...]

Evaluate a model: sample completions of benchmark problems, grade them, and report unbiased \
pass@k, avg@n and cons@n with intervals.

  shaped-trl eval --model Qwen/Qwen3-0.6B-Base --benchmarks gsm8k,math500 --n 16
  shaped-trl eval --model outputs/precision --suite math --n 16 --out outputs/eval
  shaped-trl eval --model outputs/precision --benchmarks gsm8k --every_checkpoint true
  accelerate launch --num_processes 8 -m shaped_trl.cli eval ...

The last example shares the samples among eight GPUs. {_SAMPLING}

{_NAMES}

{_LEGEND}
"""

_SAMPLE = f"""\
usage: shaped-trl sample --model MODEL --benchmarks A,B [--OPTION VALUE ...]

Sample completions of benchmark problems into the file samples.jsonl of a folder. `shaped-trl \
grade` and `shaped-trl report` go on from there; `shaped-trl eval` does all three.

  shaped-trl sample --model Qwen/Qwen3-0.6B-Base --benchmarks gsm8k,math500 --n 16
  shaped-trl sample --show gsm8k
  accelerate launch --num_processes 8 -m shaped_trl.cli sample ...

The second example prints the first prompt of a benchmark and samples nothing. The third shares \
the samples among eight GPUs. {_SAMPLING}

{_NAMES}

{_LEGEND}
"""

INTRO = {
    "train": _TRAIN,
    "rlvr": _RLVR,
    "rlvr-async": _RLVR_ASYNC,
    "eval": _EVAL,
    "sample": _SAMPLE,
}
