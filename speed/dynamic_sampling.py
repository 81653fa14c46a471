"""Dynamic sampling on and off, at equal steps and at equal rollout tokens, on the demo's model.

    python -m speed.dynamic_sampling --out sampling-study    # 8 seeds: about 25 minutes on one core

For each seed, a model is pre-trained as in the demo, followed by two RLVR runs with the demo's
recipe: one with dynamic sampling, and one without it that has as many steps as it takes to sample
the tokens of the first. Learning rate and steps were chosen on a run without dynamic sampling and
with another RL seed, so that the score still rises at the end. Both runs are evaluated along the
way on the held-out problems, with 16 samples each at temperature 0.7 and top-p 0.95. Differences
are paired by seed, and intervals are Student's t at 95% over the seeds. Finished runs are not
repeated.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

from matplotlib.figure import Figure
from scipy import stats
from shaped_eval.records import write_atomic

from shaped_trl.cli import main as shaped_trl
from shaped_trl.data.running_sums import write_corpus
from shaped_trl.training.log_reading import RL_LOG, curve, read_log
from speed.training import origin

SCORE = "benchmark/running_sums/avg@16"
EVERY = 5  # optimizer steps between evaluations
EVALUATION = (
    "--eval_benchmarks",
    "running_sums",
    "--eval_benchmark_n",
    "16",
    "--eval_benchmark_max_new_tokens",
    "20",
)
LEARNING_RATE = "1e-4"
BLUE, ORANGE = "#0072B2", "#D55E00"


def run(out: Path, seed: int, steps: int) -> dict[str, Path]:
    """Train the missing models of one seed; return the folders of its two RLVR runs."""
    data, base = out / "data", out / f"seed{seed}" / "pretrain"
    if not (data / "rl_prompts.jsonl").is_file():
        write_corpus(data, train_rows=38_400)
    common = ["--seed", str(seed), "--report_to", "none"]
    files = {name: str(data / f"{name}.jsonl") for name in ("train", "heldout", "rl_prompts")}
    sources = ["--dataset_name", files["train"], "--dataset_test_split", files["heldout"]]
    command(["train", "--config", "demo/pretrain", *sources, "--output_dir", str(base), *common])
    folders = {}
    for name in ("on", "off"):
        folders[name] = folder = out / f"seed{seed}" / name
        length = steps
        if name == "off":  # long enough to sample the tokens of the other run
            sampled, _ = spent(folders["on"])
            per_step = _tokens_of_a_step(folders["on"])
            length = math.ceil(1.1 * sampled[-1] / per_step / EVERY) * EVERY
        settings = ["--dataset_name", files["rl_prompts"], "--model_name_or_path", str(base)]
        settings += ["--dynamic_sampling", str(name == "on"), "--max_steps", str(length)]
        settings += ["--learning_rate", LEARNING_RATE, "--disable_tqdm", "true"]
        settings += [*EVALUATION, "--eval_benchmark_steps", str(EVERY), "--on_no_signal", "warn"]
        command(["rlvr", "--config", "demo/rlvr", *settings, "--output_dir", str(folder), *common])
    return folders


def command(argv: list[str]) -> None:
    if shaped_trl(argv) != 0:
        raise SystemExit(f"shaped-trl {' '.join(argv)} failed")


def spent(folder: Path) -> tuple[list[float], list[float]]:
    """Rollout tokens up to each evaluation, and the scores there."""
    rows = read_log(folder / RL_LOG)
    tokens = dict(
        zip(
            [row["step"] for row in rows],
            accumulate(row.get("rollout_tokens") or 0.0 for row in rows),
            strict=True,
        )
    )
    steps, scores = curve(rows, SCORE)
    return [tokens[step] for step in steps], scores


def _tokens_of_a_step(folder: Path) -> float:
    """Rollout tokens of a step without refills, from the run's mean response length."""
    rows = [row for row in read_log(folder / RL_LOG) if row.get("groups_sampled")]
    completions = sum(row["groups_sampled"] for row in rows) * 16
    return 256 / 2 * sum(row["rollout_tokens"] for row in rows) / completions


def at(x: float, xs: list[float], ys: list[float]) -> float:
    """The value at `x` by linear interpolation between the points."""
    for (x0, y0), (x1, y1) in zip(
        zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False
    ):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / max(x1 - x0, 1e-9)
    return ys[-1] if x > xs[-1] else ys[0]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and Student's t interval at 95%."""
    mean = statistics.fmean(values)
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def compare(folders: dict[int, dict[str, Path]], steps: int) -> list[dict[str, float]]:
    """A row per seed: scores before and after RL, at equal steps and tokens, and tokens spent."""
    rows = []
    for seed, pair in folders.items():
        tokens, scores = spent(pair["on"])
        off_tokens, off_scores = spent(pair["off"])
        at_step = steps // EVERY
        rows.append(
            {
                "seed": seed,
                "before": scores[0],
                "on": scores[at_step],
                "off, equal steps": off_scores[at_step],
                "off, equal tokens": at(tokens[at_step], off_tokens, off_scores),
                "mean on, by tokens": _mean_until(tokens[at_step], tokens, scores),
                "mean off, by tokens": _mean_until(tokens[at_step], off_tokens, off_scores),
                "tokens on": tokens[at_step],
                "tokens off, equal steps": off_tokens[at_step],
                "steps off, equal tokens": at(tokens[at_step], off_tokens, _steps(off_scores)),
            }
        )
    return rows


def _steps(scores: list[float]) -> list[float]:
    return [float(EVERY * i) for i in range(len(scores))]


def _mean_until(end: float, xs: list[float], ys: list[float]) -> float:
    """The mean height of the curve from its start to `end`: the area under it."""
    grid = [xs[0] + (end - xs[0]) * i / 100 for i in range(101)]
    return statistics.fmean(at(x, xs, ys) for x in grid)


def table(rows: list[dict[str, float]]) -> str:
    """Markdown: means with intervals, and the paired differences on − off."""
    lines = ["| | mean over seeds [95%] |", "|---|---|"]
    for name in list(rows[0])[1:]:
        show: Callable[[float], str] = (
            (lambda v: f"{v:,.0f}") if "tokens o" in name or "steps off" in name else _three
        )
        mean, low, high = interval([row[name] for row in rows])
        lines.append(f"| {name} | {show(mean)} [{show(low)}, {show(high)}] |")
    pairs = {
        "at equal steps": ("on", "off, equal steps"),
        "at equal rollout tokens": ("on", "off, equal tokens"),
        "mean of the curve, by rollout tokens": ("mean on, by tokens", "mean off, by tokens"),
    }
    for name, (first, second) in pairs.items():
        mean, low, high = interval([row[first] - row[second] for row in rows])
        lines.append(f"| on − off, {name} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] |")
    return "\n".join(lines) + "\n"


def _three(value: float) -> str:
    return f"{value:.3f}"


def plot(folders: dict[int, dict[str, Path]], path: Path) -> None:
    """Plot the score over optimizer steps and over rollout tokens, one line per seed."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for number, pair in enumerate(folders.values()):
        for name, colour in (("on", BLUE), ("off", ORANGE)):
            tokens, scores = spent(pair[name])
            label = f"dynamic sampling {name}" if number == 0 else None
            look = {"color": colour, "linewidth": 1.2, "alpha": 0.8}
            axes[0].plot(_steps(scores), scores, label=label, **look)
            axes[1].plot([count / 1e3 for count in tokens], scores, **look)
    axes[0].set(xlabel="optimizer step", ylabel="avg@16")
    axes[1].set(xlabel="rollout tokens (thousands)")
    axes[0].legend(fontsize="small")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="sampling-study")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument(
        "--steps", type=int, default=40, help="optimizer steps with dynamic sampling"
    )
    args = parser.parse_args(argv)
    out = Path(args.out)
    folders = {seed: run(out, seed, args.steps) for seed in range(args.seeds)}
    rows = compare(folders, args.steps)
    with (out / "seeds.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    where = origin(f"python -m speed.dynamic_sampling --seeds {args.seeds} --steps {args.steps}")
    text = f"{table(rows)}\n{'; '.join(f'{name} {value}' for name, value in where.items())}\n"
    write_atomic(out / "table.md", text)
    plot(folders, out / "sampling.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
