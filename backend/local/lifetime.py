"""PostgreSQL and Valkey from wheels, for `tasks-api up` where the settings name no servers.

Both keep their data in DATA_DIR and listen on Unix sockets only. The sockets are in a separate
folder that no other user may enter: DATA_DIR's path may be too long for a socket (107 bytes).

DATA_DIR holds:

- `lock`, which `up` holds while it runs
- `running.json`: the other commands find the servers there (settings.py reads it), and the next
  `up` finds what a killed one has left
- `sockets`: the path of the socket folder, after an `up` that was not killed
- `postgres`, `valkey`, and a log of each
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend import cleaner
from backend.errors import CannotRun
from backend.local.programs import ENDINGS, Postgres, Server, Valkey
from backend.loop import start_thread
from backend.settings import LOCK_FILE, RUNNING_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.settings import Settings

# A socket's path may have 107 bytes, on macOS 103: /tasks-api-12345678/.s.PGSQL.5432 included.
LONGEST_PARENT = 103 - 33
# The beginning of the socket folder's name; eight random characters follow.
SOCKETS_PREFIX = "tasks-api-"
# Set for the processes that `up` starts: the lock file to watch.
UP_VARIABLE = "TASKS_API_UP"
# In DATA_DIR: the socket folder of an `up` that has ended. The next one makes it again, so that a
# worker beside `up` can connect again. After a killed `up` it must not: the cleaner of that one
# may still end all servers that use this folder.
SOCKETS_FILE = "sockets"


@contextmanager
def exclusive_data_dir(folder: Path) -> Iterator[bool]:
    """Lock DATA_DIR, so that one `up` or `reset` runs; yield whether the last `up` was killed.

    Servers that a killed `up` left behind are ended first. The lock is a POSIX lock: a child
    process could inherit a lock of flock(), and keep it after `up` was killed. Raises CannotRun.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_uid != os.geteuid():
            raise CannotRun(f"{folder} belongs to another user: run as that user, or set DATA_DIR")
        lock = _lock(folder)
    except OSError as error:
        raise CannotRun(f"cannot work in {folder}: {error.strerror}; set DATA_DIR") from error
    with lock:
        yield _clean_up_after_killed(folder)


def _lock(folder: Path) -> Any:  # noqa: ANN401 - an open file
    # Other commands may hold it for a moment (settings.py, end_with_up).
    for attempts_left in reversed(range(20)):
        file = (folder / LOCK_FILE).open("a")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            if attempts_left:
                time.sleep(0.05)
        else:
            return file
    raise CannotRun(
        f"already running in {folder}; stop that one first,"
        " or set DATA_DIR, API_PORT and FLOWER_PORT"
    )


def _clean_up_after_killed(folder: Path) -> bool:
    """End the servers of a killed `up`. The random name of the socket folder identifies them.

    Return whether there was one.
    """
    note = folder / RUNNING_FILE
    if not note.exists():
        return False
    try:
        sockets = json.loads(note.read_text()).get("sockets")
    except ValueError:  # it was killed while it wrote
        sockets = None
    # The processes to kill are searched by this name. A name of another form could match any
    # server.
    if sockets and Path(sockets).name.startswith(SOCKETS_PREFIX):
        _end_servers(Path(sockets))
        shutil.rmtree(sockets, ignore_errors=True)
    note.unlink()
    return True


def _end_servers(sockets: Path) -> None:
    from backend.local import leftovers  # noqa: PLC0415 - see there

    leftovers.end_servers(sockets)


def end_with_up() -> None:
    """End this process, in a thread, when the `up` that started it has ended, even by `kill -9`."""
    path = os.environ.get(UP_VARIABLE)
    if path is None:
        return
    file = Path(path).open()  # noqa: SIM115 - waited for as long as the process lives

    def wait() -> None:
        fcntl.lockf(file, fcntl.LOCK_SH)
        file.close()
        os.kill(os.getpid(), signal.SIGTERM)

    start_thread("end with up", "ends this process when `up` is gone", wait)


def remove_data(folder: Path) -> None:
    """Delete what `up` and its servers keep in DATA_DIR, and nothing else that lies there.

    Call it within `exclusive_data_dir`. Raises CannotRun.
    """
    try:
        for name in ("postgres", "postgres.new", "valkey"):
            if (folder / name).exists():
                shutil.rmtree(folder / name)
        for name in ("postgresql.log", "valkey.log", SOCKETS_FILE, LOCK_FILE):
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise CannotRun(f"cannot remove all of {folder}: {error}") from error


@contextmanager
def servers(found: Settings) -> Iterator[tuple[Sequence[Server], Sequence[int]]]:
    """Run the servers that the settings do not name; put their URLs into the environment.

    Yields the servers, to be checked, and file descriptors that the children must keep open: if
    this process is killed, the servers run until the children have ended too. Call it within
    `exclusive_data_dir`. Raises CannotRun for a server that does not start.
    """
    running: list[Server] = []
    inherited_fds: list[int] = []
    with ExitStack() as cleanup:
        try:
            urls = _start(found, cleanup, running, inherited_fds)
        except OSError as error:
            raise CannotRun(f"cannot start the embedded servers: {error}") from error
        os.environ.update({name.upper(): url for name, url in urls.items()})
        os.environ[UP_VARIABLE] = str(found.data_dir / LOCK_FILE)
        yield running, inherited_fds


def _start(
    found: Settings, cleanup: ExitStack, running: list[Server], inherited_fds: list[int]
) -> dict[str, str]:
    """Start the servers and return their URLs by the settings' names."""
    note = found.data_dir / RUNNING_FILE
    cleanup.callback(note.unlink, missing_ok=True)
    kinds = [kind for kind in (Postgres, Valkey) if not getattr(found, kind.setting)]
    if not kinds:
        note.write_text("{}")
        return {}
    last = found.data_dir / SOCKETS_FILE
    sockets = _make_last_folder(last) or _make_folder_for_sockets()
    cleanup.callback(_remember, sockets, last)
    cleaner_pid, writing = cleaner.start(lambda reading: _clean_up_later(reading, sockets))
    inherited_fds.append(writing)
    cleanup.callback(_end_cleaner, cleaner_pid)
    cleanup.callback(shutil.rmtree, sockets, ignore_errors=True)
    urls = {kind.setting: kind.url(sockets) for kind in kinds}
    # Written before a server starts: if this process is killed, the next `up` finds the servers.
    note.write_text(json.dumps({"sockets": str(sockets), **urls}))
    cleanup.callback(_stop, running, sockets)
    for kind in kinds:
        running.append(kind(found, sockets))
        running[-1].start()
    return urls


def _make_last_folder(noted: Path) -> Path | None:
    """Make the folder whose path a file names, and delete the file; return None if that fails."""
    with suppress(OSError, ValueError):
        folder = Path(noted.read_text())
        noted.unlink()
        if folder.name.startswith(SOCKETS_PREFIX):
            folder.mkdir(0o700)
            return folder
    return None


def _remember(sockets: Path, noted: Path) -> None:
    with suppress(OSError):  # such as a full disk
        noted.write_text(str(sockets))


def _make_folder_for_sockets() -> Path:
    """Make a folder with a random name in TMPDIR, else in /tmp or /var/tmp.

    Raises CannotRun if no folder can have sockets, and OSError if no folder can be written to.
    """
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - of a random name
        # The folder is a part of the servers' URLs, where a comma separates hosts, and which can
        # only have UTF-8.
        if len(os.fsencode(parent)) <= LONGEST_PARENT and "," not in parent and _is_text(parent):
            with suppress(OSError):
                return Path(tempfile.mkdtemp(prefix=SOCKETS_PREFIX, dir=parent))
    raise CannotRun(
        "no folder can have the servers' sockets: set TMPDIR to one that can be written to, with a"
        f" path of {LONGEST_PARENT} bytes at most and no comma"
    )


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _clean_up_later(reading: int, sockets: Path) -> None:
    """Wait until `up` and its processes have ended; then end the servers."""
    os.read(reading, 1)
    _end_servers(sockets)
    shutil.rmtree(sockets, ignore_errors=True)


def _end_cleaner(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _stop(running: Sequence[Server], sockets: Path) -> None:
    """Stop all at the same time; no other signal interrupts it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number, seconds in ENDINGS:
        for server in running:
            server.send(number)
        deadline = time.monotonic() + seconds
        ended = [server.ended(deadline - time.monotonic()) for server in running]
        if all(ended) and number is not signal.SIGKILL:
            return
    _end_servers(sockets)  # after SIGKILL, PostgreSQL's other processes may still run
