"""A server that speaks OpenAI's protocol, and misbehaves on command."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from shaped_eval.backends import openai


class Server(ThreadingHTTPServer):
    """Answers as OpenAI's protocol says, unless `fault(body, count)` answers first: with a status,
    headers and a body, or None to behave, or "drop" to close the connection. `asked` are the bodies
    of completions."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.models: Any = ["tiny"]
        self.fault: Callable[[dict[str, Any], int], Any] = lambda body, count: None
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.encodings: list[str | None] = []
        self.paths: list[str] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    def handle_error(self, *_: Any) -> None:
        """A client that left is no error here."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, status: int, value: Any, **headers: str) -> None:
        text = value if isinstance(value, str | bytes) else json.dumps(value)
        content = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        for name, header in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), header)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        self.server.encodings.append(self.headers["Accept-Encoding"])
        if self.server.models is None:
            self.reply(404, {"detail": "Not Found"})
        else:
            models = self.server.models
            named = isinstance(models, list) and all(isinstance(name, str) for name in models)
            self.reply(200, {"data": [{"id": name} for name in models] if named else models})

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body)
            server.paths.append(self.path)
            count = len(server.asked)
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        fault = server.fault(body, count)
        with server.lock:
            server.under_way -= 1
        if fault == "drop":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if fault is not None:
            self.reply(*fault[:2], **(fault[2] if len(fault) > 2 else {}))
            return
        texts = [f"{body.get('seed')}-{i}\nQuestion: more" for i in range(body.get("n", 1))]
        chat = "messages" in body
        choices = [
            {
                "index": i,
                "finish_reason": "length",
                **({"message": {"content": t}} if chat else {"text": t}),
            }
            for i, t in reversed(list(enumerate(texts)))
        ]
        self.reply(200, {"choices": choices, "usage": {"completion_tokens": 7 * len(texts) + 1}})


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(openai, "BACKOFF_S", 0.01)
    monkeypatch.delenv(openai.KEY_VARIABLE, raising=False)
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def config_of(make_config, server):
    def make(out: str = "run", **changes):
        return make_config(
            out, **{"backend": "openai", "base_url": server.url, "model": "tiny", **changes}
        )

    return make
