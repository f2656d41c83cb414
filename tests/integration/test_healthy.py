"""The containers' health check: which address it asks, and what it reports."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

# Nothing listens on port 9.
PROXIES = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "http://[::1]:9")


@contextmanager
def listening(host: str, path: str) -> Iterator[str]:
    """Serve one path on an address; give the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == path else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    try:
        server = HTTPServer((host, 0), Handler)
    except OSError:
        pytest.skip("there is no such address here")
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    try:
        yield str(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(name: str, **settings: str) -> subprocess.CompletedProcess[str]:
    known = {key: value for key, value in os.environ.items() if not key.startswith("FLOWER_")}
    return subprocess.run(
        [sys.executable, "deploy/healthy.py", name],
        cwd=ROOT,
        env={**known, **PROXIES, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )


@pytest.mark.parametrize(
    ("listens", "host"),
    [
        ("127.0.0.1", ""),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_the_health_check_asks_the_listening_address_without_a_proxy(
    listens: str, host: str
) -> None:
    with listening(listens, "/health/live") as port:
        asked = ask("api", API_HOST=host, API_PORT=port)
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "", "")


@pytest.mark.parametrize("prefix", ["", "/", "flower", "/flower", "/flower/", "/a/flower"])
def test_the_health_check_asks_flower_under_its_prefix(prefix: str) -> None:
    path = "/".join(["", *filter(None, prefix.split("/")), "healthcheck"])
    with listening("127.0.0.1", path) as port:
        assert ask("flower", FLOWER_PORT=port, FLOWER_URL_PREFIX=prefix).returncode == 0


def test_an_unhealthy_process_is_reported_in_one_line() -> None:
    with listening("127.0.0.1", "/elsewhere") as port:
        asked = ask("api", API_PORT=port)
    assert asked.returncode == 1
    assert asked.stderr.count("\n") == 1
