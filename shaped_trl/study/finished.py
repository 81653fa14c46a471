"""The record of a finished run: a line of records.jsonl with all that the report needs of it.

With the records, a study can also be continued elsewhere. A folder with only ``study.yaml``,
``records.jsonl`` and ``fingerprints.json`` gives the same report, and a study that is started there
runs only what is missing.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat, starmap
from operator import eq
from pathlib import Path
from typing import Any

import numpy as np
from shaped_eval.reporting.outcomes import Outcomes, read_outcomes, read_record
from shaped_eval.statistics.votes import Ballot
from shaped_eval.untrusted.rows import read_object

from shaped_trl.study.definition import DIVIDED, TEMPERATURE, VERSION, Study
from shaped_trl.study.plan import FOUND
from shaped_trl.study.record_fields import NOT_FINITE
from shaped_trl.study.records import add_record, read_records
from shaped_trl.study.state import DONE, read_state
from shaped_trl.training.log_reading import RL_LOG, TRAIN_LOG, read_log

Rows = list[dict[str, Any]]
_TRAIN_COLUMNS = (
    "nll",
    "perplexity",
    "entropy",
    "head_mass",
    "tail_mass",
    "rare_nll",
    "nll_source_text",
)
COLUMNS = {
    "train": ("step", "tokens", *_TRAIN_COLUMNS, *(f"eval_{name}" for name in _TRAIN_COLUMNS)),
    "rlvr": (
        *("step", "raw_reward", "reward", "entropy", "completion_length", "clip_ratio"),
        "rollout_tokens",
    ),
}
# A metric of a benchmark that was run during training (`shaped_trl.training.evaluation`).
BENCHMARK_COLUMN = re.compile(r"benchmark/(?P<benchmark>.+)/(?P<metric>(?:avg|cons|pass)@[1-9]\d*)")
_DIGITS = 7  # significant digits; logged values are float32
# A batch without a graded completion has no mean reward, which says nothing about the model.
_MAY_BE_UNDEFINED = ("raw_reward", "reward")


def finished_run(
    study: Study, arm: str, seed: int, stage: str, fingerprint: str | None = None
) -> dict[str, Any] | None:
    """The record of a run, or None if it is not done. It is renewed if the run was repeated.

    The keys are: ``version``, that of the definition (without it, 1, in which a command line with β
    and no `--positive` meant the product); ``outcome``, the content of done.json; and one of
    ``log`` (column → values), ``evaluation`` (settings and outcomes of each benchmark) and
    ``found`` (a temperature). Paths in the study's folder are relative to it, wherever it was when
    the run was made. With a `fingerprint`, only a run with these settings counts.
    """
    folder, key = study.folder(arm, seed, stage), study.key(arm, seed, stage)
    kept = read_records(study.out).finished.get(key)
    outcome = _relative(read_state(folder, DONE), _parent(study, folder))
    accepted = (None, outcome.get("fingerprint"))
    if outcome and fingerprint in accepted and (kept is None or kept["outcome"] != outcome):
        content = _relative(_content(study, folder, stage), _parent(study, folder))
        add_record(study.out, key, {"version": VERSION, "outcome": outcome, **content})
        kept = read_records(study.out).finished[key]
    return kept if kept and fingerprint in (None, kept["outcome"].get("fingerprint")) else None


def _parent(study: Study, folder: Path) -> str:
    """Where the study's folder was when this run was made, from the run's command line."""
    place = folder.relative_to(study.out).as_posix()
    argv = read_state(folder, DONE).get("argv", [])
    return next(
        (text.removesuffix(place) for text in argv if text.endswith(f"/{place}")), f"{study.out}/"
    )


def _relative(value: dict[str, Any], parent: str) -> dict[str, Any]:
    """The JSON value without `parent` at the beginning of its strings."""
    return json.loads(json.dumps(value).replace(json.dumps(parent)[:-1], '"'))


def _content(study: Study, folder: Path, stage: str) -> dict[str, Any]:
    if stage.startswith((f"{TEMPERATURE}-", f"{DIVIDED}-")):
        return {"found": read_object(folder / FOUND)}
    command = study.stages[stage].command
    if command == "eval":
        outcomes = {name: _plain(each) for name, each in read_outcomes(folder).items()}
        return {"evaluation": {"run": read_record(folder), "outcomes": outcomes}}
    rows = read_log(folder / (TRAIN_LOG if command == "train" else RL_LOG))
    columns = [name for name in COLUMNS[command] if any(name in row for row in rows)]
    columns += sorted({name for row in rows for name in row if BENCHMARK_COLUMN.fullmatch(name)})
    return {"log": {name: [_logged(row, name) for row in rows] for name in columns}}


def _logged(row: dict[str, Any], name: str) -> float | str | None:
    value = row.get(name)
    if value is None and name in row and name not in _MAY_BE_UNDEFINED:
        return NOT_FINITE
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _plain(outcomes: Outcomes) -> dict[str, Any]:
    plain = {
        name: value
        for name, value in vars(outcomes).items()
        # a run of a study is whole: nothing of it is left out
        if name not in ("passes_P", "ballots_P", "tokens_PM", "passed_PM", "left_out")
    }
    return plain | {
        "passes_P": outcomes.passes_P.tolist(),
        # Many rivals have one vote, so pairs [votes, number of rivals with so many] are written.
        "ballots_P": [
            [each.gold, list(Counter(each.rivals).items()), each.silent]
            for each in outcomes.ballots_P
        ],
    }


def outcomes_of(kept: dict[str, Any]) -> dict[str, Outcomes]:
    """Benchmark → outcomes of a finished evaluation."""
    return {
        name: Outcomes(
            **{
                **plain,
                "statuses": Counter(plain["statuses"]),
                "passes_P": np.array(plain["passes_P"], dtype=np.int64),
                "ballots_P": [_ballot(*ballot) for ballot in plain["ballots_P"]],
            }
        )
        for name, plain in kept["evaluation"]["outcomes"].items()
    }


def _ballot(gold: int, pairs: list[tuple[int, int]], silent: int) -> Ballot:
    rivals: Any = _Rivals(pairs)  # which stands for the tuple that it is equal to
    return Ballot(gold, rivals, silent)


class _Rivals(Sequence[int]):
    """The votes for each rival, of which only the pairs [votes, number of rivals] are in memory.

    A pair of a foreign record stands for up to ten million rivals.
    """

    def __init__(self, pairs: list[tuple[int, int]]) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return sum(number for _, number in self._pairs)

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(starmap(repeat, self._pairs))

    def __getitem__(self, index: Any) -> Any:
        return next(islice(self, range(len(self))[index], None))

    def count(self, value: Any) -> int:
        return sum(number for votes, number in self._pairs if votes == value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))


def rows_of(kept: dict[str, Any]) -> Rows:
    """The rows of a finished run's log, without columns that have no value in a row.

    A value that was not finite is NaN.
    """
    columns = kept["log"]
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return [
        {name: math.nan if v == NOT_FINITE else v for name, v in row.items() if v is not None}
        for row in rows
    ]
