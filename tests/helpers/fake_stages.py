"""Fake stage commands for the study's tests, which write their steps as their recipe says.

`meet` holds a run until two have started. A file `hold` in the folder of the runs holds every run
once, when the runs have written as many steps in all as the file says. Tests thus wait for a state,
and not for a time.

The number of a step is drawn from the run's name and the previous number, and the first one from
the model that the run starts from. A step that is lost, repeated or started from another model
therefore changes all later numbers.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from shaped_eval.records import Sample, Verdict, append_jsonl, drop_truncated_line, read_jsonl
from study_rows import BENCHMARK, N, write_problems

LOGS = {"train": "train_log.jsonl", "rlvr": "rl_log.jsonl", "eval": "samples.jsonl"}


def main(argv: list[str]) -> int:
    command, flags = argv[0], dict(zip(argv[1::2], argv[2::2], strict=True))
    recipe = yaml.safe_load(Path(flags["--config"]).read_text())
    out = Path(flags.get("--output_dir") or flags["--out"])
    print(f"running {' '.join(argv)} on GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    note("start", out)
    wait_while(lambda: recipe.get("meet") and num_starts(out) < 2)
    nap = (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        if recipe.get("spawn")
        else None
    )
    model = flags.get("--model_name_or_path") or flags.get("--model")
    value = float((Path(model) / "model").read_text()) if model else 0.0
    num_steps, ids = recipe["max_steps"], []
    if command == "eval":
        ids = write_problems(out, -(-num_steps // N), int(flags["--seed"]))
        num_steps = len(ids) * N
    log = out / LOGS[command]
    drop_truncated_line(log)
    rows = list(read_jsonl(log)) if log.exists() else []
    if rows:
        value = number_of(rows[-1])
    for step in range(len(rows) + 1, num_steps + 1):
        wait_while(lambda: is_held(runs_of(out)))
        value = random.Random(f"{name_of(out)} {step} {value!r}").random()
        append_jsonl(log, [row_of(command, step, value, ids)])
    if recipe.get("fail_arm") in out.parts:
        for number in range(30):
            print(f"line {number}")
        raise RuntimeError("this arm fails")
    if command == "eval":
        write_verdicts(out)
    (out / "model").write_text(repr(value))
    if nap:
        nap.kill()
        nap.wait()
    note("end", out)
    return 0


def match(argv: list[str]) -> int:
    """Replaces `shaped_trl.study.running.temperature`."""
    flags = dict(zip(argv[1::2], argv[2::2], strict=True))
    out = Path(flags["--out"])
    note("start", out)
    values = [float((Path(flags[name]) / "model").read_text()) for name in ("--model", "--like")]
    (out / "temperature.json").write_text(json.dumps({"temperature": 0.5 + sum(values) / 4}))
    note("end", out)
    return 0


def note(event: str, out: Path) -> None:
    row = {"event": event, "run": str(out), "time_s": time.monotonic(), "pid": os.getpid()}
    append_jsonl(runs_of(out) / "events.jsonl", [row])


def wait_while(condition: Callable[[], Any]) -> None:
    while condition():
        time.sleep(0.01)


def is_held(runs: Path) -> bool:
    if not (runs / "hold").exists():
        return False
    rows = sum(
        path.read_bytes().count(b"\n")
        for name in LOGS.values()
        for path in runs.glob(f"*/*/*/{name}")
    )
    return rows >= int((runs / "hold").read_text())


def num_starts(out: Path) -> int:
    return sum(row["event"] == "start" for row in read_jsonl(runs_of(out) / "events.jsonl"))


def runs_of(out: Path) -> Path:
    return next(parent for parent in out.parents if parent.name == "runs")


def name_of(out: Path) -> str:
    return str(out.relative_to(runs_of(out)))


def row_of(command: str, step: int, value: float, ids: list[str]) -> dict[str, Any]:
    if command == "eval":
        problem, index = divmod(step - 1, N)
        return vars(Sample(ids[problem], index, repr(value), "stop", 5))
    if command == "train":
        return {
            "step": step,
            "nll": value,
            "entropy": 2 * value,
            "eval_nll": value,
            "eval_entropy": 2 * value,
        }
    return {
        "step": step,
        "raw_reward": value,
        "entropy": 2 * value,
        "completion_length": 30 * value,
    }


def number_of(row: dict[str, Any]) -> float:
    return float(row.get("nll") or row.get("raw_reward") or row["completion"])


def write_verdicts(out: Path) -> None:
    (out / "verdicts.jsonl").unlink(missing_ok=True)
    for sample in read_jsonl(out / "samples.jsonl", Sample):
        status, answer = ("pass", "1") if float(sample.completion) < 0.5 else ("fail", "2")
        verdict = Verdict(sample.problem_id, sample.sample_index, status, answer, BENCHMARK)
        append_jsonl(out / "verdicts.jsonl", [verdict])
