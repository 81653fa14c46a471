"""A local server that answers as the Hub does when the real client pushes and downloads.

It records what it receives: `files` [(repository type, id)] → path → bytes, and `requests`, one
line each. Like the Hub, it refuses content with a wrong size or sha256, and a commit of a large
file that was not uploaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from shaped_eval.hub.leaderboards import LEADERBOARDS

TOKEN = "hf_" + "x" * 34
Key = tuple[str, str]
KINDS = {"models": "model", "datasets": "dataset", "kernels": "kernel"}


class StandIn(ThreadingHTTPServer):
    """The server's settings:

    refuse: (status, header X-Error-Code, message), the answer to every request whose path contains
        `refused`.
    official: the answer to the request for the list of benchmarks; None for a 404.
    large: files with these ends go through the protocol for large files (git LFS).
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[Key, dict[str, bytes]] = {}
        self.branches: dict[tuple[Key, str], dict[str, bytes]] = {}
        self.private: dict[Key, bool] = {}
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.refuse: tuple[int, str, str] | None = None
        self.refused = "/commit/"
        listed = [{"id": board.dataset_id} for board in LEADERBOARDS.values()]
        self.official: bytes | None = json.dumps(listed).encode()
        self.large: tuple[str, ...] = ()
        self.objects: dict[str, bytes] = {}
        self.verified: set[str] = set()
        self.announced: dict[tuple[Key, str], tuple[int, bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files_of(self, key: Key, revision: str) -> dict[str, bytes] | None:
        """The files of a branch, or of the commit that is a branch's last."""
        branches = {"main": self.files.get(key)}
        branches |= {name: files for (owner, name), files in self.branches.items() if owner == key}
        if revision in branches:
            return branches[revision]
        return next(
            (
                files
                for files in branches.values()
                if files is not None and commit_id(files) == revision
            ),
            None,
        )

    def is_large(self, path: str) -> bool:
        return path.endswith(self.large) if self.large else False


def commit_id(files: dict[str, bytes]) -> str:
    """40 digits that change with the content."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def blob_id(content: bytes) -> str:
    """git's own id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._note()
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "api":
            return self._api(parts[1:], parse_qs(url.query))
        if parts[0] == "large":
            return self._send(200, self.server.objects[parts[1]], {})
        kind = KINDS.get(parts[0])
        owner, name, _, revision, *path = parts[1:] if kind else parts
        repository = self.server.files_of((kind or "model", f"{owner}/{name}"), revision)
        if repository is None:
            return self._missing("RepoNotFound")
        content = repository.get("/".join(path))
        if content is None:
            return self._missing("EntryNotFound", commit_id(repository))
        headers = {"X-Repo-Commit": commit_id(repository), "ETag": f'"{blob_id(content)}"'}
        if not self.server.is_large(path[-1]):
            return self._send(200, content, headers)
        digest = hashlib.sha256(content).hexdigest()
        self.server.objects.setdefault(digest, content)
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        # large files of the Hub are on another host
        elsewhere = self.server.url.replace("127.0.0.1", "localhost")
        return self._send(
            302, b"", {**headers, **linked, "Location": f"{elsewhere}/large/{digest}"}
        )

    do_GET = do_HEAD

    def do_POST(self) -> None:
        body = self._body()
        self._note()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            message = "Invalid credentials in Authorization header"
            return self._json({"error": message}, 401, {"X-Error-Message": message})
        if self.server.refuse is not None and self.server.refused in self.path:
            status, code, message = self.server.refuse
            return self._json(
                {"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message}
            )
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if self.path == "/large/verify":
            return self._verify(json.loads(body))
        kind, owner, name, action, revision = self.path.removeprefix("/api/").split("/")
        key = KINDS[kind], f"{owner}/{name}"
        if action == "branch" and (key, revision) in self.server.branches:
            return self._json({"error": "Reference already exists"}, 409)
        if action == "branch":
            self.server.branches[key, revision] = dict(self.server.files[key])
            return self._json({})
        files = self.server.files_of(key, revision)
        if files is None:
            return self._missing("RevisionNotFound")
        return (
            self._preupload(key, files, json.loads(body))
            if action == "preupload"
            else self._commit(key, files, body)
        )

    def do_PUT(self) -> None:
        body = self._body()
        self._note()
        oid, size = self.path.removeprefix("/large/").split("?size=")
        if hashlib.sha256(body).hexdigest() != oid or len(body) != int(size):
            return self._json({"error": "sha256 or size differs from what was announced"}, 400)
        self.server.objects[oid] = body
        return self._send(200, b"", {})

    def _api(self, parts: list[str], query: dict[str, list[str]]) -> None:
        if parts[0] not in KINDS:  # telemetry and the like
            return self._send(200, b"{}", {"Content-Type": "application/json"})
        if parts == ["datasets"]:
            if self.server.official is None:
                return self._missing("EntryNotFound")
            return self._send(200, self.server.official, {"Content-Type": "application/json"})
        kind, owner, name, *rest = parts
        key = KINDS[kind], f"{owner}/{name}"
        files = self.server.files_of(key, rest[1] if len(rest) > 1 else "main")
        if files is None:
            return self._missing("RepoNotFound")
        if rest[:1] == ["tree"]:
            return self._json(
                self._tree(
                    files, "/".join(rest[2:]), query.get("recursive", [""])[0].lower() == "true"
                )
            )
        if rest == ["refs"]:
            named = [
                ("main", files),
                *((n, one) for (own, n), one in self.server.branches.items() if own == key),
            ]
            branches = [
                {"name": n, "ref": f"refs/heads/{n}", "targetCommit": commit_id(one)}
                for n, one in named
            ]
            return self._json(
                {"branches": branches, "converts": [], "tags": [], "pullRequests": []}
            )
        card = files.get("README.md", b"").decode().split("---\n")
        data = yaml.safe_load(card[1]) if len(card) > 2 else {}
        siblings = [{"rfilename": path} for path in sorted(files)]
        answer = {
            "id": key[1],
            "sha": commit_id(files),
            "siblings": siblings,
            "private": False,
            "tags": [],
        }
        return self._json({**answer, "downloads": 0, "likes": 0, "cardData": data})

    def _tree(self, files: dict[str, bytes], below: str, recursive: bool) -> list[dict[str, Any]]:
        rows, folders = [], set()
        for path, content in sorted(files.items()):
            if below and not path.startswith(f"{below}/"):
                continue
            inner = PurePosixPath(path).relative_to(below)
            if len(inner.parts) > 1 and not recursive:
                folders.add(str(PurePosixPath(below) / inner.parts[0]))
                continue
            row: dict[str, Any] = {
                "type": "file",
                "path": path,
                "size": len(content),
                "oid": blob_id(content),
            }
            if self.server.is_large(path):
                row["lfs"] = {
                    "oid": hashlib.sha256(content).hexdigest(),
                    "size": len(content),
                    "pointerSize": 130,
                }
            rows.append(row)
        return [
            {"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)
        ] + rows

    def _create(self, asked: dict[str, Any]) -> None:
        key = asked.get("type") or "model", f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.server.url}/{'' if key[0] == 'model' else key[0] + 's/'}{key[1]}"
        if key in self.server.files:
            return self._json({"error": "You already created this repository", "url": url}, 409)
        self.server.files[key] = {}
        self.server.private[key] = (
            asked.get("private") is True or asked.get("visibility") == "private"
        )
        return self._json({"url": url, "name": key[1], "id": "0" * 24})

    def _preupload(self, key: Key, files: dict[str, bytes], asked: dict[str, Any]) -> None:
        answers = []
        for one in asked["files"]:
            path = one["path"]
            self.server.announced[key, path] = one["size"], base64.b64decode(one["sample"])
            mode = "lfs" if self.server.is_large(path) else "regular"
            oid = None
            if path in files:
                oid = (
                    hashlib.sha256(files[path]).hexdigest()
                    if mode == "lfs"
                    else blob_id(files[path])
                )
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self._json({"files": answers})

    def _batch(self, asked: dict[str, Any]) -> None:
        assert asked["operation"] == "upload"
        assert asked["hash_algo"] == "sha256"
        objects = []
        for one in asked["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.server.objects:
                upload = {"href": f"{self.server.url}/large/{one['oid']}?size={one['size']}"}
                answer["actions"] = {
                    "upload": upload,
                    "verify": {"href": f"{self.server.url}/large/verify"},
                }
            objects.append(answer)
        return self._json({"transfer": "basic", "objects": objects})

    def _verify(self, asked: dict[str, Any]) -> None:
        content = self.server.objects.get(asked["oid"])
        if content is None or len(content) != asked["size"]:
            return self._json({"error": "not uploaded"}, 404)
        self.server.verified.add(asked["oid"])
        return self._json({})

    def _commit(self, key: Key, files: dict[str, bytes], body: bytes) -> None:
        received, message = {}, ""
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "header":
                message = value["summary"]
            elif row["key"] == "lfsFile":
                content = self.server.objects.get(value["oid"])
                if value["algo"] != "sha256" or content is None or len(content) != value["size"]:
                    return self._json({"error": f"{value['path']} was not uploaded"}, 400)
                received[value["path"]] = content
            else:
                assert row["key"] == "file", row
                assert value["encoding"] == "base64"
                received[value["path"]] = base64.b64decode(value["content"], validate=True)
        for path, content in received.items():
            if self.server.announced[key, path] != (len(content), content[:512]):
                return self._json({"error": f"{path} is not what was announced"}, 400)
        files |= received
        self.server.messages.append(message)
        oid = commit_id(files)
        url = f"{self.server.url}/{'' if key[0] == 'model' else key[0] + 's/'}{key[1]}/commit/{oid}"
        return self._json({"success": True, "commitUrl": url, "commitOid": oid})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _missing(self, code: str, commit: str = "") -> None:
        self._send(
            404, b"", {"X-Error-Code": code, "X-Error-Message": code, "X-Repo-Commit": commit}
        )

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(
            status,
            json.dumps(value).encode(),
            {"Content-Type": "application/json", **(headers or {})},
        )

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
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def point_client_at(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the real client of this process at `server`, logged in and without Xet."""
    from huggingface_hub import constants, hf_api

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(hf_api.api, "endpoint", server.url)  # of the package's functions
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def client_environment(server: StandIn, cache: Any) -> dict[str, str]:
    """The environment that does the same for another process."""
    return {
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(cache),
    }
