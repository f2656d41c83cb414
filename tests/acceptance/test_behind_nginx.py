"""Behind the nginx of README.md: a path prefix, correct links, keep-alive connections."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from backend.settings import Settings
from tests.support import documents
from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.servers import Missing
from tests.support.stack import ROOT, Stack, serving
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ

BROWSER = {"Accept": "text/html"}
# nginx closes a connection after a thousand requests.
REQUESTS, CLIENTS = 10_000, 10


def recipe() -> str:
    (block,) = documents.blocks("nginx")
    return block.text


def settings_of_the_recipe() -> dict[str, str]:
    (block,) = (each for each in documents.blocks("dotenv") if "ROOT_PATH" in each.text)
    return dict(line.split("=", 1) for line in block.text.splitlines())


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service, configured as in the document, to the tests of this file."""
    folder = tmp_path_factory.mktemp("behind-nginx")
    environment = {"FLOWER_PORT": str(free_port()), **settings_of_the_recipe()}
    commands = ("api", "worker", "flower")
    with serving(
        postgres_server, rabbitmq_server, folder, *commands, environment=environment
    ) as stack:
        eventually(lambda: healthy(stack, "flower"), 30, "Flower serves")
        yield stack


@pytest.fixture(scope="module", params=["keeps", "removes"])
def nginx(service: Stack, request: pytest.FixtureRequest) -> Iterator[Nginx]:
    """Give the nginx of the document, and one that removes the prefix."""
    text = recipe().replace(":8060;", f":{service.port};")
    text = text.replace(":5555;", f":{service.environment['FLOWER_PORT']};")
    if request.param == "removes":
        text = text.replace("http://tasks_api;", "http://tasks_api/;")
    try:
        made = Nginx(text)
    except Missing as missing:
        if os.environ.get("TESTS_REQUIRE_SERVERS"):
            raise
        pytest.skip(str(missing))
    with made:
        yield made


@pytest.fixture
def client(nginx: Nginx) -> Iterator[httpx.Client]:
    """Give a client of nginx; redirects are not followed."""
    with httpx.Client(base_url=nginx.url, timeout=20) as made:
        yield made


def healthy(stack: Stack, name: str) -> bool:
    """Return whether the containers' health check succeeds for a process."""
    command = [sys.executable, "deploy/healthy.py", name]
    asked = subprocess.run(
        command, cwd=ROOT, env=stack.settings(), capture_output=True, check=False
    )
    return asked.returncode == 0


@pytest.mark.parametrize("path", ["/jobs/docs", "/jobs/redoc"])
def test_the_documentation_loads_all_its_files_under_the_prefix(
    client: httpx.Client, path: str
) -> None:
    page = client.get(path)
    assert page.status_code == 200
    links = re.findall(r"""(?:src|href|url)"?\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert any(link.endswith("openapi.json") for link in links)
    assert any(link.endswith(".js") for link in links)
    for link in links:
        assert link.startswith("/jobs/")
        assert client.get(link).status_code == 200, link


def test_requests_from_swagger_go_to_the_prefix(client: httpx.Client) -> None:
    assert client.get("/jobs/openapi.json").json()["servers"] == [{"url": "/jobs"}]


def test_the_root_links_to_pages_under_the_same_address(client: httpx.Client) -> None:
    links = client.get("/jobs/").json()
    assert links == {
        "docs": "/jobs/docs",
        "redoc": "/jobs/redoc",
        "flower": f"{client.base_url}/flower/",
    }
    for link in links.values():
        assert client.get(link).status_code == 200
    page = client.get("/jobs/", headers=BROWSER).text
    assert re.findall(r'href="([^"]*)"', page) == list(links.values())
    assert f"curl -X POST {client.base_url}/jobs/tasks/ " in page


def test_flower_works_completely_under_its_prefix(client: httpx.Client, service: Stack) -> None:
    page = client.get("/flower/")
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="(/[^"]*)"', page.text)
    assert any("/static/js/" in link for link in links)
    for link in links:
        assert link.startswith("/flower/")
        assert client.get(link).status_code in {200, 302}, link
    assert service["flower"].popen.poll() is None


def test_the_location_of_a_task_can_be_followed(client: httpx.Client) -> None:
    answer = client.post("/jobs/tasks/", json={"content": "Hello"})
    assert answer.status_code == 202
    location = answer.headers["location"]
    assert location == f"/jobs/tasks/{answer.json()['task_id']}"
    assert client.get(location, params={"wait": 10}).json()["status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("/jobs/tasks", 200),
        ("/jobs/tasks/", 200),
        ("/jobs/messages?limit=1", 200),
        ("/jobs/health/ready/", 200),
        ("/jobs/nothing/", 404),
    ],
)
def test_each_path_is_answered_without_a_redirect(
    client: httpx.Client, asked: str, status: int
) -> None:
    assert client.get(asked).status_code == status


def test_an_error_links_to_the_documentation_under_the_prefix(client: httpx.Client) -> None:
    assert "See /jobs/docs " in client.get("/jobs/nothing").json()["detail"]
    refused = client.put("/jobs/tasks/slow")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


def test_ndjson_lines_are_answered_one_by_one(client: httpx.Client) -> None:
    line = b'{"name": "slow", "arguments": {"duration": 0}}\n'
    kind = {"Content-Type": "application/x-ndjson"}
    sent = (line * 1000 for _ in range(3))
    answer = client.post("/jobs/tasks/batch", content=sent, headers=kind)
    statuses = [json.loads(each)["status"] for each in answer.text.splitlines()]
    assert statuses == ["PENDING"] * 3000


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Content-Type": "application/json"}, 413), ({"Content-Encoding": "gzip"}, 415)],
)
def test_a_refusal_sent_before_the_body_was_read_reaches_the_client(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    for _ in range(20):
        answer = client.post("/jobs/tasks/", content=b" " * 3_000_000, headers=headers)
        assert answer.status_code == status


def test_the_api_is_also_served_without_the_prefix(service: Stack) -> None:
    with service.client() as direct:
        for path in ("/health/ready", "/docs", "/redoc", "/openapi.json", "/jobs/docs", "/jobs"):
            assert direct.get(path).status_code == 200, path
        answer = direct.post("/tasks/", json={"content": "from the machine itself"})
        assert answer.status_code == 202
        assert direct.get(answer.headers["location"]).status_code == 200
        flower = direct.get("/").json()["flower"]
    assert flower == f"http://127.0.0.1:{service.environment['FLOWER_PORT']}/flower/"
    assert httpx.get(flower).status_code == 200


@pytest.mark.parametrize("name", ["api", "flower"])
def test_the_health_check_of_the_container_succeeds(service: Stack, name: str) -> None:
    assert healthy(service, name)


FORWARDED = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "spoofed.example, tasks.example:8443",
    "X-Forwarded-For": "192.0.2.7",
}


def test_forwarded_headers_of_a_trusted_proxy_set_the_service_address(service: Stack) -> None:
    with service.client() as direct:
        assert direct.get("/", headers=FORWARDED).json()["flower"] == (
            "https://tasks.example:8443/flower/"
        )
        page = direct.get("/", headers={**FORWARDED, **BROWSER}).text
    assert "curl -X POST https://tasks.example:8443/jobs/tasks/ " in page


@pytest.mark.parametrize("trusted", [{}, {"FORWARDED_ALLOW_IPS": "192.0.2.1"}], ids=str)
def test_forwarded_headers_of_untrusted_clients_are_ignored(
    service: Stack, trusted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.delitem(service.environment, "FORWARDED_ALLOW_IPS")
    environment = {"API_PORT": str(port), **trusted}
    service.launch("api", "--no-relay", name="careful", environment=environment)
    url = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        try:
            return httpx.get(f"{url}/health").status_code == 200
        except httpx.TransportError:
            return False

    eventually(serves, 30, "the API serves")
    flower = f"http://127.0.0.1:{service.environment['FLOWER_PORT']}/flower/"
    assert httpx.get(url, headers=FORWARDED).json()["flower"] == flower
    page = httpx.get(url, headers={**FORWARDED, **BROWSER}).text
    assert f"curl -X POST {url}/jobs/tasks/ " in page
    service.stop("careful")


def connections_to(port: int) -> int:
    """Return how many connections to a port there are or were lately."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") for row in rows)


@pytest.mark.parametrize("nginx", ["keeps"], indirect=True)
def test_ten_thousand_posts_over_keep_alive_connections_are_all_answered(
    nginx: Nginx, service: Stack
) -> None:
    kept = re.findall(r"keepalive_timeout (\d+)s;", recipe())
    assert kept
    assert int(kept[0]) < Settings.model_fields["keep_alive_seconds"].default
    before = len(nginx.answered())
    body = b'{"content": "kept"}'
    head = f"POST /jobs/messages/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    request = head.encode() + b"Content-Type: application/json\r\n\r\n" + body

    def post(count: int) -> set[bytes]:
        lines = set()
        with socket.create_connection(("127.0.0.1", nginx.port), timeout=30) as connection:
            for _ in range(count):
                connection.sendall(request)
                answer = b""
                while not answer.endswith(b"}"):
                    part = connection.recv(65536)
                    assert part, answer
                    answer += part
                lines.add(answer.partition(b"\r\n")[0])
        return lines

    with ThreadPoolExecutor(CLIENTS) as pool:
        for lines in pool.map(post, [REQUESTS // CLIENTS] * CLIENTS):
            assert lines == {b"HTTP/1.1 201 Created"}
    eventually(lambda: len(nginx.answered()) == before + REQUESTS, 10, "all requests are logged")
    answered = nginx.answered()[before:]
    assert set(answered) == {("201", "201")}
    assert 1 <= connections_to(service.port) <= 100
    assert service["api"].log.count('"error"') == 0
