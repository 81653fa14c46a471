"""Procedural tasks of reasoning-gym (extra `tasks`): the task's own score decides, all or nothing.

`gold` is a JSON object, from which the entry is made again:

    task, size, seed, index, config   entry number `index` of ``create_dataset(task, size=size, seed=seed, **config)``
    digest                            of its question (`question_digest`); another one is an error, no wrong verdict

The answer is what follows the last ``Answer:``: the rest of its line, or all the rest where the task's own answer has
several lines. It passes with a score of 1. Partial credit does not count: almost every group of completions would then
differ by it, so that dynamic sampling would keep them all, and learn from the noise.

Some tasks evaluate the answer, as Python or through sympy's parser, which does. An answer to these that could be more
than a literal or a formula (`could_run`) is never handed to them: it fails.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import json
import re
import unicodedata
from functools import lru_cache
from importlib import metadata
from typing import Any

from eval_suite.errors import UserError
from eval_suite.grading.extract import before_next_question, plain_answer
from eval_suite.records import Status

MARK = "Answer:"
RIGHT = 1 - 1e-9
LONGEST_ANSWER = 20_000  # characters
# what of reasoning-gym 0.1.25 evaluates an answer: arithmetic, a formula of sympy, or a Python list
ARITHMETIC = ("countdown", "puzzle24")
FORMULA = ("simple_integration", "intermediate_integration", "polynomial_multiplication")
LIST = ("string_insertion", "spiral_matrix", "binary_matrix", "n_queens")
# of reasoning-gym 0.1.25: they go through sets of texts, whose order is another in each process
UNREPEATABLE = ("isomorphic_strings", "polynomial_multiplication", "ransom_note")


def version() -> str:
    """The installed version, without importing it."""
    try:
        return metadata.version("reasoning-gym")
    except metadata.PackageNotFoundError:
        return "absent"


def check_package() -> None:
    """Raise UserError where reasoning-gym is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError("tasks of reasoning_gym need the extra `tasks`: pip install 'shaped-trl[tasks]'")


def task_dataset(task: str, size: int, seed: int, config: dict[str, Any] | None = None) -> Any:
    """The procedural data set of a task: `size` entries, each a dict with ``question`` and ``answer``.

    Raises:
        UserError: reasoning-gym is not installed, there is no such task, it cannot be repeated in another process, or
            it refuses its configuration.
    """
    check_package()
    import reasoning_gym

    if task in UNREPEATABLE:
        raise UserError(
            f"dataset_name='reasoning_gym/{task}' makes other entries of the same seed in each process, so that no "
            "grader can make them again: choose another task"
        )
    config = config or {}
    if config.keys() & {"seed", "size"}:
        raise UserError(f"task_config={config!r}: leave out seed and size, which are options of their own")
    try:
        return reasoning_gym.create_dataset(task, size=size, seed=seed, **config)
    except (ValueError, TypeError, AssertionError, AttributeError) as error:
        given = f", task_config={config!r}" if config else ""
        raise UserError(f"dataset_name='reasoning_gym/{task}'{given}: {' '.join(str(error).split())}") from error


def question_digest(question: str) -> str:
    """What tells whether an entry made again is the same."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def gold_of(question: str, **where: Any) -> str:
    """The gold of an entry, from its question and where it is: task, size, seed, config and index."""
    return json.dumps({**where, "digest": question_digest(question)})


def extract_answer(completion: str, lines: int = 1) -> str | None:
    """The answer of a completion where the task's own has so many lines; None where there is none."""
    _, mark, rest = before_next_question(completion).rpartition(MARK)
    rest = rest.strip()
    if not mark or not rest:
        return None
    return rest if lines > 1 else rest.splitlines()[0].strip()


def grade(completion: str, gold: str) -> tuple[Status, str | None, str]:
    """Grade one completion: status, answer, and the score in words. Runs in a worker of the pool.

    A pass has the task's own answer, or its own where the task names none: many answers may be right.
    """
    entry_of = json.loads(gold)
    entries = _entries(
        entry_of["task"], entry_of["size"], entry_of["seed"], json.dumps(entry_of.get("config"), sort_keys=True)
    )
    entry = entries[entry_of["index"]]
    if entry_of.get("digest", question_digest(entry["question"])) != question_digest(entry["question"]):
        return "error", None, "the entry made again has another question"
    own = entry["answer"] if isinstance(entry["answer"], str) else ""
    answer = extract_answer(completion, lines=own.strip().count("\n") + 1)
    if answer is None:
        return "unparsed", None, f"no {MARK}"
    if could_run(entry_of["task"], answer):
        return "fail", plain_answer(answer), "the answer could be a program"
    if len(answer) > LONGEST_ANSWER:
        return "fail", plain_answer(answer), "the answer is too long"
    try:
        score = float(entries.score_answer(answer, entry))
    except MemoryError:
        raise
    except Exception as error:  # of a task's own reading of an answer in a form that it does not expect
        return "fail", plain_answer(answer), f"the task cannot read it ({type(error).__name__})"
    reason = f"score {score:g}"
    if score >= RIGHT:
        return "pass", plain_answer(own or answer), reason
    return "fail", plain_answer(answer), reason


def could_run(task: str, answer: str) -> bool:
    """Whether a task that evaluates answers could be made to call something by this one."""
    text = unicodedata.normalize("NFKC", answer)  # as Python reads names
    if task in ARITHMETIC:
        return re.search(r"[^\d\s()+\-*/.=×÷−]", text) is not None
    if task in FORMULA:
        names = set(re.findall(r"[^\W\d]\w*", text))
        return (
            bool(names & set(dir(builtins)) - {"abs"})
            or re.search(r"__|[\"'`\[\]{}@:;]|\.\s*[^\W\d]", text) is not None
        )
    if task in LIST:
        return re.search(r"__|[(){}@=*]|\.\s*[^\W\d]", text) is not None
    return False


@lru_cache(maxsize=16)
def _entries(task: str, size: int, seed: int, config: str) -> Any:
    return task_dataset(task, size, seed, json.loads(config))
