"""A server on the loopback that answers as the Hub does, for the requests that the real client sends when it pushes.

It keeps what it receives: `files` [(repository type, id)] → path → bytes, and `requests`, a line each.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "x" * 34
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn(ThreadingHTTPServer):
    """`refuse` = (status, header X-Error-Code, message) answers so to every commit."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: dict[tuple[str, str], bool] = {}
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.refuse: tuple[int, str, str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._note()
        parts = self.path.strip("/").split("/")
        kind = "dataset" if parts[0] == "datasets" else "model"
        owner, name, _, _, *path = parts[1:] if kind == "dataset" else parts
        repository = self.server.files.get((kind, f"{owner}/{name}"), {})
        content = repository.get("/".join(path))
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self._send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    do_GET = do_HEAD

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._note()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid credentials"}, 401)
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        kind, owner, name, action, _ = self.path.removeprefix("/api/").split("/")
        key = kind.removesuffix("s"), f"{owner}/{name}"
        if action == "preupload":
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if self.server.refuse is not None:
            status, code, message = self.server.refuse
            return self._json({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})
        return self._commit(key, body)

    def _create(self, asked: dict[str, Any]) -> None:
        key = asked.get("type") or "model", f"{asked['organization']}/{asked['name']}"
        url = f"{self.server.url}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}"
        if key in self.server.files:
            return self._json({"error": "You already created this repository", "url": url}, 409)
        self.server.files[key] = {}
        self.server.private[key] = asked.get("private") is True or asked.get("visibility") == "private"
        return self._json({"url": url, "name": key[1], "id": COMMIT})

    def _commit(self, key: tuple[str, str], body: bytes) -> None:
        for line in body.splitlines():
            row = json.loads(line)
            if row["key"] == "header":
                self.server.messages.append(row["value"]["summary"])
            else:
                assert row["key"] == "file", row
                assert row["value"]["encoding"] == "base64"
                self.server.files[key][row["value"]["path"]] = base64.b64decode(row["value"]["content"])
        url = f"{self.server.url}/{'datasets/' if key[0] == 'dataset' else ''}{key[1]}/commit/{COMMIT}"
        self._json({"success": True, "commitUrl": url, "commitOid": COMMIT})

    def _json(self, value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _note(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def hub_stand_in() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
