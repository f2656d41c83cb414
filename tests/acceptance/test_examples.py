"""The clients in examples/ report errors in one line that names the address."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import free_port
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON = [sys.executable, "examples/client.py"]
NODE = ["node", "examples/client.mjs"]
no_node = pytest.mark.skipif(shutil.which("node") is None, reason="install Debian's nodejs package")
clients = pytest.mark.parametrize(
    "client", [pytest.param(PYTHON, id="python"), pytest.param(NODE, id="node", marks=no_node)]
)


def http(status: str, body: str, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


DETAIL = "PostgreSQL cannot be reached; try again"
# The bytes that a server answers, and the client's message besides the address.
ANSWERS = {
    "503 of ours": (http("503 No", f'{{"detail": "{DETAIL}"}}'), f"answers 503: {DETAIL}"),
    "another site": (http("404 Not Found", "<html>", "text/html"), "TASKS_API_URL"),
    "another page": (http("200 OK", "<html>", "text/html"), "TASKS_API_URL"),
    "other JSON": (http("200 OK", "[]"), "TASKS_API_URL"),
    "other object": (http("200 OK", '{"a": 1}'), "TASKS_API_URL"),
    "an error's other JSON": (http("500 No", "[]"), "TASKS_API_URL"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer ("),
    "nothing": (b"", "does not answer ("),
    "half an answer": (http("200 OK", '{"a": 1}')[:-3], "does not answer ("),
}


@pytest.fixture
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give a function that starts a server with fixed answers and returns its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with closing(connection):
                    connection.recv(10_000)
                    connection.sendall(request.param)

        threading.Thread(target=serve, name="answers", daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def said(client: list[str], url: str) -> str:
    done = subprocess.run(
        client,
        cwd=ROOT,
        env={**os.environ, "TASKS_API_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@clients
@pytest.mark.parametrize(("port", "words"), ANSWERS.values(), ids=ANSWERS.keys(), indirect=["port"])
def test_a_client_reports_an_error_in_one_line(client: list[str], port: int, words: str) -> None:
    line = said(client, f"http://127.0.0.1:{port}")
    assert f"http://127.0.0.1:{port}" in line
    assert words in line


@clients
@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}", "localhost:{port}", "{port}", "http://"]
)
def test_a_client_that_cannot_reach_the_service_names_the_address(
    client: list[str], url: str
) -> None:
    url = url.format(port=free_port())
    line = said(client, url)
    assert url in line
    assert "TASKS_API_URL" in line


def test_a_client_gives_up_after_ten_seconds_without_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as together:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        each = [PYTHON, NODE] if shutil.which("node") else [PYTHON]
        for line in together.map(lambda client: said(client, url), each):
            assert f"{url}/tasks/ does not answer (" in line
