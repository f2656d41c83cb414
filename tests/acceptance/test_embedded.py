"""`tasks-api up` without configuration: servers from wheels, with the same guarantees."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import redis

from tests.support.posting import Posting
from tests.support.servers import tree
from tests.support.stack import Process, Stack
from tests.support.up import Folder, needs_embedded, program, told
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = needs_embedded

RECOVERY_SECONDS = 60.0
MINUTE = 60.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Folder, Process, Stack]]:
    folder = Folder(tmp_path_factory.mktemp("embedded"))
    with folder.running() as (up, stack):
        yield folder, up, stack


def test_up_with_no_configuration_runs_tasks(shared: tuple[Folder, Process, Stack]) -> None:
    _, _, stack = shared
    message, slow = (
        stack.post("/tasks/", {"content": "Hello"}),
        stack.post("/tasks/slow?duration=1"),
    )
    assert stack.state(message, wait=10)["status"] == "SUCCESS"
    assert stack.state(slow, wait=10)["result"] == {"message": "Task completed after 1 seconds"}
    assert httpx.get(f"{stack.url}/health/ready").json() == {"status": "ready", "degraded": []}
    assert httpx.get(f"{stack.url}/messages/").json()["messages"][0]["content"] == "Hello"


def test_a_reply_wakes_a_waiting_request(shared: tuple[Folder, Process, Stack]) -> None:
    _, _, stack = shared
    seconds = []
    for _ in range(9):
        task_id = stack.post("/tasks/", {"content": "quick"})
        answer = httpx.get(f"{stack.url}/tasks/{task_id}?wait=10", timeout=20)
        assert answer.json()["status"] == "SUCCESS"
        seconds.append(answer.elapsed.total_seconds())
    assert sorted(seconds)[4] < 0.2  # without a reply the request polls after 0.25 s


def test_the_list_shows_running_and_waiting_tasks(shared: tuple[Folder, Process, Stack]) -> None:
    _, _, stack = shared
    tasks = [stack.post("/tasks/slow?duration=3") for _ in range(4)]

    def statuses() -> list[str]:
        listed = httpx.get(f"{stack.url}/tasks/").json()["tasks"]
        return [task["status"] for task in listed if task["task_id"] in tasks]

    expected = ["ACTIVE", "ACTIVE", "RESERVED", "RESERVED"]
    eventually(lambda: statuses() == expected, 10, "two tasks run and two wait")
    assert [stack.state(task, wait=20)["status"] for task in tasks] == ["SUCCESS"] * 4


def test_a_second_up_and_a_reset_are_refused_while_up_runs(
    shared: tuple[Folder, Process, Stack],
) -> None:
    folder, _, stack = shared
    for command in (["up"], ["reset", "--yes"]):
        refused = folder.run("backend", *command)
        assert refused.returncode == 1
        assert refused.stdout == ""
        assert refused.stderr.startswith("tasks-api: already running in ")
        assert refused.stderr.count("\n") == 1
    assert (
        stack.state(stack.post("/tasks/", {"content": "still here"}), wait=10)["status"]
        == "SUCCESS"
    )


def test_other_commands_find_the_servers_of_a_running_up(
    shared: tuple[Folder, Process, Stack],
) -> None:
    folder, _, _ = shared
    assert folder.run("backend", "migrate").returncode == 0
    inspected = folder.run("celery", "-A", "backend", "inspect", "active", "--json")
    assert len(json.loads(inspected.stdout)) == 1


def test_each_log_line_is_json_with_a_short_name_and_successes_share_a_line(
    shared: tuple[Folder, Process, Stack],
) -> None:
    _, up, stack = shared
    before = len(up.log)
    tasks = [stack.post("/tasks/", {"content": "logged"}) for _ in range(5)]
    tasks += [stack.post("/tasks/slow?duration=0") for _ in range(5)]
    assert {stack.state(task, wait=10)["status"] for task in tasks} == {"SUCCESS"}
    eventually(
        lambda: re.search(r"tasks: \d+ ended, 0 failed", up.log[before:]),
        15,
        "the line about ended tasks is logged",
    )
    lines = [json.loads(line) for line in up.log.splitlines()]
    assert all(line.keys() >= {"event", "level", "logger", "timestamp"} for line in lines)
    assert {line["logger"] for line in lines} <= {"system", "db", "api", "relay", "worker"}
    (ready,) = (line for line in lines if line["event"] == "Tasks API is ready")
    assert ready["api"] == f"http://localhost:{stack.port}"
    assert len([line for line in up.log[before:].splitlines() if "worker" in line]) <= 2


def kill_worker_child(up: Process) -> None:
    worker = next(pid for pid in tree(up.popen.pid) if b"backend\0worker" in told(pid, "cmdline"))
    child = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()[0]
    os.kill(int(child), signal.SIGKILL)


def kill_valkey(up: Process) -> None:
    os.kill(program(up, "valkey-server"), signal.SIGKILL)


def kill_postgres(up: Process) -> None:
    os.kill(program(up, "postgres"), signal.SIGKILL)


@pytest.mark.parametrize("crash", [kill_worker_child, kill_valkey, kill_postgres])
def test_each_message_is_written_once_on_embedded_servers(
    shared: tuple[Folder, Process, Stack], crash: Callable[[Process], None]
) -> None:
    _, up, stack = shared
    posting = Posting(stack, 200).start()
    eventually(lambda: len(posting.accepted) >= 50, MINUTE, "a quarter is accepted")
    crash(up)
    posting.finish(RECOVERY_SECONDS)

    def written() -> Counter[str]:
        rows = stack.query(
            "SELECT task_id FROM messages WHERE task_id = ANY(CAST(%s AS uuid[]))",
            list(posting.accepted),
        )
        return Counter(str(row[0]) for row in rows)

    eventually(lambda: len(written()) == 200, RECOVERY_SECONDS, "every message is written")
    assert written() == dict.fromkeys(posting.accepted, 1)
    eventually(lambda: stack.unfinished() == 0, RECOVERY_SECONDS, "every task has ended")


@pytest.mark.parametrize("name", ["api", "worker", "flower"])
def test_processes_that_end_unexpectedly_are_started_again(
    shared: tuple[Folder, Process, Stack], name: str
) -> None:
    folder, up, stack = shared
    command = f"backend\0{name}\0".encode()
    killed = next(pid for pid in tree(up.popen.pid) if command in told(pid, "cmdline"))
    os.kill(killed, signal.SIGKILL)
    line = f"{name} ended (killed by signal 9); starting it again in 1 s"
    eventually(lambda: line in up.log, 10, "the end of the process is noticed")

    def again() -> bool:
        try:
            httpx.get(f"http://localhost:{folder.flower_port}")
            return '"degraded":[]' in httpx.get(f"{stack.url}/health/ready").text
        except httpx.TransportError:
            return False

    eventually(again, MINUTE, "every process is ready again")
    task = stack.post("/tasks/", {"content": "after a restart"})
    assert stack.state(task, wait=MINUTE)["status"] == "SUCCESS"
    assert up.popen.poll() is None


def test_a_hanging_valkey_only_delays_tasks(shared: tuple[Folder, Process, Stack]) -> None:
    _, up, stack = shared
    valkey = program(up, "valkey-server")
    os.kill(valkey, signal.SIGSTOP)
    try:
        task = stack.post("/tasks/", {"content": "later"})
        listings = [httpx.get(f"{stack.url}/tasks/", timeout=10) for _ in range(3)]
        assert [listing.json()["total"] for listing in listings] == [1] * 3
        assert max(listing.elapsed.total_seconds() for listing in listings) < 2
        ready = f"{stack.url}/health/ready"
        eventually(lambda: "broker" in httpx.get(ready).text, 15, "the broker is reported")
    finally:
        os.kill(valkey, signal.SIGCONT)
    assert stack.state(task, wait=MINUTE)["status"] == "SUCCESS"
    eventually(
        lambda: httpx.get(ready).json()["degraded"] == [], 15, "readiness shows nothing degraded"
    )


def test_reply_lists_of_a_dead_process_expire(shared: tuple[Folder, Process, Stack]) -> None:
    folder, _, stack = shared
    with Stack(stack.database_url, stack.broker_url, folder.path) as other:
        other.start("api", "--no-relay")
        slow = other.post("/tasks/slow?duration=2")
        other.post("/tasks/", {"content": "short"})
        other.kill("api")
    assert stack.state(slow, wait=20)["status"] == "SUCCESS"
    with redis.Redis(unix_socket_path=f"{folder.urls()['sockets']}/valkey.sock") as valkey:
        kept = eventually(lambda: valkey.keys("replies.*"), 5, "Redis has a reply list")
        assert [key for key in kept if not 0 < valkey.ttl(key) <= 600] == []
