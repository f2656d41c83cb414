"""Requests that submit tasks, and queries about the stored tasks."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.stack import Stack


NDJSON = {"Content-Type": "application/x-ndjson"}

# All threads share it, because creating a client takes longer than a request.
CLIENT = httpx.Client(timeout=20, limits=httpx.Limits(max_connections=None))


def serves(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def post(url: str, content: str, key: str, timeout: float = 20) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    body = {"content": content}
    return CLIENT.post(f"{url}/tasks/", json=body, headers=headers, timeout=timeout)


def keyed(service: Stack, path: str, key: str, body: object) -> httpx.Response:
    headers = {"Idempotency-Key": key}
    return CLIENT.post(f"{service.url}{path}", json=body, headers=headers)


def stream(url: str, lines: Sequence[str], key: str = "") -> list[dict[str, Any]]:
    """Post contents as NDJSON and return the answers of the lines."""
    text = "".join(json.dumps({"arguments": {"content": line}}) + "\n" for line in lines)
    headers = NDJSON | ({"Idempotency-Key": key} if key else {})
    answer = CLIENT.post(f"{url}/tasks/batch", content=text, headers=headers)
    assert answer.status_code == 202, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def accepted(stack: Stack, content: str) -> int:
    count = stack.scalar("SELECT count(*) FROM tasks WHERE args ->> 'content' = %s", content)
    return int(str(count))


@contextmanager
def slow_commit(service: Stack, table: str, condition: str) -> Iterator[None]:
    """Make a commit take a second if it inserts a row that meets `condition` into a table."""
    service.query(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';"
        f"CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED"
        f" FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION wait();"
        "SELECT 1"
    )
    yield
    service.query(f"DROP TRIGGER wait ON {table}; DROP FUNCTION wait; SELECT 1")
