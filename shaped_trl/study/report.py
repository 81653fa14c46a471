"""The report of a study: results.json, report.md, report.html and pictures, from the rows its runs wrote.

Nothing is taken over from a run's own report, and no clock is read: the same rows give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from eval_suite.document import Block, Image, to_html, to_markdown
from eval_suite.errors import UserError
from eval_suite.outcomes import Outcomes, read_outcomes, read_record
from eval_suite.records import write_atomic
from shaped_trl.study.definition import Study, load_study
from shaped_trl.study.evaluation_results import difference, metrics_of, summarise
from shaped_trl.study.pages import blocks
from shaped_trl.study.state import DONE, FAILED, read_state
from shaped_trl.study.training_results import rl_summary, stages_of, training_differences, training_summary

Evaluations = dict[tuple[str, str], dict[int, dict[str, Outcomes]]]  # (arm, stage) → seed → benchmark


def report_study(folder: str | Path, pass_at: Sequence[int] | None = None) -> Path:
    """Write the report of the study in `folder` (where study.yaml lies) and return the page's path.

    Runs that are not done are named and left out. `pass_at` chooses the k of the tables (default 1, 8, 64,
    128, n).

    Raises:
        UserError: no study there, or a k above the number of samples.
    """
    folder = Path(folder)
    if not (folder / "study.yaml").is_file():
        raise UserError(f"{folder}: no study.yaml; give the output folder of `shaped-trl study`")
    study = load_study(folder / "study.yaml", folder)
    results = collect(study, pass_at)
    write_atomic(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    document = blocks(study, results)
    _write_pictures(folder, document)
    title = f"Study: {study.name}"
    write_atomic(folder / "report.md", to_markdown(title, document))
    write_atomic(folder / "report.html", to_html(title, document))
    return folder / "report.html"


def collect(study: Study, pass_at: Sequence[int] | None = None) -> dict[str, Any]:
    """The content of results.json."""
    states = {
        f"{arm}/seed{seed}/{stage}": study.folder(arm, seed, stage)
        for arm in study.arms
        for seed in study.seeds
        for stage in study.stages
    }
    failed = [key for key, path in states.items() if (path / FAILED).exists()]
    incomplete = [key for key, path in states.items() if not (path / DONE).exists()]
    evaluations = _evaluations(study)
    return {
        "study": study.name,
        "baseline": study.baseline,
        "seeds": list(study.seeds),
        "failed": failed,
        "incomplete": incomplete,
        "settings": _settings(study),
        "table_metrics": _table_metrics(evaluations, pass_at),
        "arms": {arm: _arm(study, arm, evaluations, pass_at) for arm in study.arms},
        "training_differences": training_differences(study),
        "differences": _differences(study, evaluations, pass_at),
        "gains": _gains(study, evaluations, pass_at),
    }


def _evaluations(study: Study) -> Evaluations:
    found: Evaluations = {}
    for stage in stages_of(study, "eval"):
        for arm in study.arms:
            folders = {seed: study.folder(arm, seed, stage) for seed in study.seeds}
            found[arm, stage] = {seed: read_outcomes(path) for seed, path in folders.items() if (path / DONE).exists()}
    return found


def _arm(study: Study, arm: str, evaluations: Evaluations, pass_at: Sequence[int] | None) -> dict[str, Any]:
    training = {stage: training_summary(study, arm, stage) for stage in stages_of(study, "train")}
    rl = {stage: rl_summary(study, arm, stage) for stage in stages_of(study, "rlvr")}
    evaluated = {}
    for stage in stages_of(study, "eval"):
        by_seed = list(evaluations[arm, stage].values())
        if by_seed:
            names = list(by_seed[0])
            evaluated[stage] = {name: summarise([each[name] for each in by_seed], pass_at) for name in names}
    return {
        "shape": study.arms[arm].shape,
        "training": {stage: summary for stage, summary in training.items() if summary},
        "rl": {stage: summary for stage, summary in rl.items() if summary},
        "evaluations": evaluated,
        "seconds": {stage: _seconds(study, arm, stage) for stage in study.stages},
    }


def _seconds(study: Study, arm: str, stage: str) -> list[dict[str, Any]]:
    """Wall and CPU seconds, and the attempt that finished, for each seed that is done."""
    states = [read_state(study.folder(arm, seed, stage), DONE) for seed in study.seeds]
    keys = ("wall_seconds", "cpu_seconds", "attempt")
    return [{key: state[key] for key in keys} for state in states if state]


def _table_metrics(evaluations: Evaluations, pass_at: Sequence[int] | None) -> dict[str, list[str]]:
    """The metrics that tables show of each benchmark."""
    runs = [run for by_seed in evaluations.values() for run in by_seed.values()]
    return {name: metrics_of(each, pass_at) for run in runs for name, each in run.items()}


def _differences(study: Study, evaluations: Evaluations, pass_at: Sequence[int] | None) -> list[dict[str, Any]]:
    rows = []
    for stage in stages_of(study, "eval"):
        for arm in study.arms:
            if arm != study.baseline:
                labels = {"arm": arm, "against": study.baseline, "stage": stage}
                rows += _compare(evaluations[study.baseline, stage], evaluations[arm, stage], labels, pass_at)
    return rows


def _gains(study: Study, evaluations: Evaluations, pass_at: Sequence[int] | None) -> list[dict[str, Any]]:
    """What each arm gained from one evaluation to the next one of a model trained further."""
    rows = []
    stages = stages_of(study, "eval")
    for before, after in pairwise(stages):
        for arm in study.arms:
            labels = {"arm": arm, "from": before, "stage": after}
            rows += _compare(evaluations[arm, before], evaluations[arm, after], labels, pass_at)
    return rows


def _compare(
    a: dict[int, dict[str, Outcomes]],
    b: dict[int, dict[str, Outcomes]],
    labels: dict[str, str],
    pass_at: Sequence[int] | None,
) -> list[dict[str, Any]]:
    rows = []
    shared = [name for name in next(iter(a.values()), {}) if name in next(iter(b.values()), {})]
    for name in shared:
        a_seeds, b_seeds = ({seed: each[name] for seed, each in side.items()} for side in (a, b))
        for metric in metrics_of(next(iter(a_seeds.values())), pass_at):
            row = difference(a_seeds, b_seeds, metric) if metric != "pass@1" else None  # it is avg@n
            if row is not None:
                rows.append({**labels, "benchmark": name, "metric": metric, **row})
    return rows


def _settings(study: Study) -> dict[str, Any]:
    """How each evaluation stage sampled, with versions and commit; of the first run that is done."""
    settings = {}
    for stage in stages_of(study, "eval"):
        for arm in study.arms:
            folder = study.folder(arm, study.seeds[0], stage)
            if stage not in settings and (folder / DONE).exists():
                record = read_record(folder)
                settings[stage] = {
                    **record["settings"],
                    "device": record.get("device"),
                    "versions": record["versions"],
                    "commit": record["commit"],
                }
    return settings


def _write_pictures(folder: Path, document: Sequence[Block]) -> None:
    (folder / "report").mkdir(exist_ok=True)
    for block in document:
        if isinstance(block, Image):
            (folder / block.path).write_bytes(block.png)
