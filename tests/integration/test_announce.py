"""The addresses that `up` prints when everything answers."""

from __future__ import annotations

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from backend.local.announce import READY, announce
from backend.telemetry.terminal import Output


class Readiness(BaseHTTPRequestHandler):
    """Answers with the server's `faults`."""

    def do_GET(self) -> None:
        faults: list[list[str]] = self.server.faults  # type: ignore[attr-defined]  # set by the test
        self.send_response(200)
        self.end_headers()
        # Flower is asked too.
        found = faults.pop(0) if len(faults) > 1 and "ready" in self.path else faults[0]
        self.wfile.write(json.dumps({"status": "ready", "degraded": found}).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("lasting", [False, True])
def test_the_addresses_are_printed_even_if_readiness_stays_degraded(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    *,
    lasting: bool,
) -> None:
    caplog.set_level(logging.INFO)
    ready = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Readiness) as server:
        server.faults = [["no worker"], ["no worker"] if lasting else []]  # type: ignore[attr-defined]  # read above
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("API_HOST", "127.0.0.1")
        for name in ("API_PORT", "FLOWER_PORT"):
            monkeypatch.setenv(name, str(server.server_port))
        announce(ready, Output(), 0.5 if lasting else 20.0)
        server.shutdown()
    assert ready.is_set()
    assert ("degraded: no worker" in caplog.messages) is lasting
    assert READY in capsys.readouterr().out
