"""A small process that acts when others have ended, however they ended, `kill -9` included."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def start(act: Callable[[int], None]) -> tuple[int, int]:
    """Fork it; to be called before there are threads. Return its id and the end of a pipe.

    It calls `act` with the other end, whose reader sees the end of the file when all processes that
    have this one open have ended. It then ends itself.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(name, signal.SIG_IGN)
            # All but the pipe: a reader of this program's output must see its end.
            for number in map(int, os.listdir("/dev/fd")):  # noqa: PTH208 - as numbers, not as paths
                if number != reading:
                    with suppress(OSError):
                        os.close(number)
            act(reading)
        finally:
            os._exit(0)
    os.close(reading)
    return pid, writing
