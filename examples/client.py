"""A client of the Tasks API in Python's standard library: create, wait, list, idle.

Run it while the service runs: `python3 examples/client.py`. TASKS_API_URL names another address.
"""

# ruff: noqa: INP001, S310, T201 - a script that opens only http addresses, and prints

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

BASE_URL = os.environ.get("TASKS_API_URL", "http://localhost:8060")
NOT_OURS = "is not the address of a Tasks API: set TASKS_API_URL"


class Failed(Exception):
    """There is no answer, or it is an error; the message is one line."""


def call(method: str, path: str, body: object = None, timeout: float = 10) -> dict[str, Any]:
    """Return the API's answer about tasks. Raises Failed, also after `timeout` seconds."""
    url = BASE_URL + path
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(url, data, headers, method=method)
        with _opener(url).open(request, timeout=timeout) as response:
            answer = json.load(response)
    except (OSError, HTTPException, ValueError) as error:
        raise Failed(f"{url} {_explain(error)}") from error
    if not isinstance(answer, dict) or not ("task_id" in answer or "tasks" in answer):
        raise Failed(f"{url} {NOT_OURS}")
    return answer


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Return an opener: without a proxy for this machine, else with that of http_proxy."""
    if urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}:
        no_proxy = urllib.request.ProxyHandler({})
        return urllib.request.build_opener(no_proxy)
    return urllib.request.build_opener()


def _explain(error: Exception) -> str:
    """Return a text: why there is no answer, or what the API answers about its error."""
    if isinstance(error, urllib.error.HTTPError):
        return f"answers {error.code}: {_detail(error)}"
    if isinstance(error, (OSError, HTTPException)):
        reason = str(getattr(error, "reason", None) or error).strip() or type(error).__name__
        return f"does not answer ({reason}): start the service (make run) or set TASKS_API_URL"
    return NOT_OURS  # the URL or the answer's JSON is not valid


def _detail(error: urllib.error.HTTPError) -> str:
    """Return the detail of the API's error, or the HTTP reason if the answer is not the API's."""
    try:
        return str(json.load(error)["detail"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return f"{error.reason}; is this the Tasks API? Else set TASKS_API_URL"


def create(content: str) -> str:
    """Create a message task; return its id. Keep the id: you need it to read the outcome."""
    task_id: str = call("POST", "/tasks/", {"content": content})["task_id"]
    return task_id


def outcome(task_id: str) -> Any:  # noqa: ANN401 - the task's value
    """Wait for a task's end without a time limit; return its value. Raises Failed."""
    while True:
        task = call("GET", f"/tasks/{task_id}?wait=60", timeout=70)
        if task["status"] == "SUCCESS":
            return task["result"]
        if task["status"] in {"FAILURE", "REVOKED"}:
            raise Failed(task["result"]["error"])


def unfinished() -> int:
    """Return how many tasks have not ended."""
    total: int = call("GET", "/tasks/?limit=1")["total"]
    return total


def idle(seconds: float) -> bool:
    """Wait until all tasks have ended; return False if some have not after `seconds`."""
    deadline = time.monotonic() + seconds
    while unfinished():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def main() -> None:
    """Create a task, wait for its end, then wait until all other tasks have ended."""
    mine = create("Hello from Python!")
    print(f"Created task: {mine}")
    print(f"Unfinished tasks: {unfinished()}")
    print(f"Result: {outcome(mine)}")
    print(f"Idle: {idle(60)}")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(str(error))
