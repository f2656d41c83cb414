"""Tasks of the tests of ordinary tasks that run in turns: each writes when it begins."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from backend.db import messages
from backend.task import Run, task

if TYPE_CHECKING:
    from collections.abc import Callable


class Step(BaseModel):
    """What a task does (`STEPS`), and the file to which it first adds a line."""

    file: str
    what: str = "nothing"


class Attempt(BaseModel):
    """Which attempt succeeded."""

    attempt: int


def _wait(args: Step) -> None:
    """Wait until a file `go` exists beside the other one."""
    while not Path(args.file).with_name("go").exists():
        time.sleep(0.02)


def _keep_the_interpreter(_args: Step) -> None:
    """Wait for 12 s in C code that lets no other thread of the process run."""
    ctypes.PyDLL(None).sleep(12)


def _kill_child(_args: Step) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_worker(_args: Step) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def _raise(_args: Step) -> None:
    raise ValueError("as asked")


STEPS: dict[str, Callable[[Step], None]] = {
    "nothing": lambda _: None,
    "nap": lambda _: time.sleep(0.04),
    "wait": _wait,
    "keep the interpreter": _keep_the_interpreter,
    "kill its process": _kill_child,
    "kill its worker": _kill_worker,
    "raise": _raise,
}


def _report_from_a_fork(run: Run) -> None:
    """Write through the session while a fork, which began before, reports progress."""
    pid = os.fork()
    if pid == 0:
        time.sleep(0.5)
        run.progress(1, 2)
        os._exit(0)
    time.sleep(0.2)
    messages.insert(run.session, "written", run.task_id)
    os.waitpid(pid, 0)


def _step(args: Step, run: Run) -> Attempt:
    with Path(args.file).open("a") as file:  # one write, so lines of processes do not mix
        file.write(f"{run.task_id} {run.attempt}\n")
    if args.what == "report from a fork":
        _report_from_a_fork(run)
    elif args.what == "write":
        messages.insert(run.session, "written", run.task_id)
    elif args.what == "report":
        run.progress(1, 2)
    elif args.what == "write, submit, kill its process":
        messages.insert(run.session, "written", run.task_id)
        run.submit(step, args.model_copy(update={"what": "nothing"}))
        if run.attempt == 1:
            _kill_child(args)
    elif run.attempt == 1 or args.what in {"nothing", "nap", "wait"}:
        STEPS[args.what](args)
    return Attempt(attempt=run.attempt)


@task(name="step", max_attempts=3)
def step(args: Step, run: Run) -> Attempt:
    """Add a line to a file, then do `what`; steps that kill or raise do so in attempt 1 only."""
    return _step(args, run)


@task(name="step_once", max_attempts=1)
def step_once(args: Step, run: Run) -> Attempt:
    """Do the same, with one attempt."""
    return _step(args, run)


@task(name="step_with_limit", max_attempts=2, time_limit=2)
def step_with_limit(args: Step, run: Run) -> Attempt:
    """Do the same, in at most two seconds."""
    return _step(args, run)
