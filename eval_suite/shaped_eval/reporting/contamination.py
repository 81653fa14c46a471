"""Problems that a model may have seen in training, by the day on which they were published."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shaped_eval.records import Problem, read_jsonl

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def published_before(folder: str | Path, record: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Benchmark → the number of its problems that are as old as the model's data, and of all.

    Benchmarks without dates, and those whose problems are all newer, are left out. So are all
    benchmarks if the user gave no cutoff.

    Args:
        folder: of a run.
        record: its run.json, whose ``model_cutoff`` is a day such as 2025-01-31.
    """
    cutoff = record.get("model_cutoff")
    if not isinstance(cutoff, str) or not _DAY.fullmatch(cutoff):
        return {}
    old: Counter[str] = Counter()
    dated: Counter[str] = Counter()
    for problem in read_jsonl(Path(folder) / "problems.jsonl", Problem):
        day = problem.meta.get("date")
        if isinstance(day, str):
            dated[problem.benchmark] += 1
            old[problem.benchmark] += day <= cutoff
    return {name: (count, dated[name]) for name, count in old.items() if count}
