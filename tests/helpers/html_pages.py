"""A page as a parser sees it: whole, quiet, and in order."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from shaped_eval.reporting.viewing import embedded

VOID = {"meta", "img", "br", "input"}
SCRIPT = embedded.SCRIPT.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks that tags balance; keeps attributes, texts of <pre>, and headings."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tags: list[str] = []
        self.pres: list[str] = []
        self.levels: list[int] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag == "pre":
            self.pres.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "pre" in self.open:
            self.pres[-1] += data


def check_self_contained(text: str) -> Page:
    """No request leaves the page, nothing runs but the script that filters, and its structure is
    whole."""
    page = Page(text)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "poster"):
            assert re.match("data:image/png;base64,|#", value or ""), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
        assert name != "style"
    assert re.findall("<script>(.*?)</script>", text, re.S) in ([], [SCRIPT])
    assert page.tags.count("script") <= 1
    assert not {"link", "iframe", "object", "embed", "base", "form", "svg"} & set(page.tags)
    styles = re.findall("<style>(.*?)</style>", text, re.S)
    assert len(styles) == 1
    assert not re.search(r"url\(|@import|@font-face|expression|javascript:", styles[0])
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value for _, name, value in page.attributes if name == "href"} <= {
        f"#{name}" for name in ids
    }
    policy = dict(
        re.findall(r"([a-z-]+) ([^;\"]+)", re.search(r'Policy" content="(.*?)"', text)[1])
    )
    assert policy["default-src"] == policy["base-uri"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/=]+'", policy["style-src"])
    assert re.fullmatch(r"'sha256-[\w+/=]+'|'none'", policy["script-src"])
    assert page.levels[0] == 1
    assert all(
        later <= level + 1 for level, later in zip(page.levels, page.levels[1:], strict=False)
    )
    assert page.levels.count(1) == 1
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(alts) == page.tags.count("img")
    assert all(alts)
    return page
