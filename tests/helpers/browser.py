"""Debian's Chromium, driven through its debugging pipe: pages, keys, colours, widths, pictures."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import pytest

WIDTHS = (1280, 400)  # of a desk's screen and of a phone's
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--hide-scrollbars",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}
IMAGES = """[...document.images].map(image => {
  const box = image.getBoundingClientRect()
  const visible = image.checkVisibility({visibilityProperty: true, opacityProperty: true})
  return {name: image.alt, left: box.left, width: box.width, height: box.height,
          visible: visible && image.complete && image.naturalWidth > 0}
})"""
TEXTS = {"Enter": "\r", " ": " "}


class Browser:
    """One tab. `events` has what the browser told of it: requests, dialogs, messages of scripts."""

    def __init__(self, to_it: IO[bytes], from_it: BufferedReader) -> None:
        self._to_it, self._from_it = to_it, from_it
        self._read = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": session["sessionId"]}
        for name in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{name}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        self._to_it.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            part = self._from_it.read1(1 << 20)
            assert part, "the browser has ended"
            self._read += part
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def close(self) -> None:
        self._session = {}
        self.call("Browser.close")

    def open(self, url: str) -> None:
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.wait_for("load")

    def wait_for(self, name: str) -> None:
        """Wait for the next page's event, unless it has come already."""
        method = f"Page.{name}EventFired"
        while all(event.get("method") != method for event in self.events):
            self.events.append(self._next())

    def type(self, text: str) -> None:
        """A text into the field that has the focus."""
        self.call("Input.insertText", text=text)

    def follow(self, key: str) -> None:
        """A key that leads to another page."""
        self.events.clear()
        self.press(key)
        self.wait_for("load")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key by its name, such as Tab, or a character."""
        code = KEYS.get(key, ord(key.upper()[0]))
        text = TEXTS.get(key, key if len(key) == 1 else "")
        common = {"key": key, "windowsVirtualKeyCode": code}
        down = {"type": "keyDown" if text else "rawKeyDown", "text": text}
        self.call("Input.dispatchKeyEvent", **down, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def look(self, width: int, scheme: str = "light", height: int = 900) -> None:
        """Set the width of the screen, and whether the reader prefers light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened.

        Embedded data and what the page's policy held back are left out.
        """
        held = {
            event["params"]["requestId"]
            for event in self.events
            if event["method"] == "Network.loadingFailed"
            and event["params"].get("blockedReason") == "csp"
        }
        asked = [
            event["params"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        urls = [one["request"]["url"] for one in asked if one["requestId"] not in held]
        return [url for url in urls if not url.startswith("data:")]

    def told(self) -> list[str]:
        """Dialogs, and messages of scripts and of the page's policy, since it was opened."""
        methods = (
            "Page.javascriptDialogOpening",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Runtime.exceptionThrown",
        )
        return [json.dumps(event) for event in self.events if event["method"] in methods]

    def picture(self, path: Path) -> None:
        png = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(png))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with an empty profile. Skips the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium here: none of {', '.join(NAMES)} is a command")
    its_in, to_it = _pipe()
    from_it, its_out = _pipe()

    def place() -> None:  # where the browser expects them
        os.dup2(its_in, 3)
        os.dup2(its_out, 4)

    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder / 'profile'}"],
        preexec_fn=place,
        pass_fds=(3, 4),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_in)
    os.close(its_out)
    try:
        with os.fdopen(to_it, "wb", 0) as writing, os.fdopen(from_it, "rb") as reading:
            made = Browser(writing, reading)
            yield made
            made.close()
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pipe() -> list[int]:
    """A pipe whose descriptors are not among those that are replaced in the browser."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends


def check_layout(page: str, folder: Path, num_images: int) -> None:
    """With all folds open, nothing is wider than the window, nothing is fetched, and every picture
    is seen."""
    path = folder / "shown.html"
    path.write_text(page)
    with browser(folder) as chromium:
        for width in WIDTHS:
            chromium.look(width)
            chromium.open(path.as_uri())
            chromium.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
            check_width(chromium, width)
            assert chromium.requests() == [path.as_uri()]
            images = chromium.run(IMAGES)
            assert len(images) == num_images
            for image in images:
                assert image["visible"], image
                assert image["left"] >= 0, image
                assert min(image["width"], image["height"]) > 100, image


def check_width(chromium: Browser, width: int) -> None:
    """What the page shows is as wide as the window."""
    root = "document.documentElement"
    found = chromium.run(f"[{root}.clientWidth, {root}.scrollWidth]")
    assert found == [width, width]
