"""Relays are notified in a process with many open files, too."""

from __future__ import annotations

import fcntl
import os
import resource
from typing import Any

import psycopg2
import pytest
from sqlalchemy.exc import InterfaceError

from backend.db.listen import OutboxListener
from backend.errors import StoreUnavailable


class Listening:
    """A connection that listens at a file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.notifies: list[object] = ["rung"]

    def fileno(self) -> int:
        return self._fd

    def poll(self) -> int:
        return len(os.read(self._fd, 1))


def test_notifications_are_received_on_a_file_descriptor_above_1023() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("so many files may not be opened here")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    low, sound = os.pipe()
    high = fcntl.fcntl(low, fcntl.F_DUPFD, 1100)
    try:
        heard = Listening(high)
        listener: Any = OutboxListener.__new__(OutboxListener)  # it connects to nothing
        listener._raw = heard
        listener.wait(0.01)
        assert heard.notifies == ["rung"], "no notification was sent yet"
        os.write(sound, b"x")
        listener.wait(10)
        assert heard.notifies == []
    finally:
        for fd in (low, sound, high):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Broken:
    """A connection whose server ended it."""

    def close(self) -> None:
        raise InterfaceError(None, None, psycopg2.InterfaceError("connection already closed"))


def test_closing_a_listener_with_a_broken_connection_raises_an_outage() -> None:
    listener: Any = OutboxListener.__new__(OutboxListener)
    listener._connection = Broken()
    with pytest.raises(StoreUnavailable):
        listener.close()
