"""The built book, opened from its folder in Debian's Chromium: whole, quiet, and as wide as it."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from browser import WIDTHS, Browser, browser, check_width
from places import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("mkdocs") is None, reason="the extra `docs` is not installed"
    ),
]
IMAGES = """[...document.images].filter(image => !(image.complete && image.naturalWidth > 0))
  .map(image => image.src)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The book, built as `make docs` builds it."""
    out = tmp_path_factory.mktemp("book") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as made:
        yield made


class Links(HTMLParser):
    """Anchors of a page, and where its links, images, scripts and styles lead to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.followed: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if (target := values.get("href")) is not None:
            (self.loaded if tag == "link" else self.followed).add(target)
        if target := values.get("src"):
            self.loaded.add(target)


def pages(site: Path) -> list[Path]:
    """The pages of the book. A page of the theme's for addresses that do not exist is left out."""
    return sorted(page for page in site.rglob("*.html") if page.name != "404.html")


def test_every_link_leads_to_a_page_and_an_anchor_of_the_book(site):
    read = {page: Links(page) for page in pages(site)}
    assert len(read) > 60
    broken = []
    for page, links in read.items():
        for target in links.followed | links.loaded:
            where = urlsplit(urljoin(page.as_uri(), target))
            if where.scheme != "file":
                assert target in links.followed, (page, target)  # nothing is loaded from elsewhere
                continue
            file = Path(unquote(where.path))
            anchor = unquote(where.fragment)
            known = read[file].ids | {"__top"} if file in read else set()
            if not file.is_file() or (anchor and anchor not in known):
                broken.append((str(page.relative_to(site)), target))
    assert broken == []


def test_formulas_were_drawn_when_the_book_was_built(site):
    text = (site / "concepts/loss.html").read_text(encoding="utf-8")
    assert text.count("<math") > 10
    assert "arithmatex" not in text
    shown = re.sub(r"<[^>]*>", "", "".join(re.findall(r"<math.*?</math>", text, re.DOTALL)))
    assert "\\" not in shown


@pytest.mark.parametrize(("width", "scheme"), [*zip(WIDTHS, ["light", "dark"], strict=True)])
def test_every_page_fits_and_is_quiet(chromium, site, width, scheme):
    chromium.look(width, scheme)
    for page in pages(site):
        chromium.open(page.as_uri())
        chromium.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
        check_width(chromium, width)
        outside = [url for url in chromium.requests() if not url.startswith(site.as_uri())]
        assert outside == [], page
        assert chromium.told() == [], page
        assert chromium.run(IMAGES) == [], page
        shown = chromium.run("document.body.getAttribute('data-md-color-scheme')")
        assert shown == {"light": "default", "dark": "slate"}[scheme]


def test_a_search_in_the_folder_finds_a_page(chromium, site):
    chromium.look(1280)
    chromium.open((site / "index.html").as_uri())
    chromium.run("document.querySelector('[data-md-component=search-query]').focus()")
    chromium.type("pre-registration")
    found = chromium.run(
        """new Promise(done => {
          const look = () => {
            const links = [...document.querySelectorAll('.md-search-result__link')]
            links.length ? done(links.map(link => link.href)) : setTimeout(look, 100)
          }
          look()
        })"""
    )
    assert any("guides/contrasts.html" in link for link in found)
    outside = [url for url in chromium.requests() if not url.startswith(site.as_uri())]
    assert outside == []
