"""Tasks of the tests that affect their pool process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from sqlalchemy import text

from backend.db import messages
from backend.task import Run, task

if TYPE_CHECKING:
    from collections.abc import Callable

_leaked: list[bytearray] = []


class Leak(BaseModel):
    """How much memory a run keeps."""

    mib: int = 0


class ProcessId(BaseModel):
    """Which process ran the task."""

    pid: int


@task(name="leak", max_attempts=3)
def leak(args: Leak, run: Run) -> ProcessId:  # noqa: ARG001 - a task's signature
    """Keep memory that nothing uses any more."""
    _leaked.append(bytearray(b"x" * (args.mib << 20)))
    return ProcessId(pid=os.getpid())


class Hold(BaseModel):
    """A folder: the task writes its process id to `pid`, and ends when `go` exists."""

    folder: str


@task(name="hold")
def hold(args: Hold, run: Run) -> ProcessId:  # noqa: ARG001 - a task's signature
    """Write the process id to `pid`; run until `go` exists, up to 60 s."""
    folder = Path(args.folder)
    (folder / "pid").write_text(str(os.getpid()))
    for _ in range(600):
        if (folder / "go").exists():
            break
        threading.Event().wait(0.1)
    return ProcessId(pid=os.getpid())


class HowToFork(BaseModel):
    """A way to run something in other processes (`WAYS`)."""

    way: str


class Squares(BaseModel):
    """The results of the other processes."""

    squares: list[int]


def square(number: int) -> int:
    """Return the square; to be called in another process."""
    return number * number


def _by_process(context: Any) -> list[int]:  # noqa: ANN401 - a context of multiprocessing
    queue = context.SimpleQueue()
    process = context.Process(target=_put_square, args=(queue, 3))
    process.start()
    result: int = queue.get()
    process.join()
    return [result]


def _put_square(queue: Any, number: int) -> None:  # noqa: ANN401 - the same
    queue.put(square(number))


def _by_pool(context: Any) -> list[int]:  # noqa: ANN401 - a context of multiprocessing
    with context.Pool(2) as pool:
        result: list[int] = pool.map(square, [3])
    return result


def _by_executor(context: Any) -> list[int]:  # noqa: ANN401 - a context of multiprocessing
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        return list(executor.map(square, [3]))


def _terminated(context: Any) -> list[int]:  # noqa: ANN401 - a context of multiprocessing
    process = context.Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join()
    return [process.exitcode]


WAYS: dict[str, Callable[[Any], list[int]]] = {
    "Process": _by_process,
    "Pool": _by_pool,
    "ProcessPoolExecutor": _by_executor,
    "terminate": _terminated,
}


@task(name="use_multiprocessing", max_attempts=1)
def use_multiprocessing(args: HowToFork, run: Run) -> Squares:  # noqa: ARG001 - a task's signature
    """Do the work in another process."""
    way, _, method = args.way.partition(", ")
    return Squares(squares=WAYS[way](multiprocessing.get_context(method)))


def _use_session(run: Run) -> None:
    messages.insert(run.session, "written by a fork", run.task_id)


def _close_session(run: Run) -> None:
    connection: Any = run.session.connection().connection.dbapi_connection
    connection.close()


def _kill_itself(_run: Run) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


FORKS: dict[str, Callable[[Run], object]] = {
    "returns": lambda _run: None,
    "raises": lambda _run: 1 / 0,
    "exits": lambda _run: sys.exit(0),
    "uses run.session": _use_session,
    "closes the connection": _close_session,
    "gets SIGTERM": _kill_itself,
}


@task(name="fork", max_attempts=2)
def fork(args: HowToFork, run: Run) -> ProcessId:
    """Write a message, then fork. The fork calls FORKS[way] in the middle of this function."""
    messages.insert(run.session, "written by the task", run.task_id)
    pid = os.fork()
    if pid == 0:
        FORKS[args.way](run)
        return ProcessId(pid=os.getpid())
    os.waitpid(pid, 0)
    run.session.execute(text("SELECT 1"))
    return ProcessId(pid=os.getpid())
