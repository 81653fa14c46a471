"""Replies of a server that speaks OpenAI's protocol: received within limits, and read with care."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import urllib3
from urllib3.util import Retry, Timeout

_PART_BYTES = 1 << 16
# What urllib3 repeats a request after.
_PASSING = (
    urllib3.exceptions.TimeoutError,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.SSLError,
    urllib3.exceptions.ProxyError,
)


class TooLong(Exception):
    """A reply with more bytes than anything that was asked for needs."""


@dataclass(frozen=True)
class Reply:
    """A server's reply.

    Attributes:
        location: where the server redirects to; None if it does not.
    """

    status: int
    content: bytes
    location: str | None = None

    @cached_property
    def value(self) -> dict[str, Any]:
        """The JSON object that the content is; empty if it is none."""
        try:
            value = json.loads(self.content)
        except (ValueError, RecursionError):  # not JSON, not text, or nested too deeply
            return {}
        return value if isinstance(value, dict) else {}

    @property
    def excerpt(self) -> str:
        """The server's message in one short line."""
        value = self.value
        error = value.get("error", value.get("detail", value.get("message")))
        excerpt = error.get("message", error) if isinstance(error, dict) else error
        text = str(excerpt) if excerpt else self.content.decode(errors="replace")
        return " ".join(text.split())[:200] or "no message"

    @property
    def models(self) -> list[dict[str, Any]]:
        """The entries of the reply to ``GET /models``; empty where the server has no such list."""
        models = self.value.get("data")
        if not isinstance(models, list):
            return []
        return [model for model in models if isinstance(model, dict) and "id" in model]

    @property
    def model_names(self) -> list[str]:
        return [str(model["id"]) for model in self.models]


@dataclass(frozen=True)
class ServedModel:
    """What a server's list of models says about one of them.

    Attributes:
        context_tokens: most tokens of prompt and completion together; None where it does not say.
        returns_token_ids: whether it is vLLM, which returns the tokens of each sample.
    """

    context_tokens: int | None = None
    returns_token_ids: bool = False

    @classmethod
    def of(cls, reply: Reply, name: str) -> ServedModel:
        entry = next((model for model in reply.models if model["id"] == name), {})
        length = entry.get("max_model_len")
        known = isinstance(length, int) and not isinstance(length, bool) and length > 0
        return cls(length if known else None, entry.get("owned_by") == "vllm")

    def most_tokens(self, limit: int) -> int:
        """`limit`, or what the context leaves to a completion after a prompt of one token."""
        return limit if self.context_tokens is None else max(1, min(limit, self.context_tokens - 1))


def token_count(usage: Any, name: str) -> int:
    """The server's count of tokens; 0 where it gives none, or one that is not valid."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return int(count) if isinstance(count, int | float) and 0 <= count < 2**53 else 0


def exchange(
    pool: urllib3.PoolManager,
    method: str,
    url: str,
    body: Any,
    *,
    retries: Retry,
    timeout: Timeout,
    most_bytes: int,
) -> Reply:
    """Send a request, and receive at most `most_bytes` of its reply, whatever its status.

    urllib3 repeats requests itself, but it reads the replies that it discards to their end. So they
    are repeated here, by its rules. No redirection is followed.

    Raises:
        TooLong: the reply has more bytes.
        urllib3.exceptions.HTTPError: there is no reply after as many repetitions as `retries`
            allows.
    """
    content = {} if body is None else {"json": body}
    while True:
        response: urllib3.BaseHTTPResponse | None = None
        reply: Reply | None = None
        try:
            response = pool.request(
                method,
                url,
                retries=False,
                redirect=False,
                preload_content=False,
                timeout=timeout,
                **content,
            )
            reply = _received(response, most_bytes)
            if not retries.is_retry(method, reply.status, "Retry-After" in response.headers):
                return reply
            retries = retries.increment(method, url, response=response)
        except urllib3.exceptions.MaxRetryError:
            if reply is None:
                raise
            return reply  # with a status that might have passed
        except _PASSING as error:
            retries = retries.increment(method, url, error=error)
        retries.sleep(response if reply else None)


def _received(response: urllib3.BaseHTTPResponse, most_bytes: int) -> Reply:
    content = bytearray()
    try:
        # As it was sent: what is sent compressed can be a thousand times as long.
        while part := response.read(_PART_BYTES, decode_content=False):
            content += part
            if len(content) > most_bytes:
                raise TooLong(f"more than {most_bytes:,} bytes")
    finally:
        # After a complete reply, the connection is in the pool again, and stays open. Otherwise it
        # is closed, but it must return there: others wait for its place.
        response.close()
        response.release_conn()
    return Reply(response.status, bytes(content), response.get_redirect_location() or None)
