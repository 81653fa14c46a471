"""Servers that speak OpenAI's protocol: vLLM, SGLang, `transformers serve` and hosted ones.

Letter: M samples of a request.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from functools import cached_property
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.util import Retry, Timeout

from shaped_eval.backends.base import Completion, Completions, Request, cut
from shaped_eval.backends.replies import Reply, ServedModel, TooLong, exchange, token_count
from shaped_eval.errors import UserError
from shaped_eval.records import FinishReason
from shaped_eval.untrusted.rows import shortened
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

# More than a list of models or an error has, or what a completion has beside its text.
MOST_BYTES = 4 << 20
# Few tokens are as long as this in JSON, and no text has only such tokens.
BYTES_PER_TOKEN = 512

# OpenAI's own limit, to which vLLM keeps, too. The others act when a text has arrived.
MOST_STOP_STRINGS = 4
# Fewer bad replies than this do not stop the other requests.
MOST_BAD_REPLIES = 10

# What vLLM, SGLang, OpenAI and llama.cpp say of a prompt that leaves no room for max_tokens.
CONTEXT_REFUSAL = re.compile(r"context.{0,20}(length|window|size)|context_length_exceeded", re.I)
# and how they say how long the context is
CONTEXT_TOKENS = re.compile(
    r"context (?:length|window|size)[^\d;]{0,20}"
    r"(\d{1,3}(?:,\d{3})+|\d{1,9})(?![.,]?\w)(?!\s{0,3}>)",
    re.IGNORECASE,
)

FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "length",
}


class BadReply(UserError):
    """A server's reply to one request that does not have the protocol's types."""


class ContextRefusal(UserError):
    """A prompt and `max_tokens` together exceed the server's context.

    `context_tokens` is that context, if the message has it.
    """

    def __init__(self, message: str, excerpt: str) -> None:
        super().__init__(message)
        found = CONTEXT_TOKENS.search(excerpt)
        self.context_tokens = int(found[1].replace(",", "")) if found else None


class OpenAIBackend:
    """`POST /completions`, or `/chat/completions` with `chat_template`, from `concurrency` threads.

    The key is read from ``OPENAI_API_KEY`` and stored nowhere. vLLM says which tokens a sample has.
    With other servers a sample's `tokens` is an equal share of what the server counted for its
    request, or 0 where the server does not count; a line on standard error says so. A completion
    ends with the server's context. Where a prompt fills that, its samples are empty and count as
    truncated. A server takes four stop strings; a text is cut at the others here, and its `tokens`
    then include those after the cut. Each lone surrogate, which UTF-8 cannot
    encode, becomes U+FFFD. A reply that does not have the protocol's types, or that has more bytes
    than was asked for, becomes an error after all other requests are done; running the same command
    again asks only for the missing samples.

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

    @property
    def shares_tokens(self) -> bool:
        """Whether the samples of a request have equal shares of its tokens, once it is prepared."""
        together = min(self._config.n, int(self._config.batch_size)) > 1
        return together and self._server is not None and not self._server.returns_token_ids

    @cached_property
    def _pool(self) -> urllib3.PoolManager:
        key = os.environ.get(KEY_VARIABLE)
        options: dict[str, Any] = {
            "headers": {
                "Accept-Encoding": "identity",  # so that a reply's length is known as it arrives
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
            "maxsize": self._config.concurrency,
            "block": True,
        }
        parts = urlsplit(self._url)
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def prepare(self) -> None:
        """Request the list of models and, if the model is not in it, one token from the model."""
        reply = self._send("GET", "/models", None, FIRST_RETRIES)
        if reply.status in (401, 403):
            raise self._refusal(reply)
        config = self._config
        if config.model not in reply.model_names:
            self._ask("Hello", 1, {"max_tokens": 1}, FIRST_RETRIES)
        self._server = ServedModel.of(reply, config.model)
        if self.shares_tokens:
            print(
                f"base_url={self._url!r}: the server there counts the tokens of a request, not of "
                "each sample: the samples of a request are recorded with equal shares",
                file=sys.stderr,
            )

    def complete(self, requests: Sequence[Request]) -> Completions:
        if self._server is None:  # of the processes that share a run, only one prepares
            reply = self._send("GET", "/models", None, FIRST_RETRIES)
            self._server = ServedModel.of(reply, self._config.model)

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
        share, rest = divmod(token_count(reply.get("usage"), "completion_tokens"), len(choices))
        return [
            self._completion(choice, share + (i < rest), request.stop)
            for i, choice in enumerate(choices)
        ]

    def _ask_within_context(
        self, request: Request, options: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The reply, with fewer tokens where the context leaves no room for `max_tokens`.

        None where the prompt alone fills the context.

        Raises:
            UserError: the server does not say how much room it has.
        """
        prompt, num_samples = request.prompts[0], request.num_samples
        try:
            return self._ask(prompt, num_samples, options, RETRIES)
        except ContextRefusal as error:
            refusal = error
        try:
            # one token, in order to learn how many the prompt has
            probe = self._ask(prompt, 1, options | {"max_tokens": 1}, RETRIES)
            room = self._room(token_count(probe.get("usage"), "prompt_tokens"), refusal)
            return self._ask(prompt, num_samples, options | {"max_tokens": room}, RETRIES)
        except ContextRefusal:
            return None

    def _room(self, prompt_tokens: int, refusal: ContextRefusal) -> int:
        """Tokens that the context leaves after a prompt."""
        served = self._server.context_tokens if self._server else None
        context = served or refusal.context_tokens
        # The prompt does fit, with one token more.
        if context is None or not 0 < prompt_tokens < context:
            raise UserError(
                f"max_new_tokens={self._config.max_new_tokens} is too much for a prompt, and the "
                f"server does not say how many tokens its context leaves: use fewer. {refusal}"
            )
        return min(context - prompt_tokens, self._config.max_new_tokens)

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
        tokens = num_samples * options["max_tokens"]
        reply = self._send("POST", path, body, retries, MOST_BYTES + tokens * BYTES_PER_TOKEN)
        if reply.status != 200:
            raise self._refusal(reply)
        if not isinstance(reply.value.get("choices"), list):
            raise BadReply(
                f"base_url={self._url!r}: the server there does not speak OpenAI's protocol "
                f"({reply.excerpt}): give the server's address up to /v1"
            )
        return reply.value

    def _send(
        self,
        method: str,
        path: str,
        body: Any,
        retries: dict[str, Any],
        most_bytes: int = MOST_BYTES,
    ) -> Reply:
        """The reply, whatever its status, after as many repetitions as `retries` allows."""
        policy = Retry(
            **retries,
            backoff_factor=BACKOFF_S,
            backoff_jitter=BACKOFF_S,
            status_forcelist=RETRIED_STATUSES,
            allowed_methods=None,  # including POST: repeating a request costs only time
        )
        timeout = Timeout(
            connect=CONNECT_TIMEOUT_S, read=LIST_TIMEOUT_S if body is None else READ_TIMEOUT_S
        )
        try:
            return exchange(
                self._pool,
                method,
                self._url + path,
                body,
                retries=policy,
                timeout=timeout,
                most_bytes=most_bytes,
            )
        except TooLong as error:
            raise BadReply(
                f"base_url={self._url!r}: a reply of the server has {error}, which nothing that "
                "was asked for needs: check the server's log"
            ) from error
        except urllib3.exceptions.HTTPError as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(
                f"base_url={self._url!r} does not answer ({type(reason).__name__}): start the "
                "server, or check the address; the samples so far are kept"
            ) from error

    def _refusal(self, reply: Reply) -> UserError:
        status, excerpt = reply.status, reply.excerpt
        where = f"base_url={self._url!r}"
        if status in (401, 403):
            return UserError(
                f"{where}: the server refuses the key ({status}, {excerpt}): set {KEY_VARIABLE}"
            )
        if reply.location is not None:
            return UserError(
                f"{where}: the server redirects to {shortened(reply.location)} ({status}): "
                "give the address that it answers at"
            )
        if status == 404:
            names = ", ".join(self._send("GET", "/models", None, FIRST_RETRIES).model_names[:5])
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
        message = f"{where}: the server refuses the request ({status}): {excerpt}"
        if CONTEXT_REFUSAL.search(excerpt):
            return ContextRefusal(message, excerpt)
        return UserError(message)
