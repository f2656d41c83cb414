"""Tickets: they divide the attempts of a job between the child that runs them and the parent.

Each child has a pipe with a byte for each attempt of its job that nobody has begun. Whoever reads a
byte owns the attempt: the child reads one before each attempt, from the front; the parent reads all
that are left, which are the last ones. A read is atomic, and a process that is killed leaves no
lock behind.

The parent issues the tickets when the child has accepted the job. So a job that the parent gave up
before, because the broker's connection was lost, gets none.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import select
import termios

# How long a child waits for the tickets of a job. The parent issues them at once.
WAIT_SECONDS = 1.0
# A pipe takes up to this number of bytes at once, or none of them.
MAX_TICKETS = select.PIPE_BUF


class Tickets:
    """The tickets of a child."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        # A byte of memory that child and parent share.
        self._locked = mmap.mmap(-1, 1)

    def issue(self, count: int) -> None:
        """Write tickets for the attempts of a job, MAX_TICKETS or fewer."""
        self.take_rest()
        os.write(self._write, b"." * count)

    def wait(self, seconds: float) -> None:
        """Return when tickets were issued, or after `seconds`."""
        select.select([self._read], [], [], seconds)

    def take(self, *, locked: bool = False) -> bool:
        """Take the next ticket; return False if none is left.

        `locked`: whether this child has locked the row of the attempt's task.
        """
        before, self._locked[0] = self._locked[0], locked
        taken = bool(self._take(1))
        if not taken:
            self._locked[0] = before
        return taken

    @property
    def locked(self) -> bool:
        """Return whether the child has locked the row of the attempt that it has begun last.

        If not, the child has skipped it, or claims it itself.
        """
        return bool(self._locked[0])

    def take_rest(self) -> int:
        """Take all tickets that are left; return how many attempts were not begun."""
        return self._take(MAX_TICKETS)

    def left(self) -> int:
        """Return how many attempts were not begun."""
        size = array.array("i", [0])
        fcntl.ioctl(self._read, termios.FIONREAD, size)
        return size[0]

    def _take(self, count: int) -> int:
        try:
            return len(os.read(self._read, count))
        except BlockingIOError:
            return 0


# By the number of the child in the pool. The next child with this number gets the same pipe.
_tickets: dict[int, Tickets] = {}


def prepare(child: int) -> None:
    """Make the tickets of a child that is to be forked, for the parent and for the child."""
    if child not in _tickets:
        _tickets[child] = Tickets()


def of_child(child: int) -> Tickets | None:
    """Return the tickets of a child, by its number in the pool; None if it was not forked."""
    return _tickets.get(child)
