"""The commands that talk to a running API: their output, and their exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.stack import ROOT, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Postgres, RabbitMQ
    from tests.support.stack import Stack

MESSAGE = '{"content": "from the terminal"}'


@pytest.fixture(scope="module")
def service(
    postgres_server: Postgres, rabbitmq_server: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give one running service to the tests of this file."""
    folder = tmp_path_factory.mktemp("client")
    with serving(postgres_server, rabbitmq_server, folder, "api", "worker") as stack:
        yield stack


def run(url: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `tasks-api` with arguments; return its end, with its output."""
    return subprocess.run(
        [sys.executable, "-m", "backend", *arguments],
        cwd=ROOT,
        env={**os.environ, "TASKS_API_URL": url},
        stdin=subprocess.DEVNULL,
        stdout=options.get("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def answer(stack: Stack, *arguments: str) -> Any:  # noqa: ANN401 - JSON
    """Return what a command has printed, as a value."""
    ended = run(stack.url, *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


def on_terminal(stack: Stack, *arguments: str) -> str:
    """Return what a command prints on a terminal."""
    ours, theirs = pty.openpty()
    printed: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other side is closed
                return
            printed.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert run(stack.url, *arguments, stdout=theirs).returncode == 0
    finally:
        os.close(theirs)
        reader.join(10)
        os.close(ours)
    return b"".join(printed).decode()


def test_a_task_is_submitted_waited_for_and_shown(service: Stack) -> None:
    accepted = answer(service, "submit", "insert_message", MESSAGE, "--tag", "t", "--priority", "9")
    task_id = accepted["task_id"]
    assert accepted["status"] == "PENDING"
    assert answer(service, "wait", task_id)["status"] == "SUCCESS"
    detail = answer(service, "show", task_id)
    assert detail["options"]["priority"] == 9
    found = answer(service, "history", "--tag", "t", "--status", "success")
    assert [task["task_id"] for task in found["tasks"]] == [task_id]


def test_piped_output_is_the_body_of_the_api(service: Stack) -> None:
    task_id = answer(service, "submit", "slow", '{"duration": 0}', "--countdown", "900")["task_id"]
    for arguments, path in (
        (("list",), "/tasks/"),
        (("show", task_id), f"/tasks/{task_id}/detail"),
        (("history", "--name", "slow"), "/tasks/history?name=slow"),
    ):
        assert run(service.url, *arguments).stdout == httpx.get(service.url + path).text + "\n"
    for _ in range(2):  # the second one changes nothing, which is good too
        assert answer(service, "cancel", task_id)["status"] == "REVOKED"


def test_tasks_are_cancelled_and_retried_by_ids_or_by_options(service: Stack) -> None:
    for _ in range(3):
        answer(service, "submit", "slow", '{"duration": 0}', "--countdown", "900", "--tag", "many")
    dry = answer(service, "cancel", "--tag", "many", "--dry-run")
    assert (dry["dry_run"], dry["changed"]) == (True, 3)
    cancelled = answer(service, "cancel", "--tag", "many")
    ids = [task["task_id"] for task in cancelled["tasks"]]
    assert answer(service, "retry", *ids)["changed"] == 3
    for task_id in ids:
        assert answer(service, "wait", task_id)["status"] == "SUCCESS"
    ended = run(service.url, "cancel", *ids)
    assert ended.returncode == 1
    assert "3 of 3 tasks cannot be changed" in ended.stderr


def test_the_exit_code_says_how_a_task_has_ended(service: Stack) -> None:
    failing = answer(service, "submit", "slow", '{"duration": 9}', "--time-limit", "1",
                     "--max-attempts", "1")["task_id"]  # fmt: skip
    assert run(service.url, "wait", failing).returncode == 1
    waiting = answer(service, "submit", "slow", '{"duration": 0}', "--countdown", "900")["task_id"]
    assert run(service.url, "wait", waiting, "--timeout", "0.5").returncode == 124


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("show", "nothing"), 1, "There is no task with this id."),
        (("submit", "nothing"), 1, "There is no task with this name."),
        (("submit", "insert_message", "{}"), 1, "#/content"),
        (("submit", "insert_message", "{"), 2, "is not JSON"),
        (("submit", "slow", "{}", "--priority", "10"), 1, "?priority"),
        (("submit", "slow", "5"), 2, "must be a JSON object"),
        (("submit", "slow", '{"duration": null}'), 1, "?duration"),
        (("submit", "insert_message", '{"content": NaN}'), 1, "#/content"),
        (("submit", "slow", "--key", "\u00e9"), 2, "ascii"),
        (("wait", "7", "--timeout", "nan"), 2, "must be a number"),
        (("cancel", "7"), 1, "only Flower can revoke it"),
        (("cancel",), 2, "give either ids"),
        (("cancel", "7", "--name", "slow"), 2, "give either ids"),
        (("history", "--status", "done"), 2, "done"),
        (("history", "--limit", "0"), 1, "?limit"),
    ],
)
def test_a_refusal_has_a_code_and_one_reason(
    service: Stack, arguments: tuple[str, ...], code: int, told: str
) -> None:
    ended = run(service.url, *arguments)
    assert ended.returncode == code
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_without_an_api_the_code_is_3() -> None:
    ended = run(f"http://127.0.0.1:{free_port()}", "list")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert "TASKS_API_URL" in ended.stderr


def test_a_terminal_shows_tables(service: Stack) -> None:
    task_id = answer(service, "submit", "insert_message", MESSAGE, "--tag", "shown")["task_id"]
    assert "SUCCESS" in on_terminal(service, "wait", task_id)
    assert "insert_message" in on_terminal(service, "history", "--tag", "shown")
    shown = on_terminal(service, "show", task_id)
    assert "from the terminal" in shown
    assert "not ended" in on_terminal(service, "list")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_the_commands(shell: str) -> None:
    ended = run("", "completion", shell)
    assert ended.returncode == 0
    assert "_TASKS_API_COMPLETE" in ended.stdout
