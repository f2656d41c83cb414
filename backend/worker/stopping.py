"""Tells the tasks under way that their worker stops: its children share memory with the parent."""

from __future__ import annotations

import mmap
import struct

_TIME = struct.Struct("d")
# Until when running tasks may go on (monotonic, which is the same clock in all processes); 0 while
# the worker runs. Made at import, so that children which are forked later have it too.
_until = mmap.mmap(-1, _TIME.size)


def announce(until: float) -> None:
    """Let `deadline` return `until`, in this process and in its children."""
    _TIME.pack_into(_until, 0, until)


def deadline() -> float:
    """Return until when running tasks may go on (monotonic); 0 if the worker does not stop."""
    until: float = _TIME.unpack_from(_until)[0]
    return until
