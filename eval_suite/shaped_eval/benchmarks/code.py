"""The rows of HumanEval, MBPP and their + versions as questions.

The gold of a question is the JSON object that the grader ``code`` reads.

HumanEval (arXiv 2107.03374; HumanEval+ arXiv 2305.01210) has no worked examples. The prompt is the
beginning of a function, and the completion is the rest of it.

MBPP (arXiv 2108.07732) has the format of its paper: 3 worked examples, then the task, three of its
tests and ``[BEGIN]``. The examples are rows that everybody can read and that are not evaluated:

- for mbpp (test, task_id 11-510) rows 3, 4 and 6 of MBPP+, which holds some of MBPP's own examples
  (task_id 1-10);
- for mbppplus rows 22, 23 and 24 of MBPP's test split, which are not in MBPP+.

A prompt of MBPP+ shows its first three inputs and results as tests. Its ``test_list`` may be that
of MBPP, which contradicts them in 56 of 370 problems.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shaped_eval.benchmarks.prompts import Question, Style
from shaped_eval.errors import UserError
from shaped_eval.grading.sandbox.examiner import free_names
from shaped_eval.sources import load_rows

SHOWN_TESTS = 3
MBPP = ("google-research-datasets/mbpp", "full", "test")
MBPP_PLUS = ("evalplus/mbppplus", None, "test")
MBPP_EXAMPLES = (3, 4, 6, 7, 8, 9)  # of MBPP+; the first 3 by default
MBPP_PLUS_EXAMPLES = (22, 23, 24, 26, 28, 29)  # of MBPP

FUNCTION = Style(
    base="{question}",
    chat=(
        "Complete this Python function. Give all of it, with the imports and helper functions "
        "that it needs, in one ```python block.\n\n```python\n{question}\n```"
    ),
    stop=(
        "\nclass ",
        "\ndef ",
        "\n#",
        "\nif ",
        "\nprint",
        "\nassert ",
        "\n@",
        "\nimport ",
        "\nfrom ",
        "\n```",
    ),
)
TASK_AND_TESTS = Style(
    base="You are an expert Python programmer, and here is your task: {question}\n[BEGIN]\n",
    chat=(
        "{question}\n\nGive the complete program, with the imports that it needs, in one "
        "```python block."
    ),
    stop=("[DONE]", "\n[BEGIN]"),
    between="",
)

# The shapes are compared first, because np.allclose([], [1.0]) is true by broadcasting.
_CLOSE = re.compile(r"np\.allclose\(out, exp,")
_SAME_SHAPE = "np.shape(out) == np.shape(exp) and np.allclose(out, exp,"


def read_humaneval(row: Mapping[str, Any]) -> Question:
    """HumanEval and HumanEval+; ``test`` defines ``check``, which is called with the function."""
    entry_point, prompt = row["entry_point"], row["prompt"]
    gold = {
        "kind": "continuation",
        "entry_point": entry_point,
        "preamble": prompt,
        "names": [entry_point],
        "tests": f"{_strict(row['test'])}\n\ncheck({entry_point})\n",
    }
    solution = prompt + row["canonical_solution"]
    return Question(prompt, json.dumps(gold), own_id=row["task_id"], solution=solution)


def read_mbpp(row: Mapping[str, Any]) -> Question:
    """MBPP: the whole ``test_list`` is run, and its first three tests are shown."""
    code, setup = _unix(row["code"]), _unix(row["test_setup_code"])
    tests = [_unix(test).strip() for test in row["test_list"]]
    imports = "\n".join(
        line for line in setup.split("\n") if re.match(r"import |from \S+ import ", line)
    )
    entry_point = _entry_point(code, _parse("\n".join(tests)))
    names = list(dict.fromkeys([entry_point, *free_names("\n".join(tests))]))
    gold = _program_gold(names, imports, "\n".join(tests), setup)
    return _task(row["task_id"], row["text"], tests[:SHOWN_TESTS], code, gold)


def read_mbppplus(row: Mapping[str, Any]) -> Question:
    """MBPP+: ``test`` is run, which loops over inputs and results."""
    code, test = _unix(row["code"]), _strict(row["test"])
    tree = _parse(test)
    entry_point = _entry_point(code, tree)
    gold = _program_gold([entry_point], "\n".join(row["test_imports"]), test, setup="")
    shown = _inputs_and_results(entry_point, tree) or [test.strip() for test in row["test_list"]]
    return _task(row["task_id"], row["prompt"], shown[:SHOWN_TESTS], code, gold)


def mbpp_examples(hub_mirror: str | Path | None, count: int) -> tuple[list[Question], str]:
    """Worked examples for mbpp, which this module's docstring names, and where they come from."""
    return _examples(MBPP_PLUS, MBPP_EXAMPLES, read_mbppplus, hub_mirror, count)


def mbppplus_examples(hub_mirror: str | Path | None, count: int) -> tuple[list[Question], str]:
    """Worked examples for mbppplus, as `mbpp_examples` gives them for mbpp."""
    return _examples(MBPP, MBPP_PLUS_EXAMPLES, read_mbpp, hub_mirror, count)


def _examples(
    source: tuple[str, str | None, str],
    task_ids: tuple[int, ...],
    read: Any,
    hub_mirror: Any,
    count: int,
) -> tuple[list[Question], str]:
    dataset_id, config, split = source
    rows = {row["task_id"]: row for row in load_rows(dataset_id, config, split, hub_mirror)}
    chosen = task_ids[:count]
    missing = [task_id for task_id in chosen if task_id not in rows]
    if missing:
        raise UserError(
            f"data set {dataset_id!r} has no row with task_id {missing[0]}, "
            "which is a worked example: use --shots 0"
        )
    where = f"{dataset_id}, split {split}, task_id {', '.join(map(str, chosen))}"
    return [read(rows[task_id]) for task_id in chosen], where


def _task(task_id: int, text: str, shown: list[str], code: str, gold: dict[str, Any]) -> Question:
    question = f"{_unix(text).strip()} Your code should pass these tests:\n\n" + "\n".join(shown)
    return Question(
        question, json.dumps(gold), own_id=str(task_id), solution=f"{code.strip()}\n[DONE]"
    )


def _program_gold(names: list[str], preamble: str, tests: str, setup: str) -> dict[str, Any]:
    return {
        "kind": "program",
        "entry_point": names[0],
        "preamble": preamble,
        "names": names,
        "tests": tests,
        "setup": setup,
    }


def _entry_point(code: str, tests: ast.Module) -> str:
    """The function of the reference solution that the tests call.

    It may have the name of a builtin, such as ``sum``.
    """
    called = {
        node.func.id
        for node in ast.walk(tests)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    defined = [node.name for node in _parse(code).body if isinstance(node, ast.FunctionDef)]
    return next(name for name in reversed(defined) if name in called)


def _parse(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in the data set, such as "\\w"
        return ast.parse(text)


def _inputs_and_results(entry_point: str, test: ast.Module) -> list[str]:
    """The first ``inputs`` and ``results`` of an MBPP+ test, written as assert statements."""
    lists = {
        node.targets[0].id: node.value.elts
        for node in test.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.List)
    }
    if "inputs" not in lists or "results" not in lists:
        return []
    shown = []
    for given, result in list(zip(lists["inputs"], lists["results"], strict=False))[:SHOWN_TESTS]:
        arguments = (
            ", ".join(map(ast.unparse, given.elts))
            if isinstance(given, ast.List)
            else f"*{ast.unparse(given)}"
        )
        shown.append(f"assert {entry_point}({arguments}) == {ast.unparse(result)}")
    return shown


def _strict(test: str) -> str:
    return _CLOSE.sub(_SAME_SHAPE, test)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
