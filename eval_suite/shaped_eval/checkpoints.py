"""Evaluates every checkpoint of a training run, and reports the metrics over the steps.

    DIR/checkpoint-500/ …   a run of the suite for each checkpoint
    DIR/final/              the run of the saved model, if it is not that of the last checkpoint
    DIR/steps.jsonl         {"step", "checkpoint", "benchmark", "metric", "value", "low", "high",
                            "sampling_se", "n", "problems", "truncated", "unparsed"},
                            values in 0–1
    DIR/report.md, report.html, *.png     the same as tables and curves

Checkpoints that training has since deleted stay in the report as long as their runs exist.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_run
from shaped_eval.records import write_atomic
from shaped_eval.reporting.document import Block, Heading, Image, Table, Text, to_html, to_markdown
from shaped_eval.reporting.outcomes import read_record
from shaped_eval.reporting.tables import percent
from shaped_eval.sample import sample
from shaped_eval.sampling.processes import Processes
from shaped_eval.untrusted.files import file_name
from shaped_eval.untrusted.pretrained import is_adapter, model_fingerprint
from shaped_eval.untrusted.rows import check_field, is_count, read_object

FINAL = "final"
STATE = "trainer_state.json"
READING = (
    "Percentages with 95% intervals over problems. Every step is measured on the same problems, "
    "so neighbouring steps differ by less than their intervals suggest; `shaped-trl compare` "
    "pairs them over problems."
)


@dataclass
class CheckpointOptions:
    """Which models of a training run are evaluated."""

    every_checkpoint: bool = field(
        default=False,
        metadata={
            "help": "Evaluate every checkpoint of a training run, and draw the metrics over the "
            "steps. --model is then the output_dir of that run."
        },
    )


def find_checkpoints(output_dir: str | Path) -> dict[str, Path]:
    """Name of the run → model folder, by step: complete checkpoints, and the final model.

    They may be adapters.

    The final model is left out if it equals the last checkpoint.

    Raises:
        UserError: `output_dir` is not a folder, or holds no complete checkpoint.
    """
    root = Path(output_dir)
    if not root.is_dir():
        raise UserError(
            f"model={str(output_dir)!r} is not a folder: every_checkpoint needs a training run's "
            "output_dir"
        )
    folders = [
        path for path in root.glob("checkpoint-*") if path.name.partition("-")[2].isdecimal()
    ]
    # The Trainer writes its state last: a checkpoint without it is incomplete.
    complete = [path for path in folders if (path / STATE).is_file() and _is_model(path)]
    found = {path.name: path for path in sorted(complete, key=lambda path: _step(path.name))}
    if not found:
        why = "keep some with save_steps and save_total_limit"
        if any(map(_is_model, folders)):
            why = f"the checkpoints there have no {STATE}, which the trainer writes last"
        raise UserError(
            f"model={str(output_dir)!r} holds no checkpoint-<step> with a complete model: {why}"
        )
    last = next(reversed(found.values()))
    if _is_model(root) and model_fingerprint(root) != model_fingerprint(last):
        found[FINAL] = root
    return found


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or is_adapter(folder)


def evaluate_checkpoints(
    config: SampleConfig,
    pass_at: Sequence[int] | None = None,
    *,
    num_workers: int | None = None,
    keep_reasoning: bool = False,
    processes: Processes | None = None,
) -> Path:
    """Evaluate every checkpoint of the training run ``config.model`` into ``config.out``.

    An interrupted evaluation continues, and checkpoints that were written since the last evaluation
    are added.

    Args:
        config: its `model` is the output_dir of the training run.
        pass_at: the k of pass@k; None for powers of two.
        num_workers, keep_reasoning: as in `grade_run`.
        processes: the processes that share the sampling, as in `sample`; the first one grades and
            reports.

    Returns:
        The folder ``config.out``.

    Raises:
        UserError: there are no checkpoints, or as in `sample`, `grade_run` and `report_run`.
    """
    from shaped_eval.report import report_run

    processes = processes or Processes()
    out = Path(config.out)
    found = find_checkpoints(config.model)
    for number, (name, model) in enumerate(found.items(), 1):
        if processes.first:
            print(f"{name} ({number} of {len(found)})", file=sys.stderr)
        folder = sample(replace(config, model=str(model), out=str(out / name)), processes=processes)
        if processes.first:
            grade_run(folder, num_workers=num_workers, keep_reasoning=keep_reasoning)
            report_run(folder, pass_at)
    if not processes.first:
        return out
    _write_report(out, config.model, _runs(out, next(iter(found))), found)
    return out


def _runs(out: Path, reference: str) -> dict[str, Path]:
    """The reported runs in `out` that have the settings of `reference`, by step."""
    expected = read_record(out / reference)
    runs = {}
    for path in out.iterdir():
        if (path.name == FINAL or path.name.startswith("checkpoint-")) and (
            path / "results.json"
        ).is_file():
            record = read_record(path)
            if _alike(record["settings"]) == _alike(expected["settings"]) and all(
                record.get(key) == expected.get(key) for key in ("benchmarks", "task_hash")
            ):
                runs[path.name] = path
    return dict(sorted(runs.items(), key=lambda one: _step(one[0])))


def _alike(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that runs of one report share; versions of the sampler may differ."""
    return {key: value for key, value in settings.items() if key not in ("sampler", "batch_size")}


def _step(name: str) -> float:
    """The step in a checkpoint's name; the final model comes last."""
    return float("inf") if name == FINAL else int(name.partition("-")[2])


def _final_step(found: Mapping[str, Path]) -> int:
    """The step at which training ends, according to the last checkpoint."""
    last = [path for name, path in found.items() if name != FINAL][-1]
    state = read_object(last / STATE, _check_steps)
    return max(state["max_steps"], state["global_step"])


def _check_steps(state: dict[str, Any]) -> None:
    for name in ("max_steps", "global_step"):
        check_field(name, state.get(name), is_count, "a number of steps")


def _rows(runs: Mapping[str, Path], found: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    for name, path in runs.items():
        step = _final_step(found) if name == FINAL else int(_step(name))
        for benchmark, entry in read_object(path / "results.json").items():
            about = {key: entry[key] for key in ("n", "problems", "truncated", "unparsed")}
            for metric, numbers in entry["metrics"].items():
                yield {
                    "step": step,
                    "checkpoint": name,
                    "benchmark": benchmark,
                    "metric": metric,
                    **numbers,
                    **about,
                }


def _write_report(
    out: Path, model: str, runs: Mapping[str, Path], found: Mapping[str, Path]
) -> None:
    from shaped_eval.reporting.plots import plot_over_steps, to_png

    rows = list(_rows(runs, found))
    blocks: list[Block] = [Text(READING)]
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        mine = [row for row in rows if row["benchmark"] == benchmark]
        metrics = list(dict.fromkeys(row["metric"] for row in mine))
        curves = {
            metric: [row for row in mine if row["metric"] == metric]
            for metric in metrics
            if metric != "pass@1"
        }
        png = to_png(plot_over_steps(benchmark, curves))
        image = Image(
            f"steps_{file_name(benchmark)}.png",
            f"{benchmark} over the steps of training; bands: 95% intervals",
            png,
        )
        write_atomic(out / image.path, png)
        caption = f"{benchmark}: {mine[0]['problems']} problems, n = {mine[0]['n']}"
        table = Table(
            caption, ["step", *metrics, "truncated", "unparsed"], list(_table(mine, metrics))
        )
        blocks += [Heading(benchmark), image, table]
    title = f"Checkpoints of {model}"
    write_atomic(
        out / "steps.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    write_atomic(out / "report.html", to_html(title, blocks))
    text = to_markdown(title, blocks)
    write_atomic(out / "report.md", text)
    print(text)


def _table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Iterator[list[str]]:
    for name in dict.fromkeys(row["checkpoint"] for row in rows):
        mine = {row["metric"]: row for row in rows if row["checkpoint"] == name}
        first = next(iter(mine.values()))
        cells = [
            f"{percent(mine[key]['value'])} [{percent(mine[key]['low'])}, "
            f"{percent(mine[key]['high'])}]"
            if key in mine
            else "–"
            for key in metrics
        ]
        yield [str(first["step"]), *cells, percent(first["truncated"]), percent(first["unparsed"])]
