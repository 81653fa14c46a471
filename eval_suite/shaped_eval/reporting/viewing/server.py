"""A server of pages for this machine's own browser.

It listens on 127.0.0.1. An address has a secret that is new for each start, since on a shared
machine other people can reach that port too. A request whose Host is another name is refused: a
page from elsewhere may have let its own name point to 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import errno
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

from shaped_eval.errors import UserError
from shaped_eval.reporting.viewing.pages import error_page

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")  # any port: it may be forwarded
MOST_FIELDS = 1_000
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the pages' own policy has the rest
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Page = Callable[[Mapping[str, str]], str]


class Server(ThreadingHTTPServer):
    """Serves `pages`, a name → what makes the page from the fields of the address."""

    daemon_threads = True

    def __init__(self, port: int, pages: Mapping[str, Page]) -> None:
        self.pages = pages
        self.secret = secrets.token_urlsafe(16)
        super().__init__((ADDRESS, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/{self.secret}/"

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a reader who left
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "shaped-trl", ""
    timeout = 60  # for a client that sends nothing

    def do_GET(self) -> None:
        status, page = self._answer()
        body = page.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        """Say nothing: addresses have the secret in them."""

    def _answer(self) -> tuple[HTTPStatus, str]:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].partition(":")[0].lower() not in HOSTS:
            return HTTPStatus.FORBIDDEN, error_page("This server answers to 127.0.0.1 alone.")
        path, _, fields = self.path.partition("?")
        _, _, rest = path.partition("/")
        secret, _, name = rest.partition("/")
        if not secrets.compare_digest(secret.encode(), self.server.secret.encode()):
            return HTTPStatus.FORBIDDEN, error_page("The address lacks this start's secret.")
        page = self.server.pages.get(name)
        if page is None:
            return HTTPStatus.NOT_FOUND, error_page("There is no such page.")
        try:
            query = dict(parse_qsl(fields, max_num_fields=MOST_FIELDS))
        except ValueError:
            return HTTPStatus.BAD_REQUEST, error_page("The address has too many fields.")
        try:
            return HTTPStatus.OK, page(query)
        except UserError as error:
            return HTTPStatus.BAD_REQUEST, error_page(str(error))


@contextmanager
def serving(port: int, pages: Mapping[str, Page]) -> Iterator[Server]:
    """A server that listens; call its `serve_forever`.

    Args:
        port: 0 for any free one.

    Raises:
        UserError: the port is not a number from 0 to 65535, or cannot be used.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"port={port} is not a number from 0 to 65535")
    try:
        server = Server(port, pages)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise UserError(
            f"port={port} cannot be used ({error.strerror}): choose another one, or leave it out"
        ) from error
    with server:
        yield server
