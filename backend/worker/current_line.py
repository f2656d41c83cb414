"""The line of a task's code that a child executes: the parent asks for it by a signal.

The child answers through a pipe. Python's faulthandler writes the answer in the signal's handler in
C, so the answer also comes from a task that waits in a library or computes there. It lists the
functions under way, the innermost first.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from billiard.process import current_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from backend.task import Task

# billiard uses SIGUSR1.
ASK = signal.SIGUSR2
# How long before its time limit a child is asked, so that the answer is there when it is killed.
ANSWER_SECONDS = 0.25
# More than faulthandler writes: 100 functions at most.
MAX_BYTES = 65_536
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in ', re.MULTILINE)


class _Pipe:
    """The pipe for the answers of a child."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        for end in (self._read, self.write):
            os.set_blocking(end, False)
        # The process that was asked last; 0 when its answer was read.
        self.asked = 0

    def take(self) -> str:
        """Read and return what was written, without waiting."""
        try:
            return os.read(self._read, MAX_BYTES).decode("ascii", "replace")
        except BlockingIOError:
            return ""


# By the number of the child in the pool. The next child with this number gets the same pipe.
_pipes: dict[int, _Pipe] = {}


def prepare(child: int) -> None:
    """Make the pipe of a child that is to be forked, for the parent and for the child."""
    if child not in _pipes:
        _pipes[child] = _Pipe()


def answer_parent() -> None:
    """Let this child answer its parent's signal."""
    pipe = _pipes.get(getattr(current_process(), "index", -1))
    if pipe is not None:  # None if it was not forked
        faulthandler.register(ASK, file=pipe.write, all_threads=False)


def ask(child: int, pid: int) -> None:
    """Ask a child for the line that it executes."""
    pipe = _pipes[child]
    pipe.take()  # an answer about an attempt that has ended in time
    pipe.asked = pid
    with suppress(OSError):  # it has ended
        os.kill(pid, ASK)


def answer(pid: int, task: Task) -> str:
    """Return "file, line number" of a task's code that a child was executing; "" if unknown."""
    pipe = next((each for each in _pipes.values() if each.asked == pid), None)
    if pipe is None:
        return ""
    pipe.asked = 0
    return _innermost(_FRAME.findall(pipe.take()), task)


def of_error(error: BaseException, task: Task) -> str:
    """Return "file, line number" of a task's code where an error was raised; "" if unknown."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return _innermost([(_escaped(frame.filename), frame.lineno) for frame in frames], task)


def _innermost(frames: Sequence[tuple[str, object]], task: Task) -> str:
    """Return the first place that is code of a task, of files and their lines; "" if none is.

    Its code is the top package of the task's function, or the function's own package if that is a
    part of ours.
    """
    module = getattr(task.function, "__module__", None) or task.declared.__module__
    package = module.partition(".")[0]
    if package == "backend":
        package = module.rpartition(".")[0]
    places = _places(package)
    for file, line in frames:
        for start, name in places.items():
            if file.startswith(start):
                return f"{name}{file.removeprefix(start)}, line {line}"
    return ""


def _places(package: str) -> Mapping[str, str]:
    """Return how the paths of a package's files begin, or of a module's file, each with its name.

    The names have no folder of this machine.
    """
    module = sys.modules.get(package)
    name = package.replace(".", "/")
    folders = getattr(module, "__path__", ())
    if folders:
        return {_escaped(f"{Path(folder)}{os.sep}"): f"{name}/" for folder in folders}
    file = getattr(module, "__file__", None)
    return {_escaped(file): f"{name}.py"} if file else {}


def _escaped(path: str) -> str:
    """Return a path as faulthandler writes it."""
    return path.encode("ascii", "backslashreplace").decode()
