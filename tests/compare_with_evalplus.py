"""Our scores of recorded programs beside EvalPlus's, on the same tests, and every program on which
the two disagree.

    python -m venv OTHER && OTHER/bin/pip install evalplus
    python tests/compare_with_evalplus.py --evalplus OTHER/bin/python --work DIR

The tests are those of HumanEval+ in ../shared/hub, which EvalPlus gets as an override; the programs
are those of ../shared/outputs, which it sanitizes first. EvalPlus runs them without a sandbox worth
the name: use a container.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
FILES = ("gpt-3.5-turbo", "codellama-34b-instruct")
FIND_ZERO = "HumanEval/32"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def problem_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the mirror as EvalPlus stores it: inputs, of which it computes the results
    itself."""
    if row["task_id"] == FIND_ZERO:
        rng = random.Random(42)
        inputs = []
        for _ in range(100):
            inputs.append([[rng.randint(-10, 10) or 1 for _ in range(2 * rng.randint(1, 4))]])
        atol = 1e-4
    else:
        line = re.search(r"^ +inputs = (.*)$", row["test"], re.MULTILINE)
        assert line is not None, row["task_id"]
        inputs = eval(line[1], {"inf": float("inf"), "nan": float("nan")})
        found = re.search(r"assertion\(candidate\(\*inp\), exp, ([\d.e-]+)\)", row["test"])
        assert found is not None, row["task_id"]
        atol = float(found[1])
    fields = {
        name: row[name] for name in ("task_id", "prompt", "canonical_solution", "entry_point")
    }
    return {**fields, "base_input": inputs, "plus_input": [], "contract": "", "atol": atol}


def evalplus(python: str, work: Path, name: str, rows: list[dict[str, Any]]) -> list[bool]:
    """Its verdicts, in the rows' order."""
    write(
        work / f"{name}.jsonl",
        [{"task_id": row["task_id"], "solution": row["solution"]} for row in rows],
    )
    environment = {**os.environ, "HUMANEVAL_OVERRIDE_PATH": str(work / "problems.jsonl")}
    environment["MBPP_OVERRIDE_PATH"] = str(work / "mbpp.jsonl")
    environment["XDG_CACHE_HOME"] = str(work / "cache")
    # the command would ask for MBPP's problems as well, of which there are none here
    sanitize = (
        "import json, sys\nfrom evalplus.sanitize import sanitize\n"
        "names = {r['task_id']: r['entry_point'] for r in map(json.loads, open(sys.argv[1]))}\n"
        "with open(sys.argv[3], 'w') as out:\n"
        "    for r in map(json.loads, open(sys.argv[2])):\n"
        "        r['solution'] = sanitize(r['solution'], names[r['task_id']])\n"
        "        print(json.dumps(r), file=out)\n"
    )
    clean = work / f"{name}-sanitized.jsonl"
    subprocess.run(
        [python, "-c", sanitize, work / "problems.jsonl", work / f"{name}.jsonl", clean], check=True
    )
    command = [
        python,
        "-m",
        "evalplus.evaluate",
        "--dataset",
        "humaneval",
        "--samples",
        str(clean),
        "--base_only",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, "--parallel", "2"], env=environment, check=True, **quiet)
    results = json.loads((work / f"{name}-sanitized_eval_results.json").read_text())["eval"]
    iterators = {task: iter(found) for task, found in results.items()}
    return [next(iterators[row["task_id"]])["base_status"] == "pass" for row in rows]


def ours(work: Path, name: str, rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Status and answer, in the rows' order."""
    from shaped_eval.grade import grade_answers

    by_problem: dict[str, list[str]] = {}
    for row in rows:
        by_problem.setdefault(row["task_id"], []).append(row["solution"])
    write(
        work / "answers.jsonl",
        [{"problem_id": i, "completions": texts} for i, texts in by_problem.items()],
    )
    out = grade_answers(
        work / "answers.jsonl", "humanevalplus", work / f"ours-{name}", hub_mirror=SHARED / "hub"
    )
    verdicts = {
        (row["problem_id"], row["sample_index"]): row for row in read(out / "verdicts.jsonl")
    }
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        index = seen.get(row["task_id"], 0)
        seen[row["task_id"]] = index + 1
        verdict = verdicts[f"humanevalplus/{row['task_id']}", index]
        found.append((verdict["status"], verdict["answer"]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evalplus", required=True, help="a Python that has evalplus")
    parser.add_argument("--work", required=True, type=Path, help="a new folder for what is written")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    problems = [
        problem_of(row) for row in read(SHARED / "hub/evalplus/humanevalplus/default/test.jsonl")
    ]
    write(args.work / "problems.jsonl", problems)
    for name in FILES:
        rows = read(SHARED / f"outputs/out_humaneval_{name}_x10.jsonl")
        theirs, mine = evalplus(args.evalplus, args.work, name, rows), ours(args.work, name, rows)
        passed = sum(status == "pass" for status, _ in mine)
        print(f"{name}: {len(rows)} programs, evalplus {sum(theirs)} pass, ours {passed}")
        for number, (row, said, (status, answer)) in enumerate(
            zip(rows, theirs, mine, strict=True), 1
        ):
            if said != (status == "pass"):
                verdict = "pass" if said else "fail"
                print(
                    f"  line {number}, {row['task_id']}: evalplus {verdict}, ours {status}: {answer}"
                )


if __name__ == "__main__":
    sys.exit(main())
