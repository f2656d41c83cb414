"""`tasks-api up` with nothing set: servers from wheels, and the same promises on them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg2
import pytest
import redis
from dotenv import dotenv_values

from backend import settings
from tests.support.ports import free_port
from tests.support.servers import _tree
from tests.support.stack import ROOT, Posting, Process, Stack
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_SECONDS = 60.0
IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "backend", "up"])
"""
STOP_SECONDS = 10.0
RECOVERY_SECONDS = 60.0
MINUTE = 60.0

NAMED = [
    name
    for name in ("database_url", "celery_broker_url")
    if os.environ.get(name.upper())
    or any(dotenv_values(file).get(name.upper()) for file in settings.ENV_FILES)
]
pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        any(name.upper() not in os.environ for name in NAMED),
        reason="a .env names servers, which embedded ones are not used beside",
    ),
]


@dataclass
class Folder:
    """A place for an `up` with everything of its own: data, ports, environment."""

    path: Path
    api_port: int = field(default_factory=free_port)
    flower_port: int = field(default_factory=free_port)
    starts: int = 0

    @property
    def data(self) -> Path:
        return self.path / "data"

    def environment(self) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if name.lower() not in NAMED}
        return {
            **known,
            "DATA_DIR": str(self.data),
            "API_PORT": str(self.api_port),
            "FLOWER_PORT": str(self.flower_port),
            "API_WORKERS": "1",
            "WORKER_CONCURRENCY": "2",
            "CELERY_RESULT_BACKEND": "rpc://",
        }

    def run(
        self, *command: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -m <command>` with the same settings."""
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=self.environment(),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=MINUTE,
            check=False,
        )

    def start(self) -> Process:
        """Start `up` and return when it says that all is ready."""
        self.starts += 1
        output = self.path / f"up-{self.starts}.log"
        sink = output.open("wb")
        popen = subprocess.Popen(
            [sys.executable, "-m", "backend", "up"],
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        up = Process(popen, output, sink)

        def ready() -> bool:
            assert popen.poll() is None, up.log
            return "Tasks API is ready" in up.log

        eventually(ready, START_SECONDS, "all is ready")
        return up

    def urls(self) -> dict[str, str]:
        urls: dict[str, str] = json.loads((self.data / settings.RUNNING_FILE).read_text())
        return urls

    def stack(self) -> Stack:
        """Return what talks to the service that runs here."""
        urls = self.urls()
        return Stack(urls["database_url"], urls["celery_broker_url"], self.path, port=self.api_port)

    @contextmanager
    def running(self) -> Iterator[tuple[Process, Stack]]:
        """Run `up`; whatever happens, nothing of it is left."""
        up = self.start()
        try:
            yield up, self.stack()
        except BaseException:
            print(up.log[-6000:])
            raise
        finally:
            stop(up, signal.SIGTERM)


def stop(up: Process, how: signal.Signals) -> None:
    """Stop `up` and see to it that all it started has ended in time."""
    if up.popen.poll() is None:
        family = list(_tree(up.popen.pid))
        up.popen.send_signal(how)
        try:
            assert up.popen.wait(STOP_SECONDS) == 0
            assert [pid for pid in family if alive(pid)] == []
        finally:
            for pid in filter(alive, family):
                os.kill(pid, signal.SIGKILL)
            up.sink.close()


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}/exe")  # noqa: PTH110 - a zombie has none to point to


def told(pid: int, name: str) -> bytes:
    """Return what /proc tells of a process; nothing of one that has just ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # PostgreSQL's own processes come and go
        return b""


def program(up: Process, name: str) -> int:
    """Return the process id of a server that `up` has started, the first time or again."""
    return next(pid for pid in _tree(up.popen.pid) if told(pid, "comm").strip() == name.encode())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Folder, Process, Stack]]:
    folder = Folder(tmp_path_factory.mktemp("embedded"))
    with folder.running() as (up, stack):
        yield folder, up, stack


def test_tasks_run_from_nothing(shared: tuple[Folder, Process, Stack]) -> None:
    _, _, stack = shared
    message, slow = (
        stack.post("/tasks/", {"content": "Hello"}),
        stack.post("/tasks/slow?duration=1"),
    )
    assert stack.state(message, wait=10)["status"] == "SUCCESS"
    assert stack.state(slow, wait=10)["result"] == {"message": "Task completed after 1 seconds"}
    assert httpx.get(f"{stack.url}/health/ready").json() == {"status": "ready", "degraded": []}
    assert httpx.get(f"{stack.url}/messages/").json()["messages"][0]["content"] == "Hello"


def test_a_reply_wakes_who_waits(shared: tuple[Folder, Process, Stack]) -> None:
    _, _, stack = shared
    seconds = []
    for _ in range(9):
        task_id = stack.post("/tasks/", {"content": "quick"})
        answer = httpx.get(f"{stack.url}/tasks/{task_id}?wait=10", timeout=20)
        assert answer.json()["status"] == "SUCCESS"
        seconds.append(answer.elapsed.total_seconds())
    assert sorted(seconds)[4] < 0.2  # who is not woken looks after 0.25 s


def test_the_listing_shows_what_runs(shared: tuple[Folder, Process, Stack]) -> None:
    _, _, stack = shared
    tasks = [stack.post("/tasks/slow?duration=3") for _ in range(4)]

    def statuses() -> list[str]:
        listed = httpx.get(f"{stack.url}/tasks/").json()["tasks"]
        return [task["status"] for task in listed if task["task_id"] in tasks]

    expected = ["ACTIVE", "ACTIVE", "RESERVED", "RESERVED"]
    eventually(lambda: statuses() == expected, 10, "two run and two wait")
    assert [stack.state(task, wait=20)["status"] for task in tasks] == ["SUCCESS"] * 4


def test_a_second_one_and_a_reset_are_refused(shared: tuple[Folder, Process, Stack]) -> None:
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


def test_other_commands_find_its_servers(shared: tuple[Folder, Process, Stack]) -> None:
    folder, _, _ = shared
    assert folder.run("backend", "migrate").returncode == 0
    inspected = folder.run("celery", "-A", "backend", "inspect", "active", "--json")
    assert len(json.loads(inspected.stdout)) == 1


def test_each_line_is_json_with_a_short_name_and_work_is_reported_together(
    shared: tuple[Folder, Process, Stack],
) -> None:
    _, up, stack = shared
    before = len(up.log)
    tasks = [stack.post("/tasks/", {"content": "logged"}) for _ in range(5)]
    tasks += [stack.post("/tasks/slow?duration=0") for _ in range(5)]
    assert {stack.state(task, wait=10)["status"] for task in tasks} == {"SUCCESS"}
    eventually(lambda: re.search(r"tasks: \d+ ended, 0 failed", up.log[before:]), 15, "its line")
    lines = [json.loads(line) for line in up.log.splitlines()]
    assert all(line.keys() >= {"event", "level", "logger", "timestamp"} for line in lines)
    assert {line["logger"] for line in lines} <= {"system", "db", "api", "relay", "worker"}
    (ready,) = (line for line in lines if line["event"] == "Tasks API is ready")
    assert ready["api"] == f"http://localhost:{stack.port}"
    assert len([line for line in up.log[before:].splitlines() if "worker" in line]) <= 2


def kill_worker_child(up: Process) -> None:
    worker = next(pid for pid in _tree(up.popen.pid) if b"backend\0worker" in told(pid, "cmdline"))
    child = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()[0]
    os.kill(int(child), signal.SIGKILL)


def kill_valkey(up: Process) -> None:
    os.kill(program(up, "valkey-server"), signal.SIGKILL)


def kill_postgres(up: Process) -> None:
    os.kill(program(up, "postgres"), signal.SIGKILL)


@pytest.mark.parametrize("crash", [kill_worker_child, kill_valkey, kill_postgres])
def test_each_message_is_written_once(
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
def test_what_ends_by_itself_is_started_again(
    shared: tuple[Folder, Process, Stack], name: str
) -> None:
    folder, up, stack = shared
    command = f"backend\0{name}\0".encode()
    killed = next(pid for pid in _tree(up.popen.pid) if command in told(pid, "cmdline"))
    os.kill(killed, signal.SIGKILL)
    line = f"{name} ended (killed by signal 9); starting it again in 1 s"
    eventually(lambda: line in up.log, 10, "its end is noticed")

    def again() -> bool:
        try:
            httpx.get(f"http://localhost:{folder.flower_port}")
            return '"degraded":[]' in httpx.get(f"{stack.url}/health/ready").text
        except httpx.TransportError:
            return False

    eventually(again, MINUTE, "all is ready again")
    task = stack.post("/tasks/", {"content": "after a restart"})
    assert stack.state(task, wait=MINUTE)["status"] == "SUCCESS"
    assert up.popen.poll() is None


def test_a_valkey_that_hangs_delays_only(shared: tuple[Folder, Process, Stack]) -> None:
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
    eventually(lambda: httpx.get(ready).json()["degraded"] == [], 15, "all is well again")


def test_replies_to_a_process_that_is_gone_go_too(shared: tuple[Folder, Process, Stack]) -> None:
    folder, _, stack = shared
    with Stack(stack.database_url, stack.broker_url, folder.path) as other:
        other.start("api", "--no-relay")
        slow = other.post("/tasks/slow?duration=2")
        other.post("/tasks/", {"content": "short"})
        other.kill("api")
    assert stack.state(slow, wait=20)["status"] == "SUCCESS"
    with redis.Redis(unix_socket_path=f"{folder.urls()['sockets']}/valkey.sock") as valkey:
        kept = eventually(lambda: valkey.keys("replies.*"), 5, "there is a reply")
        assert [key for key in kept if not 0 < valkey.ttl(key) <= 600] == []


def test_it_stops_in_time_though_valkey_hangs(folder: Folder) -> None:
    with folder.running() as (up, stack):
        stack.post("/tasks/slow?duration=60")
        os.kill(program(up, "valkey-server"), signal.SIGSTOP)
        stop(up, signal.SIGINT)


def test_what_was_accepted_is_there_after_a_restart(folder: Folder) -> None:
    with folder.running() as (up, stack):
        message = stack.post("/tasks/", {"content": "kept"})
        assert stack.state(message, wait=10)["status"] == "SUCCESS"
        slow = [stack.post("/tasks/slow?duration=7") for _ in range(2)]
        eventually(lambda: stack.state(slow[0])["status"] == "STARTED", 10, "it has started")
        stop(up, signal.SIGINT)
        assert not Path(folder.data / settings.RUNNING_FILE).exists()
    refused = folder.run("backend", "migrate")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "tasks-api up" in refused.stderr
    with folder.running() as (_, stack):
        assert stack.state(message)["status"] == "SUCCESS"
        assert httpx.get(f"{stack.url}/messages/").json()["total"] == 1
        assert [stack.state(task, wait=30)["status"] for task in slow] == ["SUCCESS"] * 2
        assert stack.attempt(slow[0]) == 2
        assert stack.scalar("SHOW fsync") == stack.scalar("SHOW synchronous_commit") == "on"


def test_one_that_was_killed_does_not_hinder_the_next(folder: Folder) -> None:
    up = folder.start()
    stack = folder.stack()
    family = list(_tree(up.popen.pid))
    message = stack.post("/tasks/", {"content": "kept"})
    slow = stack.post("/tasks/slow?duration=1")
    up.popen.kill()
    up.popen.wait()
    up.sink.close()
    try:
        with folder.running() as (_, stack):
            # As long as an orderly stop may take: a worker waits for a task that lost its store.
            eventually(lambda: not any(map(alive, family)), 10, "the killed one's processes end")
            assert stack.state(message, wait=MINUTE)["status"] == "SUCCESS"
            assert stack.state(slow, wait=MINUTE)["status"] == "SUCCESS"
    finally:
        for pid in filter(alive, family):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def no_trace(up: Process, folder: Folder) -> Iterator[None]:
    """See to it that nothing of an `up` is left when its end was not an orderly one."""
    family = list(_tree(up.popen.pid))
    sockets = folder.urls()["sockets"]
    try:
        yield
        up.popen.wait(STOP_SECONDS)
        eventually(lambda: not any(map(alive, family)), 15, "all that it has started has ended")
        eventually(lambda: not Path(sockets).exists(), 5, "the folder of the sockets is gone")
    finally:
        for pid in filter(alive, family):
            os.kill(pid, signal.SIGKILL)
        up.sink.close()


def test_one_that_is_killed_leaves_nothing(folder: Folder) -> None:
    up = folder.start()
    with no_trace(up, folder):
        up.popen.kill()


def test_a_terminal_that_is_closed_leaves_nothing(folder: Folder) -> None:
    ours, theirs = pty.openpty()
    popen = subprocess.Popen(
        [sys.executable, "-c", IN_TERMINAL],
        cwd=ROOT,
        env=folder.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = ""
    with (folder.path / "up.log").open("wb") as sink:
        try:
            while "Tasks API is ready" not in shown:
                shown += os.read(ours, 10_000).decode()
        except OSError:
            pytest.fail(f"it has ended: {shown}")
        with no_trace(Process(popen, folder.path / "up.log", sink), folder):
            os.close(ours)


def test_reset_asks_and_does_nothing_without_an_answer(folder: Folder) -> None:
    folder.data.mkdir()
    kept = folder.data / "valkey"
    kept.mkdir()
    refused = folder.run("backend", "reset")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("tasks-api: reset deletes every task and message: add --yes")
    assert refused.stderr.count("\n") == 1
    for answer, left in ((b"n\n", True), (b"y\n", False)):
        ours, theirs = pty.openpty()
        os.write(ours, answer)
        asked = folder.run("backend", "reset", stdin=theirs)
        os.close(theirs)
        os.close(ours)
        assert "Delete every task and message" in asked.stdout
        assert (asked.returncode == 0, kept.exists()) == (not left, left)


def test_reset_throws_away_its_own_data_only(folder: Folder) -> None:
    with folder.running() as (_, stack):
        stack.post("/tasks/", {"content": "gone"})
        sockets = folder.urls()["sockets"]
        (folder.data / "mine").touch()
    assert not Path(sockets).exists()
    with pytest.raises(psycopg2.OperationalError):
        stack.query("SELECT 1")
    assert folder.run("backend", "reset", "--yes").returncode == 0
    assert [path.name for path in folder.data.iterdir()] == ["mine"]
    (folder.data / "mine").unlink()
    assert folder.run("backend", "reset", "--yes").returncode == 0
    assert not folder.data.exists()
