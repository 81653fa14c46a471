"""Servers that speak OpenAI's protocol: vLLM, SGLang, `transformers serve` and hosted ones.

Letter: M samples of a request.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
# A request is repeated after these statuses, after a dropped connection, and when nothing arrives
# for READ_TIMEOUT_S.
RETRIED_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504)
RETRIES: dict[str, Any] = {"total": 8}
# Before anything is sampled, there is no point in waiting for a server that is not running.
FIRST_RETRIES: dict[str, Any] = {"total": 3, "connect": 0}
BACKOFF_S = 0.5  # doubled each time, up to 2 minutes; a server's Retry-After takes precedence
CONNECT_TIMEOUT_S = 10.0
LIST_TIMEOUT_S = 60.0
# a reply arrives in one piece: a long completion on a busy server takes minutes
READ_TIMEOUT_S = 1800.0

# OpenAI's own limit, to which vLLM keeps, too. The others act when a text has arrived.
MOST_STOP_STRINGS = 4
# Fewer bad replies than this do not stop the other requests.
MOST_BAD_REPLIES = 10

# What vLLM, SGLang, OpenAI and llama.cpp say of a prompt that leaves no room for max_tokens.
CONTEXT_REFUSAL = re.compile(r"context.{0,20}(length|window|size)|context_length_exceeded", re.I)

FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "length",
}


class BadReply(UserError):
    """A server's reply to one request that does not have the protocol's types."""


class ContextRefusal(UserError):
    """A prompt and `max_tokens` together exceed the server's context."""


@dataclass(frozen=True)
class ServedModel:
    """What a server's list of models says about one of them.

    Attributes:
        context_tokens: most tokens of prompt and completion together; None where it does not say.
        returns_token_ids: whether it is vLLM, which returns the tokens of each sample.
    """

    context_tokens: int | None = None
    returns_token_ids: bool = False

    def most_tokens(self, limit: int) -> int:
        """`limit`, or what the context leaves to a completion after a prompt of one token."""
        return limit if self.context_tokens is None else max(1, min(limit, self.context_tokens - 1))


class OpenAIBackend:
    """`POST /completions`, or `/chat/completions` with `chat_template`, from `concurrency` threads.

    The key is read from ``OPENAI_API_KEY`` and stored nowhere. vLLM says which tokens a sample has.
    With other servers a sample's `tokens` is an equal share of what the server counted for its
    request, or 0 where the server does not count; a line on standard error says so. A completion
    ends with the server's context. Where a prompt fills that, its samples are empty and count as
    truncated. A server takes four stop strings; a text is cut at the others here, and its `tokens`
    then include those after the cut. Each lone surrogate, which UTF-8 cannot
    encode, becomes U+FFFD. A reply that does not have the protocol's types becomes an error after
    all other requests are done; running the same command again asks only for the missing samples.

    Settings that the protocol does not have are the server's: `vllm serve` takes top-k and
    penalties from the model's folder unless it is started with ``--generation-config vllm``;
    `transformers serve` samples only if the model's own settings do.
    """

    repeatability = "best effort: a seed for each request, which the server may not heed"
    together = False

    def __init__(self, config: SampleConfig) -> None:
        self._config = config
        self._url = config.base_url.rstrip("/")
        self.identity = f"{config.model}, as the server calls it"
        self.device = "server"
        self._server: ServedModel | None = None  # until it is asked

    def prompt_tokens(self, prompt: str) -> None:
        return None

    def context_tokens(self) -> int | None:
        """What the server says, once `prepare` has asked it."""
        return self._server.context_tokens if self._server else None

    @property
    def samples_at_once(self) -> int:
        """The most samples that the server is asked for together."""
        return self._config.concurrency * min(self._config.n, int(self._config.batch_size))

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
        """Request the list of models and, if the model is not in it, one token from the model."""
        response = self._send("GET", "/models", None, FIRST_RETRIES)
        if response.status in (401, 403):
            raise self._refusal(response)
        config = self._config
        if config.model not in _model_names(response):
            self._ask("Hello", 1, {"max_tokens": 1}, FIRST_RETRIES)
        self._server = _served_model(response, config.model)
        if min(config.n, int(config.batch_size)) > 1 and not self._server.returns_token_ids:
            print(
                f"base_url={self._url!r}: the server there counts the tokens of a request, not of "
                "each sample: the samples of a request are recorded with equal shares",
                file=sys.stderr,
            )

    def complete(self, requests: Sequence[Request]) -> Completions:
        if self._server is None:  # of the processes that share a run, only one prepares
            response = self._send("GET", "/models", None, FIRST_RETRIES)
            self._server = _served_model(response, self._config.model)

        def work(item: tuple[int, Request]) -> tuple[int, list[Completion] | BadReply]:
            index, request = item
            try:
                return index, self.generate(request)
            except BadReply as error:
                return index, error

        bad: list[BadReply] = []
        with ThreadPool(
            self._config.concurrency
        ) as threads:  # daemon threads: Ctrl-C does not wait for replies
            for index, done in threads.imap_unordered(work, enumerate(requests)):
                if not isinstance(done, BadReply):
                    yield index, done
                    continue
                bad.append(done)
                if len(bad) == MOST_BAD_REPLIES:
                    break
        if bad:
            raise UserError(
                f"{bad[0]} ({len(bad)} such replies; the samples so far are kept)"
            ) from bad[0]

    def generate(self, request: Request) -> list[Completion]:
        """The M completions of one request."""
        config = self._config
        server = self._server or ServedModel()
        options: dict[str, Any] = {
            "max_tokens": server.most_tokens(config.max_new_tokens),
            "temperature": 0.0 if request.greedy else config.temperature,
            "top_p": config.top_p,
            "seed": request.seed % 2**31,  # some servers accept only 31 bits
        }
        if request.stop:
            options["stop"] = list(request.stop)[:MOST_STOP_STRINGS]
        if server.returns_token_ids:
            options["return_token_ids"] = True
        reply = self._ask_within_context(request, options)
        if reply is None:
            return [Completion("", "length", 0)] * request.num_samples
        choices = reply["choices"]
        if not all(isinstance(choice, dict) for choice in choices):
            raise self._bad("choices", choices)
        if all(isinstance(choice.get("index"), int) for choice in choices):
            choices = sorted(choices, key=lambda choice: choice["index"])
        if len(choices) != request.num_samples:
            few = len(choices) < request.num_samples
            raise UserError(
                f"batch_size={config.batch_size}: the server at {self._url} was asked for "
                f"n={request.num_samples} choices and returned {len(choices)}: "
                + (
                    "use --batch_size 1, which asks for one sample per request, and another --out"
                    if few
                    else "check its log"
                )
            )
        share, rest = divmod(_token_count(reply.get("usage"), "completion_tokens"), len(choices))
        return [
            self._completion(choice, share + (i < rest), request.stop)
            for i, choice in enumerate(choices)
        ]

    def _ask_within_context(
        self, request: Request, options: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The reply, with fewer tokens where the context leaves no room for `max_tokens`.

        None where the prompt alone fills the context.
        """
        prompt, num_samples = request.prompts[0], request.num_samples
        try:
            return self._ask(prompt, num_samples, options, RETRIES)
        except ContextRefusal:
            pass
        try:
            # one token, in order to learn how many the prompt has
            probe = self._ask(prompt, 1, options | {"max_tokens": 1}, RETRIES)
            room = self._room(_token_count(probe.get("usage"), "prompt_tokens"))
            return self._ask(prompt, num_samples, options | {"max_tokens": room}, RETRIES)
        except ContextRefusal:
            return None

    def _room(self, prompt_tokens: int) -> int:
        """Tokens that the context leaves after a prompt; 1 where the server says too little."""
        context = self._server.context_tokens if self._server else None
        if context is None or not prompt_tokens:
            return 1
        return max(1, min(context - prompt_tokens, self._config.max_new_tokens))

    def _completion(self, choice: dict[str, Any], tokens: int, stop: Sequence[str]) -> Completion:
        reason = choice.get("finish_reason")
        if reason in (None, "abort", "error"):
            raise UserError(
                f"base_url={self._url!r}: a completion is unfinished (finish_reason={reason!r}): "
                "check the server's log; the same command continues from here"
            )
        if not isinstance(reason, str):
            raise self._bad("finish_reason", reason)
        text, stopped = cut(encodable(self._text(choice)), stop)
        if isinstance(token_ids := choice.get("token_ids"), list):
            tokens = len(token_ids)
        return Completion(text, "stop" if stopped else FINISH_REASONS.get(reason, "stop"), tokens)

    def _text(self, choice: dict[str, Any]) -> str:
        """The text of a choice.

        The content of a chat message is null if the answer is all elsewhere, such as in a tool
        call.
        """
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
            f"base_url={self._url!r}: a completion has {name}={shorten(repr(value), 60, 0)}, "
            "which does not conform to OpenAI's protocol: check the server's log"
        )

    def _ask(
        self, prompt: str, num_samples: int, options: dict[str, Any], retries: dict[str, Any]
    ) -> dict[str, Any]:
        body = {"model": self._config.model, **options}
        if num_samples > 1:
            body["n"] = num_samples
        if self._config.chat_template:
            path = "/chat/completions"
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            path = "/completions"
            body["prompt"] = prompt
        response = self._send("POST", path, body, retries)
        if response.status != 200:
            raise self._refusal(response)
        reply = _json(response)
        if not isinstance(reply.get("choices"), list):
            raise BadReply(
                f"base_url={self._url!r}: the server there does not speak OpenAI's protocol "
                f"({_excerpt(response)}): give the server's address up to /v1"
            )
        return reply

    def _send(
        self, method: str, path: str, body: Any, retries: dict[str, Any]
    ) -> urllib3.BaseHTTPResponse:
        """The response, whatever its status, after as many repetitions as `retries` allows."""
        policy = Retry(
            **retries,
            backoff_factor=BACKOFF_S,
            backoff_jitter=BACKOFF_S,
            status_forcelist=RETRIED_STATUSES,
            allowed_methods=None,  # including POST: repeating a request costs only time
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
                f"base_url={self._url!r} does not answer ({type(reason).__name__}): start the "
                "server, or check the address; the samples so far are kept"
            ) from error

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> UserError:
        status = response.status
        excerpt = _excerpt(response)
        where = f"base_url={self._url!r}"
        if status in (401, 403):
            return UserError(
                f"{where}: the server refuses the key ({status}, {excerpt}): set {KEY_VARIABLE}"
            )
        if status == 404:
            names = ", ".join(_model_names(self._send("GET", "/models", None, FIRST_RETRIES))[:5])
            hint = (
                f"the server's models are {names}"
                if names
                else "give the server's address up to /v1"
            )
            return UserError(
                f"model={self._config.model!r} is not found at {self._url} (404, {excerpt}): {hint}"
            )
        if status in RETRIED_STATUSES:
            return UserError(
                f"{where} still answers {status} ({excerpt}): check the server's log, or lower "
                "--concurrency; the same command continues from here"
            )
        kind = ContextRefusal if CONTEXT_REFUSAL.search(excerpt) else UserError
        return kind(f"{where}: the server refuses the request ({status}): {excerpt}")


def _json(response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    try:
        value = json.loads(response.data)
    except (ValueError, RecursionError):  # not JSON, not text, or nested too deeply
        return {}
    return value if isinstance(value, dict) else {}


def _models(response: urllib3.BaseHTTPResponse) -> list[dict[str, Any]]:
    """The entries of the reply to ``GET /models``; empty where the server has no such list."""
    models = _json(response).get("data")
    if not isinstance(models, list):
        return []
    return [model for model in models if isinstance(model, dict) and "id" in model]


def _model_names(response: urllib3.BaseHTTPResponse) -> list[str]:
    return [str(model["id"]) for model in _models(response)]


def _served_model(response: urllib3.BaseHTTPResponse, name: str) -> ServedModel:
    entry = next((model for model in _models(response) if model["id"] == name), {})
    length = entry.get("max_model_len")
    known = isinstance(length, int) and not isinstance(length, bool) and length > 0
    return ServedModel(length if known else None, entry.get("owned_by") == "vllm")


def _token_count(usage: Any, name: str) -> int:
    """The server's count of tokens; 0 where it gives none, or one that is not valid."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return int(count) if isinstance(count, int | float) and 0 <= count < 2**53 else 0


def _excerpt(response: urllib3.BaseHTTPResponse) -> str:
    """The server's message in one short line."""
    value = _json(response)
    error = value.get("error", value.get("detail", value.get("message")))
    excerpt = error.get("message", error) if isinstance(error, dict) else error
    text = str(excerpt) if excerpt else response.data.decode(errors="replace")
    return " ".join(text.split())[:200] or "no message"
