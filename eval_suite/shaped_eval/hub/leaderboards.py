"""The leaderboards of the Hub: of which data sets it shows results, and under which names.

A data set is an official benchmark of the Hub if the Hub lists it, and its file eval.yaml names its
tasks (https://huggingface.co/docs/hub/eval-results). Both are asked for before results are pushed;
where the Hub does not answer, and where nothing is pushed, the table here is used.

Answers of the Hub are foreign: they are read up to a size and a time, and of them only ids are
used, which have the form that the Hub gives to ids.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.benchmarks.terms import TERMS
from shaped_eval.hub.errors import hub_errors, hub_reason

MOST_BYTES = 8 * 2**20  # of a list of data sets; each has a kilobyte or two
MOST_BYTES_OF_TASKS = 256 * 2**10
MOST_DATA_SETS = 1_000
_SECONDS = 20.0  # for one answer
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,149}")


class Leaderboard(NamedTuple):
    """Where the accuracy of a benchmark goes.

    Attributes:
        dataset_id: the data set on the Hub.
        task_id: the task of its eval.yaml.
        problems: how many there are; a result over fewer is not of this benchmark.
    """

    dataset_id: str
    task_id: str
    problems: int


# Those of which the task is known.
LEADERBOARDS = {
    "gsm8k": Leaderboard("openai/gsm8k", "gsm8k", 1319),
    "mmlu_pro": Leaderboard("TIGER-Lab/MMLU-Pro", "mmlu_pro", 12032),
    "aime26": Leaderboard("MathArena/aime_2026", "MathArena/aime_2026", 30),
    "hmmt_feb26": Leaderboard("MathArena/hmmt_feb_2026", "MathArena/hmmt_feb_2026", 33),
}


def leaderboards() -> tuple[Mapping[str, Leaderboard], str | None]:
    """Benchmark → its leaderboard, as the Hub has them now, and None.

    If the Hub does not answer, or with something else, these are `LEADERBOARDS`, and a line that
    says so.
    """
    from huggingface_hub import constants

    try:
        official = _official()
    except hub_errors() as error:
        reason = hub_reason(error, constants.ENDPOINT)
        return (
            LEADERBOARDS,
            f"the Hub's list of benchmarks was not read, and ours is used: {reason}",
        )
    known = {name: one for name, one in LEADERBOARDS.items() if one.dataset_id in official}
    return known | _new(official), None


class _Refused(ValueError):
    """The Hub sent what is not an answer to the question."""


def _official() -> set[str]:
    """The ids of the data sets that the Hub lists as benchmarks.

    It is the request of huggingface_hub's ``list_datasets(benchmark=True)``, which reads answers of
    any size.
    """
    query = {"filter": "benchmark:official", "limit": str(MOST_DATA_SETS)}
    content = _answer("/api/datasets", query, MOST_BYTES)
    try:
        listed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _Refused("the answer is not JSON") from error
    if not isinstance(listed, list):
        raise _Refused("the answer is not a list")
    ids = [one.get("id") for one in listed[:MOST_DATA_SETS] if isinstance(one, dict)]
    return {each for each in ids if isinstance(each, str) and _ID.fullmatch(each)}


def _new(official: set[str]) -> dict[str, Leaderboard]:
    """Benchmarks of ours that are on the Hub's list, and not in the table."""
    found = {}
    sources: dict[str, Any] = {**BENCHMARKS, **HARNESS}
    for name, source in sources.items():
        count = TERMS[name].rows
        if name in LEADERBOARDS or source.dataset_id not in official or count is None:
            continue
        task = _task(source.dataset_id, source.config, source.split)
        if task is not None:
            found[name] = Leaderboard(source.dataset_id, task, count)
    return found


def _task(dataset_id: str, config: str | None, split: str) -> str | None:
    """The only task of a data set's eval.yaml on this config and split; None if there is none.

    A task that names no config or no split is on all of them.
    """
    path = f"/datasets/{dataset_id}/resolve/main/eval.yaml"
    try:
        content = yaml.safe_load(_answer(path, {}, MOST_BYTES_OF_TASKS))
        tasks = content["tasks"]
        fitting = [
            task["id"]
            for task in tasks
            if task.get("config", config or "default") == (config or "default")
            and task.get("split", split) == split
        ]
    except (*hub_errors(), yaml.YAMLError, RecursionError, TypeError, KeyError, AttributeError):
        return None
    ids = [task for task in fitting if isinstance(task, str) and _TASK.fullmatch(task)]
    return ids[0] if len(ids) == len(fitting) == 1 else None


def _answer(path: str, query: dict[str, str], most: int) -> bytes:
    """What the Hub sends, of at most this many bytes, with the user's token.

    Raises:
        Exception: one of `hub_errors`, of which `_Refused` is one.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers

    # a compressed answer may be much larger than what is sent
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    ends_s = time.monotonic() + _SECONDS
    content = bytearray()
    with get_session().stream(
        "GET",
        constants.ENDPOINT + path,
        params=query,
        headers=headers,
        timeout=_SECONDS,
        follow_redirects=True,
    ) as response:
        response.raise_for_status()
        for part in response.iter_raw():
            content += part
            if len(content) > most:
                raise _Refused(f"the answer has more than {most:,} bytes")
            if time.monotonic() > ends_s:
                raise _Refused(f"the answer takes more than {_SECONDS:.0f} s")
    return bytes(content)
