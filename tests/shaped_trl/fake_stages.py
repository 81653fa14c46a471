"""Stage commands for the study's tests: they write a step a `step_seconds` and obey their recipe's wishes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import yaml
from study_rows import write_evaluation

from eval_suite.records import append_jsonl, drop_truncated_line, read_jsonl


def main(argv: list[str]) -> int:
    flags = dict(zip(argv[1::2], argv[2::2], strict=True))
    recipe = yaml.safe_load(Path(flags["--config"]).read_text())
    out = Path(flags.get("--output_dir") or flags["--out"])
    print(f"running {' '.join(argv)} on GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    events = next(parent for parent in out.parents if parent.name == "runs") / "events.jsonl"
    append_jsonl(events, [{"event": "start", "run": str(out), "time_s": time.monotonic(), "pid": os.getpid()}])
    if recipe.get("spawn"):
        nap = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        append_jsonl(events, [{"event": "spawn", "pid": nap.pid}])
    if "--model_name_or_path" in flags:
        assert (Path(flags["--model_name_or_path"]) / "model").exists()
    log = out / {"train": "train_log.jsonl", "rlvr": "rl_log.jsonl"}.get(argv[0], "samples.jsonl")
    drop_truncated_line(log)
    done = len(list(read_jsonl(log))) if log.exists() else 0
    for step in range(done + 1, recipe["max_steps"] + 1):
        time.sleep(recipe.get("step_seconds", 0.0))
        append_jsonl(log, [{"step": step, "pid": os.getpid()}])
    if recipe.get("fail_arm") in out.parts:
        for number in range(30):
            print(f"line {number}")
        raise RuntimeError("this arm fails")
    if argv[0] == "eval":
        log.unlink()
        write_evaluation(out, [1, 2], int(flags["--seed"]))
    (out / "model").write_text("weights")
    append_jsonl(events, [{"event": "end", "run": str(out), "time_s": time.monotonic(), "pid": os.getpid()}])
    return 0
