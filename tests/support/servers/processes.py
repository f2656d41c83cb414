"""Processes of servers: finding programs, running as another user, ending processes."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict


class Missing(RuntimeError):
    """A program that the tests need is not installed; the message names its package."""


def find_program(program: str, package: str, *elsewhere: Path) -> Path:
    """Return the program's path, from `elsewhere` or PATH; otherwise raise Missing."""
    path = os.pathsep.join([*map(str, elsewhere), os.environ.get("PATH", os.defpath)])
    found = shutil.which(program, path=path)
    if found is None:
        raise Missing(f"{program}: install Debian's {package} package")
    return Path(found)


def clean_environment(home: Path) -> dict[str, str]:
    """Return a server's environment, without variables that could configure it."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}


class Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def identity(user: str | None) -> Identity:
    """Return the arguments that make `subprocess` run a program as `user`."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def port_answers(port: int, greeting: bytes) -> bool:
    """Return whether a server listens and, after a greeting, answers."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(greeting)
            return not greeting or connection.recv(1) != b""
    except OSError:
        return False


def tree(pid: int) -> Iterator[int]:
    """Yield the ids of a process and all its descendants, parents first.

    Children are looked up after the caller has handled their parent: a parent that was
    stopped starts no more of them.
    """
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # the process has just ended
        return
    for thread in threads:
        try:
            below = (thread / "children").read_text().split()
        except OSError:  # the same
            continue
        for child in below:
            yield from tree(int(child))


def send_signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
