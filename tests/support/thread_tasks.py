"""Tasks for a worker of threads. `notes` gets a row for what each attempt does."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
import time
from typing import Any

from pydantic import BaseModel
from sqlalchemy import text

from backend.db.session import transaction
from backend.task import Run, task

INSERT = text("INSERT INTO notes VALUES (:id, :attempt, :note)")


class Wait(BaseModel):
    """How long to wait, in seconds, and whether only in the first attempt."""

    seconds: float = 0
    once: bool = False
    fail: bool = False
    number: int = 0

    def of(self, run: Run) -> float:
        """Return how long this attempt waits."""
        return 0 if self.once and run.attempt > 1 else self.seconds


def note(run: Run, what: str) -> None:
    """Write a note in a transaction of its own."""
    with transaction() as connection:
        connection.execute(INSERT, {"id": run.task_id, "attempt": run.attempt, "note": what})


@task(name="io_wait", queue="io")
def io_wait(args: Wait, run: Run) -> Wait:
    """Wait, as for an answer from the network."""
    time.sleep(args.of(run))
    if args.fail and run.attempt == 1:
        raise ValueError("the first attempt fails")
    return args


@task(name="io_write", queue="io")
def io_write(args: Wait, run: Run) -> Wait:
    """Wait, write a note through the session, then wait again."""
    time.sleep(args.of(run))
    run.session.execute(INSERT, {"id": run.task_id, "attempt": run.attempt, "note": "session"})
    time.sleep(args.of(run))
    return args


@task(name="io_overrun", queue="io", time_limit=1, max_attempts=2)
def io_overrun(args: Wait, run: Run) -> Wait:
    """Wait, then note that the function has gone on."""
    time.sleep(args.of(run))
    note(run, "went on")
    return Wait(number=run.attempt)


@task(name="io_hang", queue="io", time_limit=1, max_attempts=1)
def io_hang(args: Wait, run: Run) -> Wait:  # noqa: ARG001 - a task's signature
    """Never end."""
    threading.Event().wait()
    return args


@task(name="io_report", queue="io")
def io_report(args: Wait, run: Run) -> Wait:
    """Report progress, then wait."""
    run.progress(1, 2)
    time.sleep(args.seconds)
    return args


@task(name="io_limited", queue="io", max_running=3)
def io_limited(args: Wait, run: Run) -> Wait:
    """Note the begin and the end; three do so at once."""
    note(run, "began")
    time.sleep(args.seconds)
    note(run, "ended")
    return args


@task(name="io_async", queue="io", time_limit=2, max_attempts=2)
async def io_async(args: Wait, run: Run) -> Wait:
    """Wait in the event loop; note if it is cancelled there."""
    try:
        await asyncio.sleep(args.of(run))
    except asyncio.CancelledError:
        await asyncio.to_thread(note, run, "cancelled")
        raise
    if args.fail and run.attempt == 1:
        raise ValueError("the first attempt fails")
    return Wait(number=run.attempt)


@task(name="io_async_write", queue="io")
async def io_async_write(args: Wait, run: Run) -> Wait:
    """Use the session, which an async task does not have."""
    run.session.execute(INSERT)
    return args


@task(name="io_async_exit", queue="io")
async def io_async_exit(args: Wait, run: Run) -> Wait:
    """Call sys.exit() in the first attempt, in the coroutine or in one that it starts."""
    if run.attempt == 1 and args.fail:
        sys.exit(2)
    if run.attempt == 1:
        await asyncio.create_task(_exit())
    return Wait(number=run.attempt)


async def _exit() -> None:
    sys.exit(3)


@task(name="io_async_stubborn", queue="io", time_limit=1, max_attempts=2)
async def io_async_stubborn(args: Wait, run: Run) -> Wait:
    """Go on for some seconds after it was cancelled."""
    try:
        await asyncio.sleep(args.of(run))
    except asyncio.CancelledError:
        await asyncio.sleep(4)
        await asyncio.to_thread(note, run, "went on")
    return Wait(number=run.attempt)


def _run_long(runs: Any) -> None:  # noqa: ANN401 - an Event between processes
    runs.set()
    time.sleep(60)


@task(name="io_fork", queue="io", max_attempts=1)
def io_fork(args: Wait, run: Run) -> Wait:  # noqa: ARG001 - a task's signature
    """Terminate a process that it has forked; return its exit code."""
    context = multiprocessing.get_context("fork")
    runs = context.Event()
    process = context.Process(target=_run_long, args=(runs,))
    process.start()
    runs.wait(10)
    process.terminate()
    process.join(10)
    return Wait(number=process.exitcode or 0)


@task(name="ordinary_async")
async def ordinary_async(args: Wait, run: Run) -> Wait:  # noqa: ARG001 - a task's signature
    """Wait in an event loop of a pool process."""
    await asyncio.sleep(args.seconds)
    return args
