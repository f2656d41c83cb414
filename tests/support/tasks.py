"""Tasks of the tests. Most of them do one thing wrong."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from pydantic import BaseModel, RootModel
from sqlalchemy import text

from backend.db import messages
from backend.errors import TaskError, TimeUp
from backend.task import Run, task
from tests.support.errors import ERRORS


class Nothing(BaseModel):
    """No arguments."""


class Note(BaseModel):
    """A value that differs between runs."""

    text: str = ""


@task(name="kill_its_process")
def kill_its_process(args: Nothing, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Kill its own process in the first line."""
    os.kill(os.getpid(), signal.SIGKILL)
    return Note()


@task(name="kill_its_process_in_one_commit", max_attempts=3, one_commit=True)
def kill_its_process_in_one_commit(args: Nothing, run: Run) -> Note:
    """Kill its own process in the first line, before its claim is committed."""
    return kill_its_process(args, run)


@task(name="fail", max_attempts=2)
def fail(args: Note, run: Run) -> Note:
    """Write a message, then raise an error."""
    messages.insert(run.session, "to be rolled back", run.task_id)
    raise ValueError(args.text)


@task(name="refuse")
def refuse(args: Note, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Fail without retry."""
    raise TaskError(args.text)


@task(name="refuse_in_one_commit", one_commit=True)
def refuse_in_one_commit(args: Note, run: Run) -> Note:
    """Write a message, then fail without retry."""
    messages.insert(run.session, "to be rolled back", run.task_id)
    raise TaskError(args.text)


@task(name="note")
def note(args: Note, run: Run) -> Note:
    """Write a message in the transaction of the outcome."""
    messages.insert(run.session, args.text, run.task_id)
    return args


@task(name="once", max_attempts=1)
def once(args: Note, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Take a second; it has only one attempt."""
    threading.Event().wait(1)
    return args


@task(name="succeed_at_second_attempt")
def succeed_at_second_attempt(args: Note, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Raise an error in the first attempt, then succeed."""
    if run.attempt == 1:
        raise ValueError("not yet")
    return Note(text=f"attempt {run.attempt}")


@task(name="overrun", max_attempts=1, time_limit=2)
def overrun(args: Nothing, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Take longer than its time limit, and go on after TimeUp."""
    for _ in range(2):
        with suppress(TimeUp):
            threading.Event().wait(60)
    return Note()


@task(name="nearly_overrun", max_attempts=1, time_limit=3)
def nearly_overrun(args: Note, run: Run) -> Note:
    """Take longer than its time limit, and end when this is near if it has a text."""
    messages.insert(run.session, "written before TimeUp", run.task_id)
    left = run.seconds_left
    try:
        threading.Event().wait(20)
    except TimeUp:
        if not args.text:
            raise
        return Note(text=f"{left:.0f} {run.seconds_left:.0f} {run.stopping}")
    return args


@task(name="until_the_stop")
def until_the_stop(args: Note, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Run until the worker stops, and return how long it may go on then."""
    run.progress(0, 1)
    while not run.stopping:
        threading.Event().wait(0.05)
    return Note(text=f"{run.seconds_left:.0f}")


@task(name="overrun_in_one_commit", max_attempts=1, time_limit=2, one_commit=True)
def overrun_in_one_commit(args: Nothing, run: Run) -> Note:
    """Take longer than its time limit."""
    return overrun(args, run)


@task(name="compute_and_overrun", max_attempts=1, time_limit=2)
def compute_and_overrun(args: Nothing, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Take longer than its time limit in a function of C that lets no other Python code run."""
    return Note(text=str(sum(range(10**12))))


@task(name="overrun_in_a_series", max_attempts=2, time_limit=1)
def overrun_in_a_series(args: Nothing, run: Run) -> Note:
    """Take longer than its time limit; with two attempts it shares a message with others."""
    return overrun(args, run)


@task(name="freeze_and_overrun", max_attempts=1, time_limit=2)
def freeze_and_overrun(args: Nothing, run: Run) -> Note:
    """Freeze its own process until the time limit has passed."""
    os.kill(os.getpid(), signal.SIGSTOP)
    return overrun(args, run)


@task(name="return_the_unstorable")
def return_the_unstorable(args: Nothing, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Return a text that JSON can hold but PostgreSQL cannot."""
    return Note(text="a\x00b")


@task(name="wait")
def wait(args: Note, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Wait until the file that `text` names exists, up to 60 s, without using the database."""
    for _ in range(600):
        if os.path.exists(args.text):  # noqa: PTH110 - the fastest check
            break
        threading.Event().wait(0.1)
    return Note()


@task(name="wait_for_a_lock", max_attempts=1, one_commit=True)
def wait_for_a_lock(args: Nothing, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Wait for the advisory lock 1, as long as PostgreSQL allows."""
    run.session.execute(text("SELECT pg_advisory_xact_lock(1)"))
    return Note()


@task(name="write_and_wait")
def write_and_wait(args: Note, run: Run) -> Note:
    """Write a message, then wait until the file that `text` names exists, up to 60 s."""
    messages.insert(run.session, "written by write_and_wait", run.task_id)
    for _ in range(600):
        if os.path.exists(args.text):  # noqa: PTH110 - the fastest check
            break
        threading.Event().wait(0.1)
    return Note(text=f"attempt {run.attempt}")


@task(name="wait_and_write")
def wait_and_write(args: Note, run: Run) -> Note:
    """Wait until the file that `text` names exists, then write a message."""
    wait(args, run)
    messages.insert(run.session, "written by wait_and_write", run.task_id)
    return Note(text=f"attempt {run.attempt}")


@task(name="raise_anything", max_attempts=1)
def raise_anything(args: Note, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Raise the error of that name."""
    error = ERRORS[args.text]()
    raise error


@task(name="raise_in_one_commit", max_attempts=1, one_commit=True)
def raise_in_one_commit(args: Note, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Raise the error of that name."""
    error = ERRORS[args.text]()
    raise error


@task(name="exit_at_first")
def exit_at_first(args: Nothing, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Call sys.exit() in the first attempt, as functions of command-line programs do."""
    if run.attempt == 1:
        sys.exit(2)
    return Note(text=f"attempt {run.attempt}")


Numbers = RootModel[list[int]]
Sum = RootModel[int]


@task(name="add_up")
def add_up(args: Numbers, run: Run) -> Sum:  # noqa: ARG001 - a task's signature
    """Return the sum of the numbers."""
    return Sum(sum(args.root))


@task(name="add_up_in_one_commit", one_commit=True)
def add_up_in_one_commit(args: Numbers, run: Run) -> Sum:  # noqa: ARG001 - a task's signature
    """Return the sum of the numbers."""
    return Sum(sum(args.root))


class Command(BaseModel):
    """A subprocess that creates a file after some seconds; it may have its own session."""

    file: str
    seconds: float = 3
    own_session: bool = False


@task(name="start_subprocess", max_attempts=1, time_limit=30)
def start_subprocess(args: Command, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Wait for a subprocess that has a subprocess."""
    shell = f"sleep {args.seconds}; echo effect >> {args.file}"
    subprocess.run(
        ["sh", "-c", f"({shell}) & wait"], start_new_session=args.own_session, check=True
    )
    return Note()


@task(name="start_subprocess_and_overrun", max_attempts=1, time_limit=1)
def start_subprocess_and_overrun(args: Command, run: Run) -> Note:
    """Start a subprocess and exceed the time limit."""
    return start_subprocess(args, run)


@task(name="say")
def say(args: Note, run: Run) -> Note:  # noqa: ARG001 - a task's signature
    """Log and print a text, and raise an error with it."""
    logging.getLogger(__name__).warning("logged %s", args.text)
    print("printed", args.text)
    raise TaskError(args.text)
