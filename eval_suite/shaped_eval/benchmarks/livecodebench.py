"""LiveCodeBench (arXiv 2403.07974): contest problems of LeetCode, AtCoder and Codeforces by date.

The problem's text and the two instructions are LiveCodeBench's. A problem with starter code asks
for a method of ``Solution``, and one without for a program that reads standard input. A problem has
no worked examples.

The data set is the light version, which LiveCodeBench evaluates by default, in Parquet: the
original needs a script that `datasets` no longer runs. The sixth release has problems from May 2023
to April 2025; `livecodebench_v6` has those that were new in it, from January 2025 on.

The gold holds the tests as the row has them, packed: unpacked, those of all problems have
several GB (`grading.code.cases`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from shaped_eval.benchmarks.prompts import Question, Style
from shaped_eval.grading.code.contest import contest_gold
from shaped_eval.untrusted.rows import parse_object

DATA_SET = "lighteval/code_generation_lite"
ROLE = (
    "You are an expert Python programmer. You will be given a question (problem specification) and "
    "will generate a correct Python program that matches the specification and passes all tests."
)
METHOD = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters."
)
PROGRAM = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
)
CONTEST = Style(
    base="{question}",
    chat=ROLE + "\n\n{question}",
    stop=("\n### Question:",),
)


def read_livecodebench(row: Mapping[str, Any]) -> Question:
    """A problem with all its tests; ``func_name`` of its metadata is the method that is asked for.

    Raises:
        ValueError: its tests cannot be read, or are too large.
    """
    starter = row["starter_code"]
    instruction, code = (METHOD, starter) if starter else (PROGRAM, "# YOUR CODE HERE")
    text = (
        "### Question:\n" + row["question_content"] + f"\n\n### Format: {instruction}\n"
        f"```python\n{code}\n```\n\n### Answer: (use the provided format with backticks)\n\n"
    )
    function = parse_object(row["metadata"]).get("func_name") or ""
    gold = contest_gold(function, row["public_test_cases"], row["private_test_cases"])
    meta = {"date": date_of(row), "platform": row["platform"], "difficulty": row["difficulty"]}
    return Question(text, gold, own_id=row["question_id"], meta=meta)


def date_of(row: Mapping[str, Any]) -> str:
    """The day of the problem's contest, as 2025-01-31.

    Raises:
        ValueError: the row has none.
    """
    return date.fromisoformat(row["contest_date"][:10]).isoformat()
