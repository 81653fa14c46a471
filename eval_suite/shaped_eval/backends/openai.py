"""Servers that speak OpenAI's protocol: vLLM, SGLang, `transformers serve`, hosted ones.

M samples of a request.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cached_property
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.util import Retry, Timeout

from shaped_eval.backends.base import Completion, Completions, Request, cut
from shaped_eval.errors import UserError
from shaped_eval.records import FinishReason
from shaped_eval.untrusted.texts import encodable, shorten

if TYPE_CHECKING:
    from shaped_eval.config import SampleConfig

KEY_VARIABLE = "OPENAI_API_KEY"
# A request is repeated after these answers, after a dropped connection, and when nothing came for
# READ_TIMEOUT_S.
RETRIED_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504)
RETRIES: dict[str, Any] = {"total": 8}
# before anything is sampled: no server, no waiting
FIRST_RETRIES: dict[str, Any] = {"total": 3, "connect": 0}
BACKOFF_S = 0.5  # doubled each time, up to 2 minutes; a server's Retry-After counts more
CONNECT_TIMEOUT_S = 10.0
LIST_TIMEOUT_S = 60.0
READ_TIMEOUT_S = 1800.0  # the answer comes whole: a long completion on a busy server takes minutes

MOST_BAD_REPLIES = 10  # until then the other requests go on, so that a run is not held up by one

FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "length",
}


class BadReply(UserError):
    """A server's answer to one request that is not of the protocol's types."""


class OpenAIBackend:
    """`POST /completions`, or `/chat/completions` with `chat_template`, from `concurrency` threads.

    The key is read from ``OPENAI_API_KEY`` and stored nowhere. A sample's `tokens` is its equal
    share of what the server counted for its request (0 where it counts none). A text beyond a stop
    string is cut here too; of a text that UTF-8 cannot hold, each lone surrogate becomes U+FFFD. A
    reply of other types than the protocol's is an error when all other requests are done, and the
    same command then asks for what it lacks alone.

    What a request cannot say in this protocol is the server's: `vllm serve` takes top-k and
    penalties from the model's folder unless it is started with ``--generation-config vllm``;
    `transformers serve` samples only where the model's own settings do.
    """

    repeatability = "best effort: a seed for each request, which the server may not heed"
    together = False

    def __init__(self, config: SampleConfig) -> None:
        self._config = config
        self._url = config.base_url.rstrip("/")
        self.identity = f"{config.model}, as the server calls it"
        self.device = "server"

    def prompt_tokens(self, prompt: str) -> None:
        return None

    def context_tokens(self) -> None:
        return None

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        key = os.environ.get(KEY_VARIABLE)
        options: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "maxsize": self._config.concurrency,
            "block": True,
        }
        parts = urlsplit(self._url)
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def prepare(self) -> None:
        """Ask for the list of models, and where the model is not in it, for one token of it."""
        response = self._send("GET", "/models", None, FIRST_RETRIES)
        if response.status in (401, 403):
            raise self._refusal(response)
        if self._config.model not in _model_names(response):
            self._ask("Hello", 1, {"max_tokens": 1}, FIRST_RETRIES)

    def complete(self, requests: Sequence[Request]) -> Completions:
        def work(item: tuple[int, Request]) -> tuple[int, list[Completion] | BadReply]:
            index, request = item
            try:
                return index, self.generate(request)
            except BadReply as error:
                return index, error

        bad: list[BadReply] = []
        with ThreadPool(self._config.concurrency) as threads:  # daemons: Ctrl-C waits for no answer
            for index, done in threads.imap_unordered(work, enumerate(requests)):
                if not isinstance(done, BadReply):
                    yield index, done
                    continue
                bad.append(done)
                if len(bad) == MOST_BAD_REPLIES:
                    break
        if bad:
            raise UserError(
                f"{bad[0]} ({len(bad)} such answers; what is sampled already is kept)"
            ) from bad[0]

    def generate(self, request: Request) -> list[Completion]:
        """The M completions of one request."""
        config = self._config
        options: dict[str, Any] = {
            "max_tokens": config.max_new_tokens,
            "temperature": 0.0 if request.greedy else config.temperature,
            "top_p": config.top_p,
            "seed": request.seed % 2**31,  # some servers take no more
        }
        if request.stop:
            options["stop"] = list(request.stop)
        reply = self._ask(request.prompts[0], request.num_samples, options, RETRIES)
        choices = reply["choices"]
        if not all(isinstance(choice, dict) for choice in choices):
            raise self._bad("choices", choices)
        if all(isinstance(choice.get("index"), int) for choice in choices):
            choices = sorted(choices, key=lambda choice: choice["index"])
        if len(choices) != request.num_samples:
            few = len(choices) < request.num_samples
            raise UserError(
                f"batch_size={config.batch_size}: the server at {self._url} was asked for n={request.num_samples} "
                f"choices and returned {len(choices)}: "
                + (
                    "use --batch_size 1, one sample a request, and another --out"
                    if few
                    else "look at its log"
                )
            )
        share, rest = divmod(_completion_tokens(reply.get("usage")), len(choices))
        return [
            self._completion(choice, share + (i < rest), request.stop)
            for i, choice in enumerate(choices)
        ]

    def _completion(self, choice: dict[str, Any], tokens: int, stop: Sequence[str]) -> Completion:
        reason = choice.get("finish_reason")
        if reason in (None, "abort", "error"):
            raise UserError(
                f"base_url={self._url!r}: a completion came back unfinished (finish_reason={reason!r}): look at the "
                "server's log; the same command goes on from here"
            )
        if not isinstance(reason, str):
            raise self._bad("finish_reason", reason)
        text, stopped = cut(encodable(self._text(choice)), stop)
        return Completion(text, "stop" if stopped else FINISH_REASONS.get(reason, "stop"), tokens)

    def _text(self, choice: dict[str, Any]) -> str:
        """Of a chat, content is null where all of the answer is elsewhere, such as in a call of a
        tool."""
        name, value = "text", choice.get("text")
        if self._config.chat_template:
            message = choice.get("message") or {}
            if not isinstance(message, dict):
                raise self._bad("message", message)
            name, value = "content", message.get("content")
            value = "" if value is None else value
        if not isinstance(value, str):
            raise self._bad(name, value)
        return value

    def _bad(self, name: str, value: Any) -> BadReply:
        return BadReply(
            f"base_url={self._url!r}: a completion came back with {name}={shorten(repr(value), 60, 0)}, which is not "
            "what OpenAI's protocol has there: look at the server's log"
        )

    def _ask(
        self, prompt: str, num_samples: int, options: dict[str, Any], retries: dict[str, Any]
    ) -> dict[str, Any]:
        body = {"model": self._config.model, **options}
        if num_samples > 1:
            body["n"] = num_samples
        if self._config.chat_template:
            path, body["messages"] = "/chat/completions", [{"role": "user", "content": prompt}]
        else:
            path, body["prompt"] = "/completions", prompt
        response = self._send("POST", path, body, retries)
        if response.status != 200:
            raise self._refusal(response)
        reply = _json(response)
        if not isinstance(reply.get("choices"), list):
            raise BadReply(
                f"base_url={self._url!r}: what answers there does not speak OpenAI's protocol ({_excerpt(response)}): "
                "name the server's address up to /v1"
            )
        return reply

    def _send(
        self, method: str, path: str, body: Any, retries: dict[str, Any]
    ) -> urllib3.BaseHTTPResponse:
        """The answer, whatever its status, after as many repetitions as it takes and `retries`
        allow."""
        policy = Retry(
            **retries,
            backoff_factor=BACKOFF_S,
            backoff_jitter=BACKOFF_S,
            status_forcelist=RETRIED_STATUSES,
            allowed_methods=None,  # POST too: a repeated request costs time, nothing else
            raise_on_status=False,
        )
        content = {} if body is None else {"json": body}
        timeout = Timeout(
            connect=CONNECT_TIMEOUT_S, read=LIST_TIMEOUT_S if body is None else READ_TIMEOUT_S
        )
        try:
            return self._pool.request(
                method, self._url + path, retries=policy, timeout=timeout, **content
            )
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(
                f"base_url={self._url!r} does not answer ({type(reason).__name__}): start the server, or check the "
                "address; what is sampled already is kept"
            ) from error

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> UserError:
        status, said = response.status, _excerpt(response)
        where = f"base_url={self._url!r}"
        if status in (401, 403):
            return UserError(
                f"{where}: the server refuses the key ({status}, {said}): set {KEY_VARIABLE}"
            )
        if status == 404:
            names = ", ".join(_model_names(self._send("GET", "/models", None, FIRST_RETRIES))[:5])
            hint = (
                f"the server's models are {names}"
                if names
                else "name the server's address up to /v1"
            )
            return UserError(
                f"model={self._config.model!r} is not found at {self._url} (404, {said}): {hint}"
            )
        if status in RETRIED_STATUSES:
            return UserError(
                f"{where} still answers {status} ({said}): look at the server's log, or lower --concurrency; the same "
                "command goes on from here"
            )
        return UserError(f"{where}: the server refuses the request ({status}): {said}")


def _json(response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    try:
        value = json.loads(response.data)
    except (ValueError, RecursionError):  # no JSON, no text, or lists within lists without end
        return {}
    return value if isinstance(value, dict) else {}


def _model_names(response: urllib3.BaseHTTPResponse) -> list[str]:
    """What ``GET /models`` lists; nothing where the server has no such list."""
    models = _json(response).get("data")
    if not isinstance(models, list):
        return []
    return [str(model["id"]) for model in models if isinstance(model, dict) and "id" in model]


def _completion_tokens(usage: Any) -> int:
    """What the server counted; 0 where it says nothing, or nothing that counts."""
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return int(count) if isinstance(count, int | float) and 0 <= count < 2**53 else 0


def _excerpt(response: urllib3.BaseHTTPResponse) -> str:
    """What the server said, in one short line."""
    value = _json(response)
    error = value.get("error", value.get("detail", value.get("message")))
    said = error.get("message", error) if isinstance(error, dict) else error
    text = str(said) if said else response.data.decode(errors="replace")
    return " ".join(text.split())[:200] or "no message"
