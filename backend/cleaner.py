"""The cleaner: a small process that cleans up when others have ended, even by `kill -9`."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def start(clean_up: Callable[[int], None]) -> tuple[int, int]:
    """Fork the process before threads exist. Return its pid and the write end of a pipe.

    The new process runs `clean_up` with the read end, then exits. `clean_up` must first read to
    end-of-file, which comes when every process has closed the write end.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(name, signal.SIG_IGN)
            # Close all files but the pipe: a reader of this program's output must get end-of-file.
            for number in map(int, os.listdir("/dev/fd")):  # noqa: PTH208 - as numbers, not as paths
                if number != reading:
                    with suppress(OSError):
                        os.close(number)
            clean_up(reading)
        finally:
            os._exit(0)
    os.close(reading)
    return pid, writing
