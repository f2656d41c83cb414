"""Prints the addresses and a first command when everything of `tasks-api up` answers."""

from __future__ import annotations

import json
import logging
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final

from backend.settings import settings
from backend.telemetry import terminal

if TYPE_CHECKING:
    import threading

    from backend.telemetry.terminal import Output

# How long a degraded service, such as one without a worker yet, may delay the addresses.
DEGRADED_SECONDS = 30.0

READY = "Tasks API is ready"

logger = logging.getLogger("system")


def announce(
    ready: threading.Event, output: Output, degraded_seconds: float = DEGRADED_SECONDS
) -> None:
    """Print addresses and a first command once everything answers, and set `ready`.

    Most problems of the start end within seconds; after `degraded_seconds` the rest is logged.
    """
    api = f"http://{settings().own_host}:{settings().api_port}"
    flower = f"http://{settings().own_host}:{settings().flower_port}{settings().flower_path}"
    patience = time.monotonic() + degraded_seconds
    while (
        (degraded := _degraded(f"{api}/health/ready")) is None
        or (degraded and time.monotonic() < patience)
        or not _answers(flower)
    ):
        time.sleep(0.2)
    ready.set()
    for fault in degraded:
        logger.warning("degraded: %s", fault)
    pages = {"API": api, "Swagger": f"{api}/docs", "ReDoc": f"{api}/redoc", "Flower": flower}
    first = (
        f"curl -X POST {api}/tasks/ "
        """-H "Content-Type: application/json" -d '{"content": "Hello World"}'"""
    )
    if not sys.stdout.isatty():
        keys = {name.lower(): address for name, address in pages.items()}
        output.show(terminal.event("system", READY, **keys, first=first))
        return
    bold, plain = ("\x1b[1m", "\x1b[0m") if terminal.coloured() else ("", "")
    lines = [f"  {name:<9} {address}" for name, address in pages.items()]
    lines = ["", f"{bold}{READY}{plain}", *lines, "Try it:", f"  {first}", "Stop with Ctrl+C.", ""]
    output.write("\n".join([*lines, ""]))


# Without the proxy that the environment may have (http_proxy).
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _degraded(url: str) -> list[str] | None:
    """Return what the API's readiness names as degraded; None while it is not ready."""
    try:
        with _DIRECT.open(url, timeout=1) as answer:
            degraded: list[str] = json.load(answer)["degraded"]
            return degraded
    except (OSError, ValueError):
        return None


def _answers(url: str) -> bool:
    """Return whether a page answers; a login page does too."""
    try:
        with _DIRECT.open(url, timeout=1):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401  # noqa: PLR2004 - Flower with basic auth
    except OSError:
        return False
