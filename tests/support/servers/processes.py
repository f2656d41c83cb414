"""Processes of servers: how they are found, run as another user, and ended."""

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
    """A program the tests need is not installed; the message says which package."""


def find_program(program: str, package: str, *elsewhere: Path) -> Path:
    """Return the program's path, from `elsewhere` before PATH; else raise Missing."""
    path = os.pathsep.join([*map(str, elsewhere), os.environ.get("PATH", os.defpath)])
    found = shutil.which(program, path=path)
    if found is None:
        raise Missing(f"{program}: install Debian's {package} package")
    return Path(found)


def clean_environment(home: Path) -> dict[str, str]:
    """Return a server's environment: nothing of ours may configure it."""
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
    """Say whether a server listens, and, if greeted, answers at all."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(greeting)
            return not greeting or connection.recv(1) != b""
    except OSError:
        return False


def tree(pid: int) -> Iterator[int]:
    """Go over the ids of a process and all that descend from it, parents first.

    The children are looked up when their parent has been dealt with: one that has
    been stopped starts no more of them.
    """
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # has just ended
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
