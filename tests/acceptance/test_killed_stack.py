"""`kill -9` of everything that `tasks-api up` has started; the next `up` starts at once."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg2
import pytest

from tests.support.servers import tree
from tests.support.up import Folder, alive, needs_embedded, servers
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = needs_embedded

MINUTE = 60.0
PR_SET_CHILD_SUBREAPER = 36

only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's prctl and /proc")


@contextmanager
def zombies_stay() -> Iterator[set[int]]:
    """Adopt orphans and do not wait for them, like a container whose main process is no init.

    Yield a set for the process ids to wait for at the end.
    """
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    adopted: set[int] = set()
    try:
        yield adopted
    finally:
        assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0
        for pid in adopted:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def kill_all(pid: int) -> set[int]:
    """Kill a process and all its descendants; return their ids. Do not wait for them."""
    family = list(tree(pid))
    for each in family:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    return set(family)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def postmaster(folder: Folder) -> int:
    return int((folder.data / "postgres" / "postmaster.pid").read_text().split()[0])


@only_on_linux
@pytest.mark.timeout(600)
def test_up_starts_at_once_after_everything_was_killed(folder: Folder, *, thorough: bool) -> None:
    accepted: list[str] = []
    with zombies_stay() as adopted:
        for _ in range(15 if thorough else 1):
            up = folder.start()
            accepted.append(folder.stack().post("/tasks/", {"content": "kept"}))
            adopted.update(kill_all(up.popen.pid) - {up.popen.pid})
            up.sink.close()
            up.popen.wait()
        with folder.running() as (_, stack):
            for task_id in accepted:
                assert stack.state(task_id, wait=MINUTE)["status"] == "SUCCESS"


@only_on_linux
@pytest.mark.parametrize("killed", ["everything", "the first processes only"])
def test_postgresql_starts_while_its_predecessor_is_a_zombie(folder: Folder, killed: str) -> None:
    with zombies_stay() as adopted:
        process = servers(folder)
        family = set(tree(process.pid))
        before = postmaster(folder)
        if killed == "everything":
            kill_all(process.pid)
        else:
            os.kill(process.pid, signal.SIGKILL)
            os.kill(before, signal.SIGKILL)
        adopted.update(family - {process.pid})
        process.communicate()
        process = servers(folder)
        assert postmaster(folder) != before
        assert not any(map(alive, family)), "the processes of the first have ended"
        adopted.update(set(tree(process.pid)) - {process.pid})
        process.communicate(timeout=20)


def connect(folder: Folder) -> psycopg2.extensions.connection:
    return psycopg2.connect(folder.urls()["database_url"].replace("+psycopg2", ""))


@only_on_linux
@pytest.mark.parametrize("by", ["the next up", "the same up"])
def test_postgresql_starts_while_a_statement_of_its_predecessor_still_runs(
    folder: Folder, by: str
) -> None:
    process = servers(folder)
    with closing(connect(folder)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (busy,) = cursor.fetchone() or (0,)
        # A frozen process notices nothing, like one that is computing.
        os.kill(busy, signal.SIGSTOP)
        os.kill(postmaster(folder), signal.SIGKILL)
        if by == "the next up":
            process.kill()
            process.communicate()
            process = servers(folder)
    eventually(lambda: not alive(busy), 20, "the process of the statement is killed")
    eventually(lambda: serves(folder), 20, "PostgreSQL serves again")
    process.communicate(timeout=20)


def serves(folder: Folder) -> bool:
    try:
        connect(folder).close()
    except psycopg2.OperationalError:
        return False
    return True
