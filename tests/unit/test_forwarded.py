"""Links behind a proxy, and which proxies are trusted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient

from backend.api.app import create_app
from backend.setting_checks import OWN_PATHS
from backend.settings import settings

if TYPE_CHECKING:
    from fastapi import FastAPI

pytestmark = pytest.mark.usefixtures("configured")

FORWARDED = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "tasks.example",
    "X-Forwarded-For": "192.0.2.7",
}


def application(monkeypatch: pytest.MonkeyPatch, **environment: str) -> FastAPI:
    monkeypatch.setenv("FLOWER_PORT", "5999")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    return create_app()


def links(
    app: FastAPI, headers: dict[str, str], peer: str = "127.0.0.1", host: str = "testserver"
) -> tuple[str, str]:
    """Return Flower's address and that of the page's curl line."""
    client = TestClient(app, f"http://{host}", client=(peer, 50000))
    flower: str = client.get("/", headers=headers).json()["flower"]
    page = client.get("/", headers={**headers, "Accept": "text/html"}).text
    (curl,) = re.findall(r"curl -X POST (\S+)tasks/", page)
    return flower, curl


@pytest.mark.parametrize(
    ("trusted", "peer", "believed"),
    [
        ("", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.0/8, ::1", "10.1.2.3", True),
        ("10.0.0.0/8, ::1", "::1", True),
        ("10.0.0.0/8, ::1", "11.0.0.1", False),
        ("*", "192.0.2.9", True),
    ],
)
def test_forwarded_headers_of_trusted_proxies_only_are_used(
    monkeypatch: pytest.MonkeyPatch, trusted: str, peer: str, *, believed: bool
) -> None:
    app = application(monkeypatch, FORWARDED_ALLOW_IPS=trusted, FLOWER_URL_PREFIX="/flower")
    expected = (
        ("https://tasks.example/flower/", "https://tasks.example/")
        if believed
        else ("http://testserver:5999/flower/", "http://testserver/")
    )
    assert links(app, FORWARDED, peer) == expected


@pytest.mark.parametrize(
    ("headers", "flower"),
    [
        ({}, "http://testserver:5999/flower/"),
        ({"X-Forwarded-Proto": "https"}, "https://testserver/flower/"),
        ({"X-Forwarded-For": "192.0.2.7"}, "http://testserver/flower/"),
        ({"X-Forwarded-Host": "a.example:8443"}, "http://a.example:8443/flower/"),
        ({"X-Forwarded-Host": "sent.by.client, a.example"}, "http://a.example/flower/"),
        ({"X-Forwarded-Host": ""}, "http://testserver/flower/"),
        ({"X-Forwarded-Host": '"><script>'}, "http://testserver/flower/"),
        ({"X-Forwarded-Proto": "javascript"}, "http://testserver/flower/"),
        ({"Forwarded": "host=a.example"}, "http://testserver:5999/flower/"),
    ],
)
def test_each_forwarded_header_works_without_the_others(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], flower: str
) -> None:
    app = application(monkeypatch, FORWARDED_ALLOW_IPS="*", FLOWER_URL_PREFIX="/flower")
    assert links(app, headers)[0] == flower


def test_flower_without_a_prefix_is_linked_by_its_port_behind_a_proxy_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = application(monkeypatch, FORWARDED_ALLOW_IPS="*")
    assert links(app, FORWARDED) == ("http://tasks.example:5999", "https://tasks.example/")


@pytest.mark.parametrize("host", ["[::1]:8060", "[::1]"])
def test_an_ipv6_address_keeps_its_brackets(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    app = application(monkeypatch)
    assert links(app, {}, host=host)[0] == "http://[::1]:5999"


def test_a_404_names_the_path_of_the_documentation_with_the_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = TestClient(application(monkeypatch, ROOT_PATH="/jobs"))
    for path in ("/nothing", "/jobs/nothing", "/jobs/static-offline-docs/nothing"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["detail"].endswith(" See /jobs/docs for all paths.")


def test_no_allowed_prefix_equals_a_path_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    app = application(monkeypatch)
    paths = [getattr(route, "path", "/") for route in app.router.routes]
    assert {path.split("/")[1] for path in paths} - {""} == OWN_PATHS
