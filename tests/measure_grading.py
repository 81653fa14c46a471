"""How fast and in how much memory `shaped-trl grade` grades: python tests/measure_grading.py
[--answers 198000].

Answers as of the RL suite: 1,547 problems by 128 samples, made of recorded model answers in
../shared/outputs. Each completion is a recorded solution that ends in a boxed answer: gold in half
of them, else an answer that a model gave somewhere, its digits changed in half of those. The
hostile answers of the tests are spread among them.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 128
POLL_S = 0.1


def recorded(outputs: Path) -> tuple[list[str], list[str], list[str]]:
    """Golds, solutions and given answers of three files."""

    def rows(name: str) -> list[dict]:
        return [
            json.loads(line) for line in (outputs / name).read_text(encoding="utf-8").splitlines()
        ]

    math, math500, gsm8k = (
        rows(f"out_{name}.jsonl")
        for name in ("math_qwen_100x8", "math500_qwen3_answers", "gsm8k_abel_7b")
    )
    golds = (
        [row["gt"] for row in math]
        + [row["answer"] for row in math500]
        + [row["gold"] for row in gsm8k]
    )
    solutions = [text for row in math for text in row["code"]] + [row["response"] for row in gsm8k]
    boxed = [re.sub(r"^\\boxed\{(.*)\}$", r"\1", row["prediction"].strip()) for row in math500]
    answers = (
        [text for row in math for text in row["pred"]] + boxed + [str(row["pred"]) for row in gsm8k]
    )
    return golds, solutions, [answer for answer in answers if answer]


def write_answers(path: Path, outputs: Path, number: int, hostile: list[str]) -> Counter[str]:
    """`number` answers in rows of `SAMPLES`; counts of what was written."""
    golds, solutions, answers = recorded(outputs)
    rng, counts = random.Random(0), Counter[str]()
    problems = -(-number // SAMPLES)
    spread = {rng.randrange(problems): text for text in hostile}  # at most one in a problem
    with open(path, "w", encoding="utf-8") as file:
        for index in range(problems):
            gold = golds[index % len(golds)]
            given = [gold if rng.random() < 0.5 else _wrong(rng, answers) for _ in range(SAMPLES)]
            completions = [
                f"{rng.choice(solutions)}\nThe answer is $\\boxed{{{answer}}}$." for answer in given
            ]
            if index in spread:
                completions[rng.randrange(SAMPLES)] = spread[index]
            counts["answers"] += SAMPLES
            counts["distinct answers of a problem"] += len(set(given))
            counts["characters"] += sum(map(len, completions))
            counts["hostile"] += index in spread
            file.write(
                json.dumps({"problem_id": index, "gold": gold, "completions": completions}) + "\n"
            )
    return counts


def _wrong(rng: random.Random, answers: list[str]) -> str:
    answer = rng.choice(answers)
    return (
        re.sub(r"\d", lambda _: str(rng.randrange(1, 10)), answer) if rng.random() < 0.5 else answer
    )


def grade(answers: Path, out: Path) -> tuple[float, float, int, int]:
    """Seconds, seconds of CPU, and the peak resident bytes of the command and of its largest
    grading process."""
    command = [sys.executable, "-m", "shaped_trl.cli", "grade", "--answers", str(answers)]
    start = time.monotonic()
    process = subprocess.Popen([*command, "--benchmark", "math", "--out", str(out)], cwd=ROOT)
    own, largest = 0, 0
    while process.poll() is None:
        for each in _family(process.pid):
            try:
                resident = each.memory_info().rss
            except psutil.Error:  # it ended
                continue
            own, largest = (
                (max(own, resident), largest)
                if each.pid == process.pid
                else (own, max(largest, resident))
            )
        time.sleep(POLL_S)
    if process.returncode:
        raise SystemExit(f"grade ended with exit code {process.returncode}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, own, largest


def _family(pid: int) -> Iterator[psutil.Process]:
    try:
        process = psutil.Process(pid)
        yield process
        yield from process.children(recursive=True)
    except psutil.Error:
        return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--answers", type=int, default=198_000)
    parser.add_argument("--no_hostile", action="store_true")
    parser.add_argument("--outputs", type=Path, default=ROOT.parent / "shared" / "outputs")
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests" / name) for name in ("shaped_eval/grading", "helpers")]
    from test_hostile import HOSTILE

    with tempfile.TemporaryDirectory() as scratch:
        file, out = Path(scratch) / "answers.jsonl", Path(scratch) / "out"
        counts = write_answers(
            file, args.outputs, args.answers, [] if args.no_hostile else list(HOSTILE.values())
        )
        print(dict(counts), flush=True)
        seconds, cpu_s, own, largest = grade(file, out)
        with open(out / "verdicts.jsonl", encoding="utf-8") as lines:
            statuses = Counter(json.loads(line)["status"] for line in lines)
        assert statuses.total() == counts["answers"], statuses
        print(
            f"{seconds:.1f} s, {counts['answers'] / seconds:.0f} answers a second; statuses {dict(statuses)}"
        )
        print(f"{cpu_s:.1f} s of CPU, {counts['answers'] / cpu_s:.0f} answers a second of CPU")
        print(
            f"peak memory: {own / 2**20:.0f} MiB, and {largest / 2**20:.0f} MiB in the largest grading process"
        )


if __name__ == "__main__":
    main()
