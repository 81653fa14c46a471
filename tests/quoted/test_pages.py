"""The numbers on the pages are those of the committed records, and a wrong one is found."""

import re

import pytest
from places import ROOT

from quoted import pages
from quoted.__main__ import main
from quoted.all_pages import PAGES
from quoted.pages import NUMBER, Page, compare, read
from quoted.values import Interval, Number, marked, rounded

# Results without a committed record. Each of these pages says so where it states them.
UNRECORDED = {
    "docs/results/index.md": ["real text, 3 seeds"],
    "kernels/README.md": [
        "1.39 [1.37, 1.41]",
        "took 0.21 ms for cross-entropy, of which e^z is 0.13, and 0.51 ms for the full shape",
        "the top-k added 0.23",
        "takes 619 MiB and TRL's function 4539 MiB",
        "relative, 64 rows",
        "1.3e-5 against 5.3e-7",
    ],
}


def by_path(page: Page) -> str:
    return page.path


@pytest.mark.parametrize("page", PAGES, ids=by_path)
def test_the_numbers_of_a_page_are_those_of_the_records(page):
    problems, _ = compare(page)
    assert problems == []


def test_all_pages_of_results_are_compared():
    results = {str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "results").glob("*.md")}
    assert results <= {page.path for page in PAGES}


def test_what_has_no_record_is_named():
    assert {page.path: list(page.unrecorded) for page in PAGES if page.unrecorded} == UNRECORDED
    assert [page.path for page in PAGES if not page.kept] == ["docs/results/shapes.md"]
    for path in (*UNRECORDED, "docs/results/shapes.md"):
        assert "not kept" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if page.kept], ids=by_path)
def test_a_wrong_digit_is_found_wherever_it_is(page, tmp_path, monkeypatch):
    """One number in five of the page's prose is changed in turn, settings included."""
    text, start, end = read(page)
    code = [found.span() for found in pages.NOT_PROSE.finditer(text)]
    numbers = [
        found
        for found in re.finditer(rf"(?<![A-Za-z\d.]){NUMBER}", text)
        if start <= found.start() < end
        and not any(first <= found.start() < last for first, last in code)
    ]
    assert len(numbers) >= 5
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    changed = tmp_path / page.path
    changed.parent.mkdir(parents=True, exist_ok=True)
    for found in numbers[::5]:
        last = found.end() - 1
        digit = str((int(text[last]) + 1) % 10)
        changed.write_text(text[:last] + digit + text[last + 1 :], encoding="utf-8")
        assert compare(page)[0], text[found.start() - 40 : found.end() + 20]


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page of two sections, of which one is compared."""
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr("quoted.__main__.ROOT", tmp_path)
    text = "# A\n\n9 of them.\n\n## B\n\nIt gains 1.5\npoints [−0.5, 3.5] at size 7, `x = 3`.\n\n### C\n\n4\n"
    (tmp_path / "page.md").write_text(text, encoding="utf-8")

    def quoting(quote: str, **others) -> Page:
        made = Page("page.md", [quote], **{"settings": ["size 7"], "section": "## B"} | others)
        monkeypatch.setattr("quoted.__main__.PAGES", [made])
        return made

    return quoting


GAIN = Interval(1.5, -0.5, 3.5)


def test_a_quote_is_found_across_lines(page):
    assert compare(page(f"gains {GAIN:.1f} points {GAIN:[.1f]}"))[0] == []


@pytest.mark.parametrize(
    ("quote", "others", "problem"),
    [
        (f"gains {-GAIN:.1f} points {GAIN:[.1f]}", {}, "the page says 1.5, and the records say −1.5"),
        (f"gains {GAIN:.1f} points {-GAIN:[.1f]}", {}, "[−0.5, 3.5], and the records say [−3.5, 0.5]"),
        (f"gains {GAIN:.1f} points", {}, "−0.5 is neither computed nor declared"),
        (f"gains {GAIN:.1f} points {GAIN:[.1f]}", {"settings": []}, "7 is neither computed"),
        (f"{GAIN:.1f} points {GAIN:[.1f]}", {"settings": ["size 7", "size 8"]}, "declared, but not on"),
        (f"costs {GAIN:.1f} points {GAIN:[.1f]}", {}, "found 0 times, not once"),
        (f"{Number(9)} of them", {}, "found 0 times, not once"),
        (f"points {GAIN:[.1f]}", {"section": None}, "9 is neither computed nor declared"),
        ("", {"kept": False}, "it must say: The records of this study were not kept"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(page, quote, others, problem):
    problems, _ = compare(page(quote, **others))
    assert any(problem in each for each in problems), problems


def test_a_section_is_there_once(page):
    with pytest.raises(ValueError, match="0 headings '## D'; there must be one"):
        compare(page("", section="## D"))


def test_the_script_writes_the_numbers_of_the_records(page, tmp_path, capsys):
    found = Interval(2.25, 0.5, -4)
    page(f"gains {found:.1f} points {found:[.1f]}")
    assert main([]) == 1
    assert "the page says 1.5, and the records say 2.3" in capsys.readouterr().out
    assert main(["--write"]) == 0
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "It gains 2.3\npoints [0.5, −4.0] at size 7" in text
    assert text.startswith("# A\n\n9 of them.")
    assert main([]) == 0


def test_numbers_are_rounded_as_the_record_writes_them():
    """Binary fractions would make 1.09 of 1.095, and half to even 0 of 0.5."""
    assert [rounded(1.095, ".2f"), rounded(0.5, ".0f"), rounded(2.5, ".0f")] == ["1.10", "1", "3"]
    assert [rounded(-0.04, "+.1f"), rounded(1234.5, ",.0f")] == ["−0.0", "1,235"]


def test_words_are_compared_too(page, tmp_path):
    (tmp_path / "page.md").write_text("## B\n\nIt is **not resolved** (2026-11-26, c0a5e9f).\n")
    right = f"is **{marked('not resolved')}** ({marked('2026-11-26')}, {marked('c0a5e9f')})"
    assert compare(page(right, settings=[]))[0] == []
    problems, _ = compare(page(right.replace("not resolved", "shown"), settings=[]))
    assert "the page says not resolved, and the records say shown" in problems[0]
