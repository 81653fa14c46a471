"""The viewer in Debian's Chromium: wide and narrow, light and dark, by keyboard, and inert."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import WIDTHS, Browser, browser, check_width
from graded_runs import write_run
from shaped_eval.report import report
from shaped_eval.reporting.viewing.pages import Viewer
from shaped_eval.reporting.viewing.scan import read_indices
from shaped_eval.reporting.viewing.selection import Selection, select
from shaped_eval.reporting.viewing.server import serving

LETTERS = {"mine": ["paab", "uTeA", "pppp", "abab"] * 3, "gsm8k": ["pAab", "abpp"]}
HOSTILE = {
    "script": "<script>window.hacked = 1</script></pre><script>alert(1)</script>",
    "image": "<img src=x onerror='window.hacked = 1'><svg onload=alert(1)><iframe src=//a.example>",
    "link": '<a href="javascript:window.hacked=1">x</a> [x](javascript:alert(1)) http://a.example',
    "maths": r"\(\href{javascript:alert(1)}{x}\) \(\text{<img src=x onerror=alert(1)>}\) "
    r"\(\unicode{60}img src=x onerror=alert(1)>\) $\color{red;background:url(//a.example)}x$",
    "marks": "a \u202e\u2066 b\u200f \x00 \x1b[31m\x1b]8;;http://a.example\x07 \u2028",
    "long": "x" * 30_000 + "\t" * 500 + "漢" * 3_000 + r"\(" + "x+" * 400 + r"x\)",
    "style": "<style>*{display:none}</style> \" style=position:fixed ' &lt;script&gt; <!-- <base>",
}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Two runs whose every text is hostile, with a formula that is rendered."""
    out = tmp_path_factory.mktemp("runs")
    text = " ".join(text[:3_000] for text in HOSTILE.values()) + r" and \(\frac{1}{2}\) end"
    first = write_run(out / "a" / "eval", LETTERS, 4, completion=text, prompt=text, gold=text)
    other = {"mine": ["pppp"] * 12, "gsm8k": ["papp", "pppp"]}
    second = write_run(out / "b" / "eval", other, 4, completion=text, prompt=text, gold=text)
    return first, second


@pytest.fixture(scope="module")
def url(runs) -> Iterator[str]:
    with read_indices(runs) as indices:
        viewer = Viewer(indices)
        with serving(0, {"samples": viewer.samples, "problem": viewer.problem}) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield server.url
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory) -> str:
    """The report of both runs."""
    out = tmp_path_factory.mktemp("report")
    report(runs, out=out)
    return (out / "report.html").as_uri()


def check_quiet(chromium: Browser, *asked: str) -> None:
    """Nothing ran, nothing was said, and nothing but the given addresses was asked for."""
    assert chromium.run("document.readyState + ' ' + typeof window.hacked") == "complete undefined"
    assert chromium.told() == []
    assert chromium.requests() == [*asked]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_and_is_quiet(chromium, url, page, width, scheme):
    chromium.look(width, scheme)
    for address in (url + "samples?words=end", url + "problem?id=mine/1", page):
        chromium.open(address)
        chromium.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
        check_width(chromium, width)
        check_quiet(chromium, address)
        light = chromium.run("getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(255, 255, 255)") == (scheme == "light")


def test_two_runs_stand_beside_each_other_or_below(chromium, url):
    places = "[...document.querySelectorAll('.runs > section')].map(one => one.offsetTop)"
    for width, beside in ((1280, True), (400, False)):
        chromium.look(width)
        chromium.open(url + "problem?id=mine/1")
        first, second = chromium.run(places)
        assert (first == second) == beside


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_seen_as_they_are(chromium, tmp_path, name):
    text = HOSTILE[name]
    run = write_run(tmp_path / "run", {"mine": ["p"]}, 1, completion=text, prompt=text, gold=text)
    report([run])
    chromium.look(1280)
    chromium.open((run / "report.html").as_uri())
    chromium.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
    check_quiet(chromium, (run / "report.html").as_uri())
    assert (
        chromium.run("document.querySelectorAll('.browse a, .browse img, .browse svg').length") == 0
    )
    chromium.run("document.querySelector('.sample').scrollIntoView()")
    chromium.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    seen = chromium.run("document.querySelector('.sample pre').innerText")
    for word in ("<script>", "onerror", "javascript:", "[U+202E]", "[U+0000]", "<style>", "漢"):
        assert (word in seen) == (
            word.replace("[U+202E]", "\u202e").replace("[U+0000]", "\0") in text
        )


def test_markup_that_got_into_a_page_would_do_nothing(chromium, url, page):
    """The policy alone: elements are added behind its back."""
    chromium.look(1280)
    for address in (page, url + "samples"):
        chromium.open(address)
        chromium.run(
            """new Promise(done => {
              const script = document.createElement("script")
              script.textContent = "window.hacked = 1"
              const image = document.createElement("img")
              image.onerror = done
              image.src = "http://127.0.0.1:9/leak"
              document.body.append(script, image)
              document.body.insertAdjacentHTML("beforeend", "<a onclick='window.hacked = 1'>x</a>")
              document.body.lastElementChild.click()
            })"""
        )
        assert chromium.run("typeof window.hacked") == "undefined"
        assert chromium.requests() == [address]
        assert len(chromium.told()) == 3  # what the policy refused


def focus(chromium: Browser) -> str:
    """Press Tab, and say where the focus is."""
    chromium.press("Tab")
    return chromium.run(
        "(one => one.name || one.tagName.toLowerCase() + ' ' + one.textContent.slice(0, 40))"
        "(document.activeElement)"
    )


def tab_to(chromium: Browser, wanted: str) -> None:
    for _ in range(60):
        if focus(chromium).startswith(wanted):
            assert chromium.run("document.activeElement.matches(':focus-visible')")
            return
    raise AssertionError(wanted)


def test_the_pages_are_used_by_keyboard(chromium, url):
    chromium.look(400)
    chromium.open(url + "samples")
    tab_to(chromium, "words")
    chromium.type("mine/2")
    chromium.follow("Enter")
    assert chromium.run("document.querySelector('.found').textContent").startswith(
        "1–4 of 4 samples"
    )
    tab_to(chromium, "summary ✓ right · mine/2 · sample 0")
    assert not chromium.run("document.querySelector('.sample').open")
    chromium.press("Enter")
    assert chromium.run("document.querySelector('.sample').open")
    tab_to(chromium, "a This problem in all runs")
    chromium.follow("Enter")
    assert chromium.run("document.querySelector('h1').textContent") == "mine/2"
    tab_to(chromium, "a ✓ 3")
    chromium.follow("Enter")
    assert chromium.run("document.querySelector('.runs h3').textContent").startswith(
        "✓ right · sample 3"
    )
    tab_to(chromium, "a All samples")


def test_formulas_are_drawn_or_shown_as_written(chromium, url):
    chromium.look(1280)
    chromium.open(url + "problem?id=mine/0")
    heights = (
        "[...document.querySelectorAll('.runs mfrac')].map(one => "
        "[...one.children].map(part => part.getBoundingClientRect().top))"
    )
    drawn = chromium.run(heights)
    assert len(drawn) == 2
    for numerator, denominator in drawn:
        assert numerator < denominator
    shown = "document.querySelector('.runs pre').innerText.includes('\\\\frac{1}{2}')"
    assert not chromium.run(shown)
    tab_to(chromium, "input")
    chromium.press(" ")
    assert chromium.run(shown)
    assert chromium.run(
        "[...document.querySelectorAll('math')].every(one => !one.checkVisibility())"
    )


FILTERED = """new Promise(done => {
  const fields = %s
  for (const field of document.querySelectorAll(".filter [name]"))
    field.value = fields[field.name] ?? ""
  document.querySelector(".filter").dispatchEvent(new Event("input"))
  setTimeout(() => done([
    [...document.querySelectorAll(".sample")].filter(one => one.checkVisibility !== undefined
      && !one.hidden && !one.closest(".problem").hidden).map(one => [one.closest(".problem").dataset.id,
      one.querySelector("summary").textContent.match(/sample ([0-9]+)/)[1]]),
    document.querySelector(".found").textContent]), 400)
})"""


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"verdict": "fail"},
        {"verdict": "truncated", "benchmark": "mine"},
        {"agreement": "majority", "verdict": "fail"},
        {"agreement": "none"},
        {"words": "MINE/1"},
        {"words": "\\frac{1}{2}"},
        {"words": "AND \\(\\frac{1}{2}\\) end"},
        {"words": "<script>"},
        {"words": "nowhere"},
        {"shortest": "10", "longest": "10"},
        {"longest": "9"},
    ],
    ids=str,
)
def test_a_report_selects_what_the_command_selects(chromium, runs, page, fields):
    chromium.look(1280)
    chromium.open(page)
    with read_indices(runs) as indices:
        expected = [
            (shown.sample.problem_id, str(shown.sample.sample_index))
            for index in indices
            for shown in map(index.shown, select(index, Selection(**fields)))
        ]
    found, said = chromium.run(FILTERED % json.dumps(fields))
    assert sorted(map(tuple, found)) == sorted(expected)
    problems = len({problem_id for problem_id, _ in expected})
    word = "problem" if problems == 1 else "problems"
    assert said == f"{len(expected)} of {2 * 14 * 4} samples, of {problems} {word}"


def test_a_report_is_filtered_by_keyboard(chromium, page):
    chromium.look(400)
    chromium.open(page)
    tab_to(chromium, "words")
    chromium.type("mine/2")
    chromium.run("new Promise(done => setTimeout(done, 400))")
    shown = "[...document.querySelectorAll('.problem')].filter(one => !one.hidden)"
    assert chromium.run(f"{shown}.map(one => one.dataset.id)") == ["mine/2"]
    tab_to(chromium, "summary mine/2")
    chromium.press("Enter")
    tab_to(chromium, "summary ✓ right · sample 0")
    chromium.press("Enter")
    assert chromium.run(f"{shown}[0].querySelector('.sample').open")
    check_quiet(chromium, page)
