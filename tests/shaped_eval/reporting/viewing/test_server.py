"""The server of `shaped-trl view`: for this machine's browser, and for nobody else."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from graded_runs import write_run
from shaped_eval.errors import UserError
from shaped_eval.reporting.viewing.server import MOST_FIELDS, Server, serving

from shaped_trl.cli import main

FIRST = "the page of samples"


def fail(query):
    raise UserError("<b>field</b>='x' has no meaning")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pages = {"": lambda query: FIRST, "echo": lambda query: repr(query), "fail": fail}
    with serving(0, pages) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=bool(headers))
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, {name.lower(): value for name, value in answer.getheaders()}


def test_pages_are_served_with_what_browsers_need_to_be_careful(server):
    status, body, headers = ask(server, f"/{server.secret}/echo?a=1&b=x+y")
    assert (status, body) == (200, "{'a': '1', 'b': 'x y'}")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    assert ask(server, f"/{server.secret}/")[1] == FIRST
    status, body, headers = ask(server, f"/{server.secret}/", "HEAD")
    assert (status, body, headers["content-length"]) == (200, "", str(len(FIRST)))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "127.0.0.2",
        "[::1]",
        "0.0.0.0",
        "localhost@evil.example",
    ],
)
def test_another_host_is_refused(server, host):
    status, body, _ = ask(server, f"/{server.secret}/", Host=host)
    assert status == 403
    assert FIRST not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST:9", "localhost", "127.0.0.1:8080"])
def test_this_machine_by_any_forwarded_port_is_served(server, host):
    assert ask(server, f"/{server.secret}/", Host=host)[:2] == (200, FIRST)


def test_a_request_without_one_host_is_refused(server):
    for lines in ("", "Host: localhost\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", server.server_port), 20) as wire:
            wire.sendall(f"GET /{server.secret}/ HTTP/1.0\r\n{lines}\r\n".encode())
            assert b" 403 " in wire.recv(100)


def test_the_secret_is_needed_and_new_for_each_start(server):
    for path in ("/", "/echo", "/wrong/", f"/{server.secret[:-1]}/", "*"):
        status, body, _ = ask(server, path)
        assert status == 403, path
        assert server.secret not in body
    with serving(0, {}) as other:
        assert other.secret != server.secret
        assert len(other.secret) >= 20


def test_only_named_pages_are_served(server):
    for name in ("other", "../echo", "echo/", "%2e%2e/echo", "echo/../../etc/passwd"):
        assert ask(server, f"/{server.secret}/{name}")[0] == 404
    assert ask(server, f"/{server.secret}/echo", "POST")[0] == 501


def test_errors_are_pages_without_markup_of_others(server):
    status, body, _ = ask(server, f"/{server.secret}/fail")
    assert status == 400
    assert "&lt;b&gt;field&lt;/b&gt;=" in body
    many = "&".join(f"f{i}=1" for i in range(MOST_FIELDS + 1))
    assert ask(server, f"/{server.secret}/echo?{many}")[0] == 400


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(UserError, match="cannot be used"), serving(server.server_port, {}):
        pass
    with pytest.raises(UserError, match="is not a number from 0 to 65535"), serving(70_000, {}):
        pass


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    run = write_run(tmp_path / "run", {"mine": ["pa"]}, 2, completion="a completion")
    process = subprocess.Popen(
        [sys.executable, "-m", "shaped_trl.cli", "view", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        address = urlsplit(process.stdout.readline().strip())
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
        connection.request("GET", address.path)
        page = connection.getresponse().read().decode()
        assert "1–2 of 2 samples" in page
        assert page.count("a completion") == 2
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0
        assert (out, error) == ("", "2 samples; Ctrl-C ends the server\n")
    finally:
        process.kill()
        process.wait()


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    run = write_run(tmp_path / "run", {"mine": ["p"]}, 1)
    for words, message in (
        ([], "the following arguments are required: RUN"),
        ([str(tmp_path)], "is not a run's folder"),
        ([str(run), str(run)], "is given twice"),
        ([str(run), "--port", "x"], "invalid int value: 'x'"),
        ([str(run), "--port", "-1"], "port=-1 is not a number from 0 to 65535"),
    ):
        assert main(["view", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert main(["view", "--help"]) == 0
    assert "127.0.0.1" in capsys.readouterr().out
