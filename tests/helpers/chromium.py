"""A page as a browser lays it out, at the width of a desk's screen and of a phone's."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (1280, 400)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# A window is never narrower than 500 pixels; a frame is as narrow as it is told to be.
FRAME = '<iframe width="{width}" height="900" style="border: 0" srcdoc="{page}"></iframe>'
MEASURE = """
addEventListener("load", () => {
  const look = frame => {
    const root = frame.contentDocument.documentElement
    frame.contentDocument.querySelectorAll("details").forEach(details => details.open = true)
    const images = [...frame.contentDocument.images].map(image => {
      const box = image.getBoundingClientRect()
      const loaded = image.complete && image.naturalWidth > 0
      return {name: image.alt, left: box.left, width: box.width, height: box.height,
              visible: loaded && image.checkVisibility({visibilityProperty: true, opacityProperty: true})}
    })
    const fetched = frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
    return {width: root.clientWidth, content: root.scrollWidth, images,
            fetched: fetched.filter(name => !name.startsWith("data:"))}
  }
  const found = [...document.querySelectorAll("iframe")].map(look)
  document.documentElement.innerHTML = "<pre></pre>"
  document.querySelector("pre").textContent = JSON.stringify(found)
})
"""


def look_at(page: str, folder: Path) -> list[dict[str, Any]]:
    """All folds open, for each of `WIDTHS`: "width" of the window, "content", how wide what it
    shows is, "images", and "fetched", the addresses that were asked for. Skips the test where there
    is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium here: none of {', '.join(NAMES)} is a command")
    frames = "".join(FRAME.format(width=width, page=html.escape(page)) for width in WIDTHS)
    shown = folder / "shown.html"
    shown.write_text(f'<!doctype html><meta charset="utf-8"><script>{MEASURE}</script>{frames}')
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    ]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--timeout=60000", "--dump-dom"]
    done = subprocess.run(
        [program, *flags, shown.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search("<pre>(.*)</pre>", done.stdout, re.S)
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


def check_layout(page: str, folder: Path, num_images: int) -> None:
    """Nothing is wider than the window, nothing is fetched, and every picture is seen."""
    for width, seen in zip(WIDTHS, look_at(page, folder), strict=True):
        assert (seen["width"], seen["content"]) == (width, width), (width, seen)
        assert seen["fetched"] == [], seen["fetched"]
        assert len(seen["images"]) == num_images, seen["images"]
        for image in seen["images"]:
            assert image["visible"], image
            assert image["left"] >= 0, image
            assert min(image["width"], image["height"]) > 100, image
