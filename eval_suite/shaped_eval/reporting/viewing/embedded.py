"""The samples of graded runs inside a report, where a script selects among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from shaped_eval.benchmarks.terms import WITHHELD, is_publishable
from shaped_eval.reporting.document import Block, Markup, Text
from shaped_eval.reporting.examples import prompt_text, short_prompt
from shaped_eval.reporting.viewing.cards import (
    HEAD_CHARACTERS,
    first_line,
    problem_texts,
    sample_facts,
    sample_texts,
    source_switch,
)
from shaped_eval.reporting.viewing.controls import fields, style
from shaped_eval.reporting.viewing.index import RunIndex, Shown
from shaped_eval.reporting.viewing.scan import read_indices
from shaped_eval.reporting.viewing.selection import Selection, own_prompt
from shaped_eval.untrusted.texts import in_html

_FILES = ("problems.jsonl", "samples.jsonl")
SCRIPT = Path(__file__).with_name("browse.js")
MOST_BYTES = 3_000_000  # of problems.jsonl and samples.jsonl; formulas make a page larger
TOO_LARGE = (
    "The samples are too many for this page. `shaped-trl view RUN` shows them, also those of "
    "several runs side by side."
)
IN_PAGE = (
    "report.html has all samples, to be filtered and searched. `shaped-trl view RUN` shows them as "
    "well."
)


def all_samples(folders: Sequence[str | Path]) -> list[Block]:
    """The samples of runs to browse, problem by problem, or a sentence if they are too many.

    A benchmark whose texts may not be published has a sentence in place of them.
    """
    files = [Path(folder) / name for folder in folders for name in _FILES]
    if sum(path.stat().st_size for path in files) > MOST_BYTES:
        return [Text(TOO_LARGE)]
    with read_indices(folders) as indices:
        benchmarks = dict.fromkeys(name for index in indices for name in index.benchmarks)
        blocks: list[Block] = [
            Text(WITHHELD.format(name)) for name in benchmarks if not is_publishable(name)
        ]
        if any(map(is_publishable, benchmarks)):
            script = SCRIPT.read_text(encoding="utf-8")
            blocks.append(Markup("\n".join(_elements(indices)), IN_PAGE, style(), script))
    return blocks


def _elements(indices: Sequence[RunIndex]) -> Iterator[str]:
    yield '<div class="browse">'
    yield f'<div class="filter" role="search" hidden>{fields(indices, Selection())}</div>'
    yield f'<p class="pages"><span class="found" role="status"></span>{source_switch()}</p>'
    for problem_id in dict.fromkeys(name for index in indices for name in index.problem_ids):
        yield from _problem(problem_id, indices)
    yield "</div>"


def _problem(problem_id: str, indices: Sequence[RunIndex]) -> Iterator[str]:
    having = [index for index in indices if problem_id in index.numbers]
    problem = having[0].problem(having[0].numbers[problem_id])
    if not is_publishable(problem.benchmark):
        return
    start = len(having[0].starts[problem.benchmark])
    prompt = short_prompt(prompt_text(problem.prompt), start, HEAD_CHARACTERS)
    asked = first_line(own_prompt(having[0], problem.benchmark, problem.prompt))
    names = [f"{index.label}: " if len(indices) > 1 else "" for index in indices]
    samples = [_samples(problem_id, index) for index in indices]
    summary = [problem_id]
    for name, shown in zip(names, samples, strict=True):
        right = sum(one.status == "pass" for one in shown)
        if shown:
            summary.append(f"{name}{right:,} of {len(shown):,} right")
    yield (
        f'<details class="problem" data-id="{in_html(problem_id)}" '
        f'data-benchmark="{in_html(problem.benchmark)}">'
        f"<summary>{in_html(' · '.join(summary))}<small>{in_html(asked)}</small></summary>"
    )
    yield problem_texts(problem, prompt)
    yield '<div class="runs">'
    for run, (index, shown) in enumerate(zip(indices, samples, strict=True)):
        heading = f"<h3>{in_html(index.label)}</h3>" if len(indices) > 1 else ""
        yield f"<section>{heading}"
        yield from (_sample(one, run, index.unit, len(shown)) for one in shown)
        yield "</section>"
    yield "</div></details>"


def _samples(problem_id: str, index: RunIndex) -> list[Shown]:
    number = index.numbers.get(problem_id)
    return [] if number is None else [index.shown(row) for row in index.samples_of(number)]


def _sample(shown: Shown, run: int, unit: str, n: int) -> str:
    truncated = " data-truncated" if shown.truncated else ""
    return (
        f'<details class="sample" data-run="{run}" data-verdict="{shown.status}" '
        f'data-agreement="{shown.agreement}" data-length="{shown.length}"{truncated}>'
        f"<summary>{sample_facts(shown, unit, n)}</summary>\n{sample_texts(shown)}</details>"
    )
