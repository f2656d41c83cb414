"""The addresses that `up` prints, and Flower's password, with proxies and unusual settings."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx

from backend.local.announce import READY
from tests.support.ports import free_port
from tests.support.stack import ROOT, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

MINUTE = 60.0
# Nothing listens on port 9.
PROXIES = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "http://[::1]:9")
AUTH = ("ad min", " p\"a's#s:=$w\\~ ")


def test_the_banner_appears_with_proxy_variables_set_and_each_address_answers(
    stack: Stack, tmp_path: Path
) -> None:
    settings = {
        **PROXIES,
        "API_HOST": "127.0.0.2",
        "ROOT_PATH": "/jobs",
        "FLOWER_PORT": str(free_port()),
        "FLOWER_URL_PREFIX": "flower",
        "FLOWER_BASIC_AUTH": ":".join(AUTH),
        "DATA_DIR": str(tmp_path / "data"),
    }
    up = stack.launch("up", environment=settings)

    def banner() -> dict[str, str] | None:
        assert up.popen.poll() is None, up.log
        lines = [line for line in up.log.splitlines() if READY in line]
        return json.loads(lines[0]) if lines else None

    found = eventually(banner, MINUTE, "the banner appears")
    addresses = [found[name] for name in ("api", "swagger", "redoc", "flower")]
    for address in addresses:
        assert address.startswith("http://127.0.0.2:")
        assert httpx.get(address, auth=AUTH).status_code == 200, address
    flower = httpx.get(addresses[0]).json()["flower"]
    assert flower == addresses[-1]
    assert stack.stop("up") == 0


def test_the_example_client_bypasses_the_proxy_for_this_machine(stack: Stack) -> None:
    stack.start("api")
    stack.start("worker")
    done = subprocess.run(
        [sys.executable, "examples/client.py"],
        cwd=ROOT,
        env={**stack.settings(), **PROXIES, "TASKS_API_URL": stack.url},
        capture_output=True,
        text=True,
        timeout=MINUTE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Result: {'id': 1, " in done.stdout


def flower(stack: Stack, name: str, **settings: str) -> str:
    """Start a Flower; return its address when it serves."""
    port = free_port()
    process = stack.launch("flower", name=name, environment={**settings, "FLOWER_PORT": str(port)})
    url = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        assert process.popen.poll() is None, process.log
        try:
            return httpx.get(f"{url}/healthcheck").status_code == 200
        except httpx.TransportError:
            return False

    eventually(serves, MINUTE, "Flower serves")
    return url


def test_only_the_configured_password_with_special_characters_opens_flower(stack: Stack) -> None:
    url = flower(stack, "odd", FLOWER_BASIC_AUTH=":".join(AUTH))
    assert httpx.get(url, auth=AUTH).status_code == 200
    user, password = AUTH
    wrong = [password[:-1], password.strip(), password[:4], f"{password},", "", "x"]
    for each in wrong:
        assert httpx.get(url, auth=(user, each)).status_code == 401, each
    assert httpx.get(url).status_code == 401


def test_empty_flower_variables_mean_the_defaults(stack: Stack) -> None:
    url = flower(stack, "empty", FLOWER_BASIC_AUTH="", FLOWER_URL_PREFIX="")
    assert httpx.get(url).status_code == 200
