"""A client of the Tasks API in Python's standard library: create, wait, list, idle.

Run it beside a running service: `python3 examples/client.py`. TASKS_API_URL names another address.
"""

# ruff: noqa: INP001, S310, T201 - a script, that opens http addresses only, and prints

from __future__ import annotations

import json
import os
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

BASE_URL = os.environ.get("TASKS_API_URL", "http://localhost:8060")
# Where http_proxy names a proxy, this machine is asked directly all the same.
LOCAL = urlsplit(BASE_URL).hostname in {"localhost", "127.0.0.1", "::1"}
OPENER = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] * LOCAL)


def call(method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - whatever it answers
    """Return the API's answer; an error raises urllib.error.HTTPError, whose body says why."""
    request = urllib.request.Request(
        BASE_URL + path,
        None if body is None else json.dumps(body).encode(),
        {"Content-Type": "application/json"},
        method=method,
    )
    with OPENER.open(request, timeout=70) as answer:
        return json.load(answer)


def create(content: str) -> str:
    """Create a message task; return its id. Keep it: it is how you ask for the outcome."""
    task_id: str = call("POST", "/tasks/", {"content": content})["task_id"]
    return task_id


def outcome(task_id: str) -> Any:  # noqa: ANN401 - the task's value
    """Wait for a task's end, however long; return its value, or raise its error."""
    while True:
        task = call("GET", f"/tasks/{task_id}?wait=60")
        if task["status"] == "SUCCESS":
            return task["result"]
        if task["status"] in {"FAILURE", "REVOKED"}:
            raise RuntimeError(task["result"]["error"])


def unfinished() -> int:
    """Return how many tasks have not ended."""
    total: int = call("GET", "/tasks/?limit=1")["total"]
    return total


def idle(seconds: float) -> bool:
    """Wait until no task is left; False if some are after so many seconds."""
    deadline = time.monotonic() + seconds
    while unfinished():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


if __name__ == "__main__":
    mine = create("Hello from Python!")
    print(f"Created task: {mine}")
    print(f"Unfinished tasks: {unfinished()}")
    print(f"Result: {outcome(mine)}")
    print(f"Idle: {idle(60)}")
