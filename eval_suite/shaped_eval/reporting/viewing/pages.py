"""The pages of `shaped-trl view`: samples that a reader selects, and a problem in all runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlencode

from shaped_eval.errors import UserError
from shaped_eval.reporting.document import to_page
from shaped_eval.reporting.examples import prompt_text, short_prompt
from shaped_eval.reporting.viewing.cards import (
    HEAD_CHARACTERS,
    first_line,
    mark,
    problem_texts,
    sample_facts,
    sample_texts,
    source_switch,
    tone,
)
from shaped_eval.reporting.viewing.controls import fields, style
from shaped_eval.reporting.viewing.index import AGREEMENTS, VERDICTS, Numbers, RunIndex
from shaped_eval.reporting.viewing.selection import Selection, own_prompt, select
from shaped_eval.untrusted.rows import shortened
from shaped_eval.untrusted.texts import in_html

SAMPLES_A_PAGE = 20
MOST_LINKS = 1_000  # to samples of one problem
SOURCE = "source"  # the field that says whether formulas are shown as they are written
_KEPT_SELECTIONS = 16

Query = Mapping[str, str]


class Viewer:
    """Makes pages of runs. Addresses in them are relative, and everything they need is in them.

    Every method takes the fields of an address, and raises UserError for a value that has no
    meaning.
    """

    def __init__(self, indices: Sequence[RunIndex]) -> None:
        self.indices = indices
        self._selected = lru_cache(_KEPT_SELECTIONS)(self._select)

    def samples(self, query: Query) -> str:
        """The page of samples that are selected, in the order of the run."""
        run = _number(query, "run", len(self.indices) - 1)
        index, selection = self.indices[run], Selection.of(query)
        rows = self._selected(run, selection)
        last = max(0, -(-len(rows) // SAMPLES_A_PAGE) - 1)
        page = min(_number(query, "page"), last)
        shown = rows[page * SAMPLES_A_PAGE : (page + 1) * SAMPLES_A_PAGE]
        kept = _kept(query, run)
        links = _pages(page, last, kept)
        first = page * SAMPLES_A_PAGE + 1
        found = (
            f"{first:,}–{first + len(shown) - 1:,} of {len(rows):,} samples"
            if len(shown)
            else "No sample is selected."
        )
        if len(rows) < len(index):
            found += f" ({len(index):,} without the selection)"
        body = [
            '<form class="filter" role="search" method="get" action="samples">',
            fields(self.indices, selection, str(run)),
            source_switch(query.get(SOURCE) == "1", SOURCE),
            "<button>Show</button></form>",
            '<nav class="pages" aria-label="Pages">',
            f'<span class="found">{found}</span>{links}</nav>',
            *(self._listed(index, int(row), run, kept) for row in shown),
        ]
        if last:
            body.append(f'<nav class="pages" aria-label="More pages">{links}</nav>')
        return _page(f"Samples of {index.label}", body)

    def problem(self, query: Query) -> str:
        """The page of one problem, with one sample of each run that is chosen from all of them."""
        problem_id = query.get("id", "")
        having = [index for index in self.indices if problem_id in index.numbers]
        if not having:
            raise UserError(f"id={shortened(problem_id)} is not a problem of these runs")
        problem = having[0].problem(having[0].numbers[problem_id])
        kept = _kept(query, _number(query, "run", len(self.indices) - 1))
        body = [
            f'<nav class="pages" aria-label="Pages"><a href="samples?{in_html(urlencode(kept))}">'
            f"All samples</a>{_neighbours(having[0], problem_id, kept)}"
            f"{source_switch(query.get(SOURCE) == '1')}</nav>",
            problem_texts(problem, prompt_text(problem.prompt)),
            '<div class="runs">',
            *(self._column(run, problem_id, query, kept) for run in range(len(self.indices))),
            "</div>",
        ]
        return _page(problem_id, body)

    def _select(self, run: int, selection: Selection) -> Numbers:
        return select(self.indices[run], selection)

    def _listed(self, index: RunIndex, row: int, run: int, kept: dict[str, str]) -> str:
        """A sample of the list, folded."""
        shown = index.shown(row)
        number = int(index.rows.problem_S[row])
        problem = index.problem(number)
        start = len(index.starts[problem.benchmark])
        prompt = short_prompt(prompt_text(problem.prompt), start, HEAD_CHARACTERS)
        n = len(index.samples_of(number))
        chosen = {"id": problem.problem_id, f"s{run}": str(shown.sample.sample_index)}
        target = in_html(f"problem?{urlencode(kept | chosen)}")
        several = len(self.indices) > 1
        name = "This problem in all runs" if several else "All samples of this problem"
        asked = in_html(first_line(own_prompt(index, problem.benchmark, problem.prompt)))
        return (
            f'<details class="sample"><summary>'
            f"{sample_facts(shown, index.unit, n, problem.problem_id)}<small>{asked}</small>"
            f'</summary>\n<p><a href="{target}">{name}</a></p>\n'
            f"{problem_texts(problem, prompt)}\n{sample_texts(shown)}</details>"
        )

    def _column(self, run: int, problem_id: str, query: Query, kept: dict[str, str]) -> str:
        """A run's samples of a problem: links to all of them, and the chosen one."""
        index = self.indices[run]
        heading = f"<section><h2>{in_html(index.label)}</h2>"
        number = index.numbers.get(problem_id)
        samples = range(0) if number is None else index.samples_of(number)
        if not samples:
            return f"{heading}<p>It has no samples of this problem.</p></section>"
        wanted = _number(query, f"s{run}", default=int(index.rows.index_S[samples[0]]))
        row = index.row_of(problem_id, wanted)
        if row is None:
            raise UserError(f"s{run}={wanted}: the run {index.label!r} has no such sample")
        shown = index.shown(row)
        chosen = {
            name: query[name]
            for name in map("s{}".format, range(len(self.indices)))
            if name in query
        }
        links = _links(index, samples, row, run, kept | chosen | {"id": problem_id})
        return (
            f"{heading}<p>{in_html(_summary(index, samples))}</p>\n{links}\n"
            f"<h3>{sample_facts(shown, index.unit, len(samples))}</h3>\n"
            f"{sample_texts(shown)}</section>"
        )


def error_page(message: str) -> str:
    """A page that says why an address is not shown."""
    return _page("Not shown", [f"<p>{in_html(message)}</p>"])


def _page(title: str, body: Sequence[str]) -> str:
    head = f"<header><h1>{in_html(title)}</h1></header>"
    return to_page(title, "\n".join([head, "<main>", *body, "</main>"]), css=style(), forms=True)


def _kept(query: Query, run: int) -> dict[str, str]:
    """The fields of an address that its links keep."""
    kept = {"run": str(run)} | Selection.of(query).fields()
    return kept | ({SOURCE: "1"} if query.get(SOURCE) == "1" else {})


def _number(query: Query, name: str, most: int = 2**31, default: int = 0) -> int:
    """A field that is a whole number from 0 to `most`."""
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most):
        raise UserError(f"{name}={shortened(text)} is not a whole number from 0 to {most}")
    return int(text)


def _pages(page: int, last: int, kept: dict[str, str]) -> str:
    """Links to the pages before and after."""
    wanted = (("First", 0), ("Previous", page - 1), ("Next", page + 1), ("Last", last))
    return "".join(
        f' <a href="samples?{in_html(urlencode(kept | {"page": number}))}">{name}</a>'
        for name, number in wanted
        if 0 <= number <= last and number != page
    )


def _neighbours(index: RunIndex, problem_id: str, kept: dict[str, str]) -> str:
    """Links to the problems before and after, in the order of the run."""
    number = index.numbers[problem_id]
    return "".join(
        f' <a href="problem?{in_html(urlencode(kept | {"id": index.problem_ids[other]}))}">'
        f"{name} problem</a>"
        for name, other in (("Previous", number - 1), ("Next", number + 1))
        if 0 <= other < len(index.problem_ids)
    )


def _summary(index: RunIndex, samples: range) -> str:
    """How many samples are right, and the answer that most of them give."""
    part = slice(samples.start, samples.stop)
    right = int((index.rows.status_S[part] == VERDICTS.index("pass")).sum())
    said = f"{right:,} of {len(samples):,} right"
    most = index.rows.agreement_S[part] == AGREEMENTS.index("majority")
    if len(samples) > 1 and most.any():
        shown = index.shown(samples[int(most.argmax())])
        answer = first_line(shown.answer or "")
        said += f"; most common answer: {answer} ({shown.same:,} of {len(samples):,})"
    return said


def _links(index: RunIndex, samples: range, row: int, run: int, query: dict[str, str]) -> str:
    """Links to a problem's samples in the order of their numbers, those around `row` if many."""
    if len(samples) == 1:
        return ""
    first = max(samples.start, min(row - MOST_LINKS // 2, samples.stop - MOST_LINKS))
    near = range(first, min(samples.stop, first + MOST_LINKS))
    left_out = len(samples) - len(near)
    note = f"<p>{left_out:,} samples have no link here.</p>" if left_out else ""
    return f'<ul class="others">{"".join(_link(index, near, row, run, query))}</ul>{note}'


def _link(
    index: RunIndex, samples: range, row: int, run: int, query: dict[str, str]
) -> Iterator[str]:
    for other in samples:
        number = int(index.rows.index_S[other])
        status = VERDICTS[index.rows.status_S[other]]
        target = in_html(f"problem?{urlencode(query | {f's{run}': str(number)})}")
        current = ' aria-current="true"' if other == row else ""
        yield (
            f'<li><a href="{target}" class="{tone(status)}"{current}>{mark(status)} {number}</a>'
            "</li>"
        )
