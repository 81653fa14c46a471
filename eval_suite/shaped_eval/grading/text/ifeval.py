"""IFEval (arXiv 2311.07911): whether a response follows all instructions of its prompt.

The checks are lm-eval's, and the score is its prompt-level strict accuracy: a response passes if it
follows each instruction to the letter. They need lm-eval, two small packages, and nltk's word lists
for sentences. Nothing is downloaded here; `missing` says what is not at hand.

`gold` is a JSON object with ``prompt``, ``instruction_id_list`` and ``kwargs``, as in the data set.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading.extract import plain_answer
from shaped_eval.records import Status
from shaped_eval.untrusted.rows import parse_object

FOLLOWS = "follows all instructions"
_PACKAGES = ("lm_eval", "langdetect", "immutabledict", "nltk")
_WORD_LISTS = "tokenizers/punkt_tab/english/"


def missing() -> str | None:
    """What this machine lacks to check responses, and how to get it; None if it lacks nothing."""
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        return f"the package {absent[0]} is not installed: pip install 'shaped-trl[lm-eval]'"
    import nltk

    try:
        nltk.data.find(_WORD_LISTS)
    except LookupError:
        return "nltk's word lists are not here: python -m nltk.downloader punkt_tab"
    return None


def check_grader() -> None:
    """Check that responses can be checked here.

    Raises:
        UserError: something is `missing`.
    """
    if lacks := missing():
        raise UserError(f"grader='ifeval' cannot be used: {lacks}")


def ifeval_gold(row: Mapping[str, Any]) -> str:
    """The gold of a row; options of other instructions, which are null in it, are left out."""
    given = [{key: one[key] for key in one if one[key] is not None} for one in row["kwargs"]]
    ids = row["instruction_id_list"]
    return json.dumps({"prompt": row["prompt"], "instruction_id_list": ids, "kwargs": given})


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade one response; the answer of a fail names the instructions that it does not follow."""
    if not completion.strip():
        return "unparsed", None
    task = parse_object(gold)
    utils = _lm_eval()
    example = utils.InputExample(
        key=0,
        instruction_id_list=task["instruction_id_list"],
        prompt=task["prompt"],
        kwargs=task["kwargs"],
    )
    found = utils.test_instruction_following_strict(example, completion)
    if found.follow_all_instructions:
        return "pass", FOLLOWS
    followed = zip(found.instruction_id_list, found.follow_instruction_list, strict=True)
    broken = ", ".join(name for name, is_followed in followed if not is_followed)
    return "fail", plain_answer(f"does not follow {broken}")


@cache
def _lm_eval() -> Any:
    check_grader()  # lm-eval would start a download
    import langdetect
    from lm_eval.tasks.ifeval import utils

    langdetect.DetectorFactory.seed = 0  # it draws, and a verdict can be repeated
    return utils
