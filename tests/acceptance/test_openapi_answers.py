"""Every answer in the OpenAPI document occurs, in the documented form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from openapi_schema_validator import OAS31Validator

from tests.support.waiting import eventually

if TYPE_CHECKING:
    import httpx

    from tests.support.servers import Postgres
    from tests.support.stack import Stack

MEBIBYTE = 1024 * 1024
MESSAGE = {"content": "Hello"}
UNKNOWN = "019a3f0e-7c1a-7d7e-9a53-0d8f2c7b1f55"
# The arguments with which a request of each operation succeeds, if it needs any.
GOOD: dict[str, dict[str, Any]] = {
    "submit_message": {"json": MESSAGE},
    "submit_slow": {"params": {"duration": 0}},
    "submit_task_insert_message": {"json": MESSAGE},
    "submit_batch": {"json": [{"arguments": MESSAGE}]},
    "create_message": {"json": MESSAGE},
    "cancel_tasks": {"json": {"ids": [UNKNOWN]}},
    "retry_tasks": {"json": {"ids": [UNKNOWN]}},
}


class Answers:
    """Sends requests, checks each answer against the document, and records which were seen."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.document: dict[str, Any] = client.get("/openapi.json").json()
        self.operations = {
            operation["operationId"]: (method.upper(), path, operation)
            for path, methods in self.document["paths"].items()
            for method, operation in methods.items()
        }
        self.seen: set[tuple[str, int]] = set()
        self.task_id = "unknown"
        self.message_id = 2**62

    def ask(self, name: str, method: str = "", **request: Any) -> httpx.Response:
        """Send a request to an operation's path; check its answer."""
        own, path, operation = self.operations[name]
        url = path.format(task_id=self.task_id, message_id=self.message_id)
        answer = self._client.request(method or own, url, **{**GOOD.get(name, {}), **request})
        documented = operation["responses"].get(str(answer.status_code))
        assert documented, f"{name}: {answer.status_code} is not documented: {answer.text}"
        if answer.status_code == 204:
            self.seen.add((name, 204))
            return answer
        kind = answer.headers["content-type"].partition(";")[0]
        content = documented["content"][kind]
        if kind == "text/html":
            self._check(answer.text, content["schema"])
        elif kind == "application/x-ndjson":
            self._check(answer.text, content["schema"])
            lines = [json.loads(line) for line in answer.text.splitlines()]
            self._check(lines, content["schema"]["contentSchema"])
        else:
            self._check(answer.json(), content["schema"])
        for header, description in documented.get("headers", {}).items():
            assert header in answer.headers or not description.get("required"), (name, header)
        if answer.status_code in {404, 405, 413, 415}:
            assert answer.json() == content["example"]
        self.seen.add((name, answer.status_code))
        return answer

    def _check(self, body: object, schema: dict[str, Any]) -> None:
        OAS31Validator({**schema, "components": self.document["components"]}).validate(body)

    def ask_each(self, status: int, method: str = "", **request: Any) -> None:
        """Send a request to the path of each operation that documents the status; expect it."""
        for name, (_, _, operation) in self.operations.items():
            if str(status) in operation["responses"]:
                answer = self.ask(name, method, **request)
                assert answer.status_code == status, (name, answer.text)


def test_every_documented_answer_occurs_in_the_documented_form(
    stack: Stack, postgres: Postgres
) -> None:
    stack.start("api", environment={"MAX_WAITING": "20"})
    stack.start("worker")
    with stack.client() as client:
        answers = Answers(client)
        see_what_succeeds(answers)
        see_refusals(answers)
        stack.stop("worker")
        eventually(lambda: too_many(answers), 10, "MAX_WAITING tasks wait")
        answers.ask_each(429)
        with_postgresql_away(answers, postgres)
    documented = {
        (name, int(status))
        for name, (_, _, operation) in answers.operations.items()
        for status in operation["responses"]
        if status != "500"
    }
    assert answers.seen == documented


def see_what_succeeds(answers: Answers) -> None:
    for name in GOOD:
        accepted = answers.ask(name).json()
        answers.message_id = accepted.get("id", answers.message_id)
        if "task_id" in accepted:
            answers.task_id = accepted["task_id"]
            answers.ask("get_task", params={"wait": 0})
            ended = answers.ask("get_task", params={"wait": 30}).json()
            assert ended["status"] == "SUCCESS"
    lines = b'{"arguments": {"content": "one"}}\n{"arguments": {"content": " "}}\n'
    kind = {"Content-Type": "application/x-ndjson"}
    answers.ask("submit_batch", json=None, content=lines, headers=kind)
    answers.ask("get_links", headers={"Accept": "text/html"})
    for name, (method, _, _) in answers.operations.items():
        if method == "GET":
            assert answers.ask(name).status_code == 200
    for name in ("cancel_task", "retry_task"):  # of a task that has succeeded
        assert answers.ask(name).status_code == 409
    answers.task_id = answers.ask("submit_slow", params={"duration": 60}).json()["task_id"]
    for name, status in (("cancel_task", 200), ("retry_task", 202), ("cancel_task", 200)):
        assert answers.ask(name).status_code == status
    assert answers.ask("delete_message").status_code == 204


def see_refusals(answers: Answers) -> None:
    answers.ask_each(405, "PATCH")
    answers.ask_each(422, params={"colour": "red"})
    answers.ask("submit_message", json={"content": " "})
    answers.ask("submit_slow", json=MESSAGE)
    answers.ask("submit_batch", json=[{"name": "nothing", "arguments": 1}])
    answers.ask("list_messages", params={"limit": 0})
    answers.ask_each(413, json=None, content=b" " * (MEBIBYTE + 1))
    answers.ask_each(415, json=None, content=b"{}", headers={"Content-Encoding": "gzip"})
    answers.ask_each(403, headers={"Sec-Fetch-Site": "cross-site"})
    answers.task_id, known = "unknown", answers.task_id
    answers.ask_each(404)
    answers.task_id = known


def too_many(answers: Answers) -> bool:
    return answers.ask("submit_message").status_code == 429


def with_postgresql_away(answers: Answers, postgres: Postgres) -> None:
    postgres.stop("immediate")
    # Waiting tasks are counted once a second: until then the answer is 429.
    eventually(
        lambda: answers.ask("submit_message").status_code == 503,
        10,
        "the request is answered with 503",
    )
    answers.ask_each(503)
    postgres.start()
