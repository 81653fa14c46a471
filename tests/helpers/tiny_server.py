"""A stand-in for vLLM's server in development mode, with a tiny model: what the asynchronous
trainer asks of it, and no more.

    python tiny_server.py MODEL PORT

As a program it serves until it is killed.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


class TinyServer(ThreadingHTTPServer):
    """Serves the model of a folder at `address`. `requests` counts paths, `loads` transfers."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0, max_model_len: int = 64):
        super().__init__(("127.0.0.1", port), _Handler)
        self.name, self.max_model_len = str(folder), max_model_len
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.lock = threading.Lock()
        self.running = threading.Event()
        self.running.set()
        self.requests: dict[str, int] = {}
        self.loads = 0
        self.logprobs_mode = "processed_logprobs"
        self.takes_weights = True
        self.generator = torch.Generator().manual_seed(0)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> TinyServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        self.requests[path] = self.requests.get(path, 0) + 1
        if path == "/v1/models":
            return {"data": [{"id": self.name, "max_model_len": self.max_model_len}]}
        if path == "/server_info":
            return {"vllm_config": {"model_config": {"logprobs_mode": self.logprobs_mode}}}
        if path == "/pause":
            self.running.clear()
        elif path == "/resume":
            self.running.set()
        elif path == "/collective_rpc":
            assert body["method"] == "load_folder"
            self._load(Path(body["kwargs"]["folder"]))
        elif path == "/v1/completions":
            return self._complete(body)
        return {}

    def _load(self, folder: Path) -> None:
        assert not self.running.is_set(), "weights came while the server generated"
        self.loads += 1
        if self.takes_weights:
            with self.lock:
                self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
                self.model.tie_weights()

    @torch.no_grad()
    def _complete(self, body: dict[str, Any]) -> Any:
        assert body["model"] == self.name
        ids = list(body["prompt"])
        if body.get("prompt_logprobs") is not None:
            with self.lock:
                logps = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            listed = [{str(t): {"logprob": float(logps[i, t])}} for i, t in enumerate(ids[1:])]
            return {"choices": [{"prompt_logprobs": [None, *listed]}]}
        tokens: list[int] = []
        found: list[float] = []
        while len(tokens) < body["max_tokens"] and tokens[-1:] != [1]:
            self.running.wait()
            with self.lock:
                logits = self.model(torch.tensor([ids + tokens])).logits[0, -1]
                logps = (logits / body["temperature"]).log_softmax(-1)
                token = int(torch.multinomial(logps.exp(), 1, generator=self.generator))
            tokens.append(token)
            found.append(float(logps[token]))
        return {"choices": [{"token_ids": tokens, "logprobs": {"token_logprobs": found}}]}


class _Handler(BaseHTTPRequestHandler):
    server: TinyServer

    def _serve(self, body: dict[str, Any]) -> None:
        reply = json.dumps(self.server.answer(urlsplit(self.path).path, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._serve(json.loads(self.rfile.read(length) or b"{}"))

    def log_message(self, *words: object) -> None:
        pass


if __name__ == "__main__":
    torch.set_num_threads(1)
    with TinyServer(Path(sys.argv[1]), int(sys.argv[2])):
        threading.Event().wait()
