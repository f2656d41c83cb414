"""What killed embedded servers leave: PostgreSQL's pid file, and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backend.errors import CannotRun
from backend.local import leftovers
from backend.local.programs import ENDINGS
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "postgres"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def run_as_postgres(tmp_path: Path) -> Iterator[Run]:
    """Give a function that starts a program named postgres with any arguments."""
    program = tmp_path / "postgres"
    shutil.copy("/bin/sh", program)
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: str, ignore: str = "", cwd: Path | None = None) -> subprocess.Popen[bytes]:
        code = f"trap '' {ignore or 'URG'}; echo here; read _"
        process = subprocess.Popen(
            [program, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd
        )
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def kept(data: Path, pid: object) -> bool:
    """Return whether a pid file with this process id is kept."""
    note = data / "postmaster.pid"
    note.write_text(f"{pid}\n{data}\n")
    leftovers.forget_ended_postgres(data)
    return note.exists()


def test_a_pid_file_that_names_a_zombie_is_removed(data: Path, run_as_postgres: Run) -> None:
    ended = run_as_postgres("-D", str(data))
    ended.kill()
    eventually(lambda: is_zombie(ended.pid), 5, "the process is a zombie")
    assert not kept(data, ended.pid)


def test_a_pid_file_that_names_another_program_is_removed(data: Path) -> None:
    assert not kept(data, os.getpid())
    assert not kept(data, os.getppid())
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    assert not kept(data, thread.native_id), "kill(2) also accepts the id of a thread"
    done.set()
    thread.join()


def test_a_pid_file_that_names_the_postgresql_of_another_folder_is_removed(
    data: Path, run_as_postgres: Run, tmp_path: Path
) -> None:
    assert not kept(data, run_as_postgres("-D", "/var/lib/postgresql/data", cwd=tmp_path).pid)


@pytest.mark.parametrize("pid", ["", "nonsense", 2**22 + 1, 10**30, 0, "-"])
def test_a_pid_file_that_names_no_process_is_removed(data: Path, pid: object) -> None:
    assert not kept(data, pid)


def test_a_pid_file_that_names_a_running_server_of_this_folder_is_kept(
    data: Path, run_as_postgres: Run
) -> None:
    assert kept(data, run_as_postgres("-D", str(data)).pid)
    assert kept(data, f"-{run_as_postgres('--single', '-D', str(data)).pid}")
    assert kept(data, run_as_postgres("-D", ".", cwd=data).pid), "a server started by hand"


def test_without_a_pid_file_nothing_is_changed(data: Path) -> None:
    leftovers.forget_ended_postgres(data)
    assert list(data.iterdir()) == []


def test_all_processes_of_a_killed_up_are_ended_and_no_others(
    tmp_path: Path, run_as_postgres: Run
) -> None:
    sockets = tmp_path / "tasks-api-abcdef"
    server = run_as_postgres("-k", str(sockets))
    frozen = run_as_postgres("-k", str(sockets), ignore="INT QUIT")
    # PostgreSQL shows this text without the folder's path.
    child = run_as_postgres(f"postgres: {sockets.name}: checkpointer", ignore="INT QUIT")
    zombie = run_as_postgres("-k", str(sockets))
    zombie.kill()
    other = run_as_postgres("-k", str(tmp_path / "tasks-api-others"))
    leftovers.end_servers(sockets, endings=[(number, 0.3) for number, _ in ENDINGS])
    assert [is_zombie(each.pid) for each in (server, frozen, child)] == [True] * 3
    assert other.poll() is None


def test_only_a_process_with_the_whole_argument_is_killed(
    tmp_path: Path, run_as_postgres: Run
) -> None:
    data = str(tmp_path / "new")
    ours, longer = run_as_postgres("-D", data), run_as_postgres("-D", f"{data}er")
    within = run_as_postgres("-D", f"/srv{data}")
    leftovers.kill_with_argument(data)
    eventually(lambda: is_zombie(ours.pid), 5, "the process has ended")
    assert (longer.poll(), within.poll()) == (None, None)


def test_a_process_that_does_not_end_keeps_the_next_server_from_starting(
    tmp_path: Path, run_as_postgres: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = run_as_postgres("-D", str(tmp_path))
    # Like a process that waits for a disk.
    monkeypatch.setattr("psutil.Process.send_signal", lambda *_: None)
    with pytest.raises(CannotRun, match=f"pid {stuck.pid}"):
        leftovers.kill_with_argument(str(tmp_path), 0.1)
