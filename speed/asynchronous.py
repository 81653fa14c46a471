"""The asynchronous trainer beside the synchronous one at equal rollout tokens.

    python -m speed.asynchronous --out async-study    # 3 seeds of the demo's model: half an hour
    python -m speed.asynchronous --out async-real --model SMOLLM2 --steps 20

It needs vLLM, or its CPU build in the environment that runs it. For each seed there are two RLVR
runs from the same model, both with dynamic sampling: a synchronous one, and one with
`--asynchronous true` against a vLLM server on this machine, to which weights go through a folder.
The model is pre-trained as in the demo and learns running sums, or it is the folder of SmolLM2-135M
and learns the few-shot sums of `smollm2-135m/rlvr`. What is compared is the mean reward of all that
was sampled, by rollout tokens. The report also has the largest difference of log-probabilities
after a transfer. Finished runs are not repeated, and no times are compared: trainer and server
share the cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from shaped_eval.records import write_atomic

from shaped_trl.data import few_shot_sums, running_sums
from shaped_trl.training.log_reading import RL_LOG, read_log
from speed.dynamic_sampling import at, command, interval
from speed.servers import serving
from speed.training import origin

ADDRESS = "http://127.0.0.1:8741"
KINDS = ("synchronous", "asynchronous")
PARTS = 4  # of the rollout tokens, at whose ends rewards are compared
# what the asynchronous trainer needs, and what it has of both recipes
SETTINGS = {
    "asynchronous": "true",
    "token_budget": 0,
    "lr_scheduler_type": "constant_with_warmup",
    "gradient_checkpointing": "false",
    "use_cpu": "true",
    "logging_steps": 1,
    "weight_transfer": "folder",
    "vllm_server_base_url": ADDRESS,
}


class Task(NamedTuple):
    """A recipe of the synchronous trainer, and the same settings for the asynchronous one."""

    recipe: str
    settings: dict[str, Any]
    synchronous: dict[str, Any]  # beyond the recipe


DEMO = Task(
    "demo/rlvr",
    {
        "grader": "running_sums",
        "num_generations": 16,
        "per_device_train_batch_size": 128,
        "max_completion_length": 20,
        "max_inflight_tasks": 64,
        "learning_rate": "5.0e-4",
        "warmup_steps": 5,
        "save_steps": 30,
    },
    {},
)
SMOLLM2 = Task(
    "smollm2-135m/rlvr",
    {
        "grader": "text",
        "num_generations": 8,
        "per_device_train_batch_size": 64,
        "max_completion_length": 3,
        "max_inflight_tasks": 32,
        "learning_rate": "1.0e-5",
        "warmup_steps": 3,
        "save_steps": 10,
        "dtype": "float32",
    },
    {"dynamic_sampling": "true", "dtype": "float32"},
)


def words(settings: dict[str, Any]) -> list[str]:
    """The settings as words of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def run(out: Path, seed: int, steps: int, model: str) -> dict[str, Path]:
    """Train the missing models of one seed; return the folders of its two RLVR runs."""
    common = ["--seed", str(seed), "--report_to", "none", "--disable_tqdm", "true"]
    if model:
        task, base, data = SMOLLM2, model, out / f"seed{seed}" / "data"
        few_shot_sums.write_corpus(data, rl_rows=2_000, seed=seed)
    else:
        task, base, data = DEMO, str(out / f"seed{seed}" / "pretrain"), out / "data"
        pretrain(data, base, common)
    prompts = str(data / "rl_prompts.jsonl")
    start = ["--dataset_name", prompts, "--model_name_or_path", base, *common]
    start += ["--max_steps", str(steps)]
    folders = {kind: out / f"seed{seed}" / kind for kind in KINDS}
    recipe = ["rlvr", "--config", task.recipe, *words(task.synchronous)]
    if not any(folders["synchronous"].glob("*.safetensors")):
        command([*recipe, *start, "--output_dir", str(folders["synchronous"])])
    start += [*words(SETTINGS | task.settings), "--output_dir", str(folders["asynchronous"])]
    if not any(folders["asynchronous"].glob("*.safetensors")):
        serve = [sys.executable, "-m", "shaped_trl.cli", "rlvr", *start, "--serve", "true"]
        with serving(serve, ADDRESS, out / f"server-{seed}.log"):
            command(["rlvr", *start])
    return folders


def pretrain(data: Path, folder: str, common: list[str]) -> None:
    """Train the demo's model, if it is missing."""
    if not (data / "rl_prompts.jsonl").is_file():
        running_sums.write_corpus(data, train_rows=38_400)
    train, held_out = (str(data / f"{name}.jsonl") for name in ("train", "heldout"))
    sources = ["--dataset_name", train, "--dataset_test_split", held_out]
    command(["train", "--config", "demo/pretrain", *sources, "--output_dir", folder, *common])


def rewards(folder: Path) -> tuple[list[float], list[float]]:
    """Rollout tokens up to each row of a log, and the mean reward of what was sampled there."""
    rows = [row for row in read_log(folder / RL_LOG) if row.get("raw_reward") is not None]
    tokens = accumulate(row["rollout_tokens"] for row in rows)
    return list(tokens), [row["raw_reward"] for row in rows]


Curves = dict[int, dict[str, tuple[list[float], list[float]]]]


def table(curves: Curves, pairs: dict[int, dict[str, Path]]) -> str:
    """Markdown: rewards at equal rollout tokens, with paired differences, and other numbers."""
    ends = {seed: min(xs[-1] for xs, _ in pair.values()) for seed, pair in curves.items()}
    lines = ["| rollout tokens | synchronous | asynchronous | difference [95%] |", "|--|--|--|--|"]
    for part in range(1, PARTS + 1):
        found = {
            name: [_around(ends[seed] * part / PARTS, *pair[name]) for seed, pair in curves.items()]
            for name in KINDS
        }
        means = [interval(values)[0] for values in found.values()]
        apart = [b - a for a, b in zip(*found.values(), strict=True)]
        mean, low, high = interval(apart)
        tokens = sum(ends.values()) / len(ends) * part / PARTS
        lines.append(
            f"| {tokens:,.0f} | {means[0]:.3f} | {means[1]:.3f} "
            f"| {mean:+.3f} [{low:+.3f}, {high:+.3f}] |"
        )
    logs = [read_log(pair["asynchronous"] / RL_LOG) for pair in pairs.values()]
    rows = [row for log in logs for row in log if "logprob_difference/max" in row]
    worst = max(row["logprob_difference/max"] or 0.0 for row in rows)
    stalest = max(row["sample/staleness_max"] or 0 for row in rows)
    lines += ["", f"Largest difference of log-probabilities after a transfer: {worst:.2g}."]
    lines += [f"Most versions of weights between sampling and the queue's end: {stalest:.0f}."]
    return "\n".join(lines) + "\n"


def _around(tokens: float, xs: list[float], ys: list[float]) -> float:
    """The mean of the curve over the last tenth before `tokens`: a step's mean is noisy."""
    width = xs[-1] / 10
    grid = [tokens - width * i / 20 for i in range(21)]
    return sum(at(x, xs, ys) for x in grid) / len(grid)


def write_curves(curves: Curves, out: Path) -> None:
    """Write the curves as ``curves.csv``, and draw them with their running means, curves.png."""
    figure = Figure(figsize=(3.6 * len(curves), 3.2), layout="constrained")
    drawn = zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True)
    with open(out / "curves.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("seed", "trainer", "rollout_tokens", "raw_reward"))
        for axes, (seed, pair) in drawn:
            for kind, colour in zip(KINDS, ("#0072b2", "#d55e00"), strict=True):
                tokens, values = pair[kind]
                writer.writerows(
                    (seed, kind, int(x), f"{y:.4f}") for x, y in zip(tokens, values, strict=True)
                )
                axes.plot(tokens, values, ".", color=colour, alpha=0.35, markersize=3)
                ends = [x for x in tokens if x > tokens[-1] / 10]
                axes.plot(
                    ends, [_around(x, tokens, values) for x in ends], color=colour, label=kind
                )
            axes.set(title=f"seed {seed}", xlabel="rollout tokens", ylim=(0, 1))
            axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mean reward of what was sampled")
    figure.axes[0].legend()
    figure.savefig(out / "curves.png", dpi=90)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="async-study")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each run")
    parser.add_argument("--model", default="", help="folder of SmolLM2-135M [the demo's model]")
    args = parser.parse_args(argv)
    out = Path(args.out)
    pairs = {seed: run(out, seed, args.steps, args.model) for seed in range(args.seeds)}
    curves = {
        seed: {kind: rewards(folder) for kind, folder in pair.items()}
        for seed, pair in pairs.items()
    }
    text = table(curves, pairs)
    write_curves(curves, out)
    asked = f"python -m speed.asynchronous --seeds {args.seeds} --steps {args.steps}"
    asked += " --model SMOLLM2" if args.model else ""
    write_atomic(out / "table.md", text)
    write_atomic(out / "origin.json", json.dumps(origin(asked), indent=1) + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
