"""The asynchronous trainer beside the synchronous one at equal rollout tokens, on the demo's model.

    python -m speed.asynchronous --out async-study    # 3 seeds: about an hour on two cores

It needs vLLM, or its CPU build in the environment that runs it. For each seed, a model is
pre-trained as in the demo, followed by two RLVR runs of 60 steps from it, both with dynamic
sampling: `demo/rlvr`, and the same settings with `--asynchronous true` against a vLLM server on
this machine, to which weights go through a folder. What is compared is the mean reward of all that
was sampled, by rollout tokens. The report also has the largest difference of log-probabilities
after a transfer, and times, which are not compared: trainer and server share the cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import accumulate
from pathlib import Path

from shaped_eval.records import write_atomic

from shaped_trl.data.running_sums import write_corpus
from shaped_trl.training.log_reading import RL_LOG, read_log
from speed.dynamic_sampling import at, command, interval
from speed.servers import serving
from speed.training import origin

ADDRESS = "http://127.0.0.1:8741"
PARTS = 4  # of the rollout tokens, at whose ends rewards are compared
# of demo/rlvr, as far as the asynchronous trainer has them
SETTINGS = {
    "asynchronous": "true",
    "grader": "running_sums",
    "num_generations": 16,
    "per_device_train_batch_size": 128,
    "max_completion_length": 20,
    "max_inflight_tasks": 64,
    "token_budget": 0,
    "learning_rate": "5.0e-4",
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 5,
    "gradient_checkpointing": "false",
    "use_cpu": "true",
    "logging_steps": 1,
    "save_steps": 30,
    "weight_transfer": "folder",
    "vllm_server_base_url": ADDRESS,
}


def words(settings: dict[str, object]) -> list[str]:
    """The settings as words of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def run(out: Path, seed: int, steps: int) -> dict[str, Path]:
    """Train the missing models of one seed; return the folders of its two RLVR runs."""
    data, base = out / "data", out / f"seed{seed}" / "pretrain"
    if not (data / "rl_prompts.jsonl").is_file():
        write_corpus(data, train_rows=38_400)
    common = ["--seed", str(seed), "--report_to", "none", "--disable_tqdm", "true"]
    files = {name: str(data / f"{name}.jsonl") for name in ("train", "heldout", "rl_prompts")}
    sources = ["--dataset_name", files["train"], "--dataset_test_split", files["heldout"]]
    command(["train", "--config", "demo/pretrain", *sources, "--output_dir", str(base), *common])
    start = ["--dataset_name", files["rl_prompts"], "--model_name_or_path", str(base), *common]
    start += ["--max_steps", str(steps)]
    synchronous, asynchronous = (base.parent / name for name in ("synchronous", "asynchronous"))
    command(["rlvr", "--config", "demo/rlvr", *start, "--output_dir", str(synchronous)])
    start += [*words(SETTINGS), "--output_dir", str(asynchronous)]
    if not any(asynchronous.glob("*.safetensors")):
        serve = [sys.executable, "-m", "shaped_trl.cli", "rlvr", *start, "--serve", "true"]
        with serving(serve, ADDRESS, out / f"server-{seed}.log"):
            command(["rlvr", *start])
    return {"synchronous": synchronous, "asynchronous": asynchronous}


def rewards(folder: Path) -> tuple[list[float], list[float]]:
    """Rollout tokens up to each row of a log, and the mean reward of what was sampled there."""
    rows = [row for row in read_log(folder / RL_LOG) if row.get("raw_reward") is not None]
    tokens = accumulate(row["rollout_tokens"] for row in rows)
    return list(tokens), [row["raw_reward"] for row in rows]


def table(pairs: dict[int, dict[str, Path]]) -> str:
    """Markdown: rewards at equal rollout tokens, with paired differences, and other numbers."""
    curves = {
        seed: {name: rewards(folder) for name, folder in pair.items()}
        for seed, pair in pairs.items()
    }
    ends = {seed: min(xs[-1] for xs, _ in pair.values()) for seed, pair in curves.items()}
    lines = ["| rollout tokens | synchronous | asynchronous | difference [95%] |", "|--|--|--|--|"]
    for part in range(1, PARTS + 1):
        found = {
            name: [_around(ends[seed] * part / PARTS, *pair[name]) for seed, pair in curves.items()]
            for name in ("synchronous", "asynchronous")
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="async-study")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each run")
    args = parser.parse_args(argv)
    out = Path(args.out)
    pairs = {seed: run(out, seed, args.steps) for seed in range(args.seeds)}
    text = table(pairs)
    asked = f"python -m speed.asynchronous --seeds {args.seeds} --steps {args.steps}"
    write_atomic(out / "table.md", text)
    write_atomic(out / "origin.json", json.dumps(origin(asked), indent=1) + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
