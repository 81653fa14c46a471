"""The pages of `shaped-trl view` and of a report: complete, and with hostile texts as texts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from urllib.parse import parse_qsl

import pytest
from graded_runs import write_run
from html_pages import VOID
from shaped_eval.errors import UserError
from shaped_eval.report import report
from shaped_eval.reporting.document import Markup, Text
from shaped_eval.reporting.viewing import embedded, pages
from shaped_eval.reporting.viewing.embedded import all_samples
from shaped_eval.reporting.viewing.pages import Viewer
from shaped_eval.reporting.viewing.scan import read_indices
from shaped_eval.untrusted.texts import readable

EVIL = (
    "</pre></details></main></script><script>alert(1)</script><img src=x onerror=alert(1)> "
    "<a href='javascript:alert(1)'>x</a> \" onmouseover=alert(1) ' \u202eright\u2066 \x00\x1b[31m "
    r"\(\href{javascript:alert(1)}{x}\) \(\text{<script>alert(1)</script>}\) $\frac{1}{2}$ "
)
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "nav", "section", "form"),
    *("h1", "h2", "h3", "p", "a", "ul", "li", "span", "small", "div", "pre", "code", "details"),
    *("summary", "label", "select", "option", "input", "button"),
    *("math", "mrow", "mfrac", "mn", "mtext", "mi", "mo", "msup"),
}


class Page(HTMLParser):
    """Elements of a page; the texts of <pre> without MathML, and the targets of links."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.pres: list[str] = []
        self.links: list[str] = []
        self.names: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS, tag
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "action"):
                assert re.match(r"(samples|problem)(\?|$)", value), value
                self.links.append(value)
        self.names.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "pre":
            self.pres.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "pre" in self.open and "math" not in self.open:
            self.pres[-1] += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with hostile texts everywhere; the second has fewer problems."""
    out = tmp_path_factory.mktemp("pages")
    letters = {"mine": ["pa", "ab", "uT", "pp"] * 6, "gpqa_diamond": ["pa"] * 3}
    texts = {"completion": EVIL, "prompt": EVIL, "gold": EVIL, "model": EVIL}
    first = write_run(out / "<b>first" / "eval", letters, 2, **texts)
    second = write_run(out / "second" / "eval", {"mine": ["ap"] * 4}, 2, **texts)
    rows = [json.loads(line) for line in (first / "problems.jsonl").read_text().splitlines()]
    rename = {row["problem_id"]: row["problem_id"] for row in rows} | {"mine/0": EVIL}
    for name in ("problems", "samples", "verdicts"):
        path = first / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps({**row, "problem_id": rename[row["problem_id"]]}) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))
    return first, second


@pytest.fixture(scope="module")
def viewer(runs):
    with read_indices(runs) as indices:
        yield Viewer(indices)


def fields(link: str) -> dict[str, str]:
    return dict(parse_qsl(link.partition("?")[2]))


def test_hostile_texts_stay_texts(viewer):
    expected = readable(EVIL)
    listed = Page(viewer.samples({}))
    problem = Page(viewer.problem({"id": EVIL}))
    for page in (listed, problem):
        assert {"script", "img", "iframe", "object"} & {*page.names} == set()
        assert page.names.count("mfrac") == page.names.count("math") / 2 > 0
        assert page.pres
    assert {pre.strip("\n") for pre in problem.pres} <= {expected, "7", "A", "none"}
    assert problem.pres.count("\n" + expected) == 3  # prompt, gold, completion
    assert listed.pres.count("\n" + expected) == 3 * pages.SAMPLES_A_PAGE
    Page(viewer.samples({"words": EVIL}))
    Page(pages.error_page(EVIL))


def test_hostile_names_of_benchmarks_stay_texts(tmp_path):
    name = '"><script>alert(1)</script>'
    run = write_run(tmp_path / "run", {name: ["pa"], "mine": ["uu"]}, 2)
    with read_indices([run]) as indices:
        page = Viewer(indices).samples({"benchmark": name})
        assert "script" not in Page(page).names
        assert "1–2 of 2 samples" in page
        assert Page(Viewer(indices).problem({"id": f"{name}/0"})).pres
        assert "<p>0 of 2 right</p>" in Viewer(indices).problem({"id": "mine/0"})
    (markup,) = all_samples([run])
    assert "script" not in Page(markup.elements).names


def test_the_pages_have_every_sample_once(viewer):
    seen = []
    query = {"run": "0", "verdict": "pass"}
    while query:
        page = Page(viewer.samples(query))
        seen += [fields(link)["id"] for link in page.links if link.startswith("problem")]
        following = [link for link in page.links if f"page={len(seen) // 20}" in link]
        query = fields(following[0]) if following and len(seen) % 20 == 0 else {}
    passes = [f"mine/{i}" for i in range(24) for _ in range((1, 0, 0, 2)[i % 4])]
    passes[0] = EVIL
    assert seen == passes + [f"gpqa_diamond/{i}" for i in range(3)]


def test_a_link_keeps_the_selection(viewer):
    query = {"run": "1", "verdict": "fail", "words": "alert(1)", "source": "1"}
    page = viewer.samples(query)
    for link in Page(page).links:
        if "?" in link:
            assert query.items() <= fields(link).items()
    assert 'value="alert(1)"' in page
    assert '<option value="fail" selected>' in page
    assert re.search(r'class="as-source" name="source" value="1" checked', page)


def test_a_problem_stands_in_all_runs_side_by_side(viewer):
    page = viewer.problem({"id": "mine/1", "s0": "1", "s1": "0"})
    columns = page.split('<div class="runs">')[1].split("<section>")[1:]
    assert len(columns) == 2
    assert "0 of 2 right; most common answer: A (1 of 2)" in columns[0]
    assert "wrong · sample 1" in columns[0]
    assert "1 of 2 right" in columns[1]
    assert "wrong · sample 0" in columns[1]
    chosen = re.findall(r'href="problem\?([^"]*)" class="(\w+)" aria-current="true"', page)
    assert [kind for _, kind in chosen] == ["wrong", "wrong"]
    one = viewer.problem({"id": "mine/5", "s0": "1"})
    assert "It has no samples of this problem." in one
    links = [fields(link.replace("&amp;", "&")) for link in re.findall('href="([^"]*)"', one)]
    assert {"mine/4", "mine/6"} <= {link.get("id") for link in links}


def test_many_samples_of_a_problem_have_links_around_the_chosen_one(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MOST_LINKS", 6)
    run = write_run(tmp_path / "run", {"mine": ["p" * 30]}, 30)
    with read_indices([run]) as indices:
        for chosen, shown in ((0, range(6)), (14, range(11, 17)), (29, range(24, 30))):
            page = Viewer(indices).problem({"id": "mine/0", "s0": str(chosen)})
            assert [int(n) for n in re.findall(r">✓ (\d+)</a>", page)] == [*shown]
            assert "24 samples have no link here." in page


@pytest.mark.parametrize(
    ("page", "query", "message"),
    [
        ("samples", {"run": "2"}, "run='2' is not a whole number from 0 to 1"),
        ("samples", {"page": "-1"}, "page='-1' is not"),
        ("samples", {"verdict": "<b>"}, "verdict='<b>': choose from pass"),
        ("problem", {}, "id='' is not a problem of these runs"),
        ("problem", {"id": "mine/1", "s0": "7"}, "s0=7: the run"),
        ("problem", {"id": "mine/1", "s1": "x"}, "s1='x' is not"),
    ],
)
def test_addresses_without_a_meaning_are_refused(viewer, page, query, message):
    with pytest.raises(UserError) as raised:
        getattr(viewer, page)(query)
    assert message in str(raised.value)


def test_a_page_beyond_the_last_is_the_last(viewer):
    assert "41–54 of 54 samples" in viewer.samples({"page": "999"})
    assert "No sample is selected." in viewer.samples({"words": "nowhere", "page": "9"})


def test_long_texts_are_shortened_in_the_middle(tmp_path):
    run = write_run(tmp_path / "run", {"mine": ["p"]}, 1, completion="x" * 300_000)
    with read_indices([run]) as indices:
        page = Viewer(indices).samples({})
    assert "[… 100,000 characters left out …]" in page
    assert len(page) < 250_000


def test_view_shows_what_a_report_leaves_out(runs, viewer):
    assert "gpqa_diamond/0" in viewer.samples({"benchmark": "gpqa_diamond"})
    assert EVIL.count("alert") < viewer.problem({"id": "gpqa_diamond/0"}).count("alert")
    report([runs[0]])
    page = (runs[0] / "report.html").read_text()
    assert "gpqa_diamond/0" not in page
    assert page.count('<details class="problem"') == 24
    assert 'data-benchmark="gpqa_diamond"' not in page
    assert "The authors of gpqa_diamond ask" in page


def test_a_report_has_all_samples_of_all_runs(runs):
    *_, markup = all_samples(runs)
    assert isinstance(markup, Markup)
    assert markup.elements.count('<details class="problem"') == 24 + 1  # one has another id
    assert markup.elements.count('<details class="sample" data-run="0"') == 2 * 24
    assert markup.elements.count('<details class="sample" data-run="1"') == 2 * 4
    assert Page(markup.elements).names.count("script") == 0


def test_what_is_too_large_for_a_report_is_named(runs, monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "MOST_BYTES", 1_000)
    monkeypatch.setattr(embedded, "read_indices", None)  # nothing is read
    (said,) = all_samples(runs)
    assert isinstance(said, Text)
    assert "shaped-trl view" in said.text
    only = write_run(tmp_path / "run", {"gpqa_diamond": ["p"]}, 1)
    monkeypatch.undo()
    (said,) = all_samples([only])
    assert isinstance(said, Text)
    assert "The authors of gpqa_diamond ask" in said.text
