"""Folders of graded runs from letters: a problem is a word, a sample a letter."""

from __future__ import annotations

import json
from pathlib import Path

from shaped_eval.records import Problem, Sample, Verdict, append_jsonl

N = 4
# Pass, fail with answer A or B, unparsed, timeout, error; capitals of a truncated sample.
STATUS = {"p": "pass", "a": "fail", "b": "fail", "u": "unparsed", "t": "timeout", "e": "error"}
ANSWER = {"p": "7", "a": "A", "b": "B"}


def write_run(
    folder: Path,
    benchmarks: dict[str, list[str]],
    n: int = N,
    *,
    model: str = "some/model",
    completion: str = "some text",
    prompt: str = "Q",
    gold: str = "7",
    **settings,
) -> Path:
    folder.mkdir(parents=True)
    record = {
        "model": model,
        "settings": {"n": n, "temperature": 0.7, **settings},
        "commit": "abc123",
    }
    (folder / "run.json").write_text(json.dumps(record))
    for benchmark, letters in benchmarks.items():
        for index, row in enumerate(letters):
            key = f"{benchmark}/{index}"
            append_jsonl(folder / "problems.jsonl", [Problem(key, benchmark, prompt, gold, "math")])
            samples, verdicts = [], []
            for i, letter in enumerate(row):
                finish = "length" if letter.isupper() else "stop"
                samples.append(Sample(key, i, completion, finish, 10))
                answer = ANSWER.get(letter.lower())
                verdicts.append(Verdict(key, i, STATUS[letter.lower()], answer, "math/1"))
            append_jsonl(folder / "samples.jsonl", samples)
            append_jsonl(folder / "verdicts.jsonl", verdicts[::-1])
    return folder
