"""A graded run with results, as the tests of publishing need it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from shaped_eval.provenance import folder_fingerprint
from shaped_eval.records import Problem, Sample, Verdict, append_jsonl
from shaped_eval.reporting.results import read_runs, results_text

N = 4
# p passes, f fails, u is unparsed; capitals of a truncated sample
GSM8K = ["ppff", "fffF", "pppp", "uupf"]
SUMS = ["pfff", "ffff"]
STATUS = {"p": "pass", "f": "fail", "u": "unparsed"}
VARIANT = "gsm8k_n4_t0.7_p0.95_len64"
CARD = """---
# kept: a comment
license: mit
tags: [a, b]
model-index:
- name: someone's name
  results:
  - task: {type: text-generation, name: other}
    dataset: {name: gsm8k, type: openai/gsm8k, config: main, split: test}
    metrics: [{type: acc, value: 12.5, verified: true}]
    source: {name: Leaderboard, url: https://example.org}
base_model: some/base  # kept, too
---

# A model

What people wrote.
"""


def write_run(folder: Path, checkpoint: Path, **settings) -> Path:
    folder.mkdir()
    record = {
        "model": str(checkpoint),
        "model_identity": folder_fingerprint(checkpoint),
        "settings": {
            "n": N,
            "temperature": 0.7,
            "top_p": 0.95,
            "max_new_tokens": 64,
            "limit": None,
            **settings,
        },
        "commit": "abc123",
        "versions": {"shaped-trl": "9.9"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    for benchmark, letters in {"gsm8k": GSM8K, "running_sums": SUMS}.items():
        for index, row in enumerate(letters):
            key = f"{benchmark}/{index}"
            append_jsonl(
                folder / "problems.jsonl",
                [Problem(key, benchmark, "SECRET PROMPT", "SECRET GOLD", "math")],
            )
            for i, letter in enumerate(row):
                sample = Sample(
                    key, i, f"text {key} {i} é", "length" if letter.isupper() else "stop", 10 + i
                )
                answer = None if letter == "u" else "7"
                append_jsonl(folder / "samples.jsonl", [sample])
                append_jsonl(
                    folder / "verdicts.jsonl",
                    [Verdict(key, i, STATUS[letter.lower()], answer, "math/1")],
                )
    finish(folder)
    os.utime(folder / "samples.jsonl", (1_750_000_000,) * 2)  # 2025-06-15
    return folder


def finish(folder: Path) -> dict:
    """results.json as the report writes it, without its pictures."""
    (run,) = read_runs([folder])
    (folder / "results.json").write_text(results_text(run.results))
    return run.results
