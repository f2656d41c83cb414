"""Back-pressure: how much may wait, and what is told to whom it is too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.stack import Stack

MINUTE = 60.0


def test_more_tasks_than_may_wait_are_refused_until_some_have_ended(stack: Stack) -> None:
    stack.environment["MAX_WAITING"] = "5"
    stack.start("api")
    ids = [stack.post("/tasks/", {"content": f"waits {number}"}) for number in range(5)]
    items = [{"arguments": {"content": "refused"}}] * 2
    for path, body in (("/tasks/", {"content": "refused"}), ("/tasks/batch", items)):
        refused = httpx.post(f"{stack.url}{path}", json=body)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 300
    assert stack.scalar("SELECT count(*) FROM tasks") == 5
    stack.start("worker")
    for task_id in ids:
        assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"
    url = f"{stack.url}/tasks/"
    body = {"content": "Hello"}
    eventually(lambda: httpx.post(url, json=body).status_code == 202, 10, "there is room again")
