"""The lease's thread: which attempts it lists, and how it ends a worker."""

from __future__ import annotations

import math
import os
import queue
import subprocess
import sys
import textwrap
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery.worker import state as celery_state

from backend.worker.parent import held, lease, subprocesses


@pytest.mark.usefixtures("_forget_requests")
def test_a_lease_lists_no_member_of_a_batch() -> None:
    alone, member = (
        Mock(id=name, delivery=Mock(attempt=2), shares_job=name == "member")
        for name in ("alone", "member")
    )
    for requests in (celery_state.reserved_requests, celery_state.active_requests):
        requests |= {alone, member}
    assert held.attempts() == {"alone/2": alone}


def test_a_worker_hands_running_tasks_back_after_its_children_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    ending: Any = lease.Lease.__new__(lease.Lease)
    ending._stopping = threading.Event()
    ending._name = "a worker"
    children = SimpleNamespace(_pool=[SimpleNamespace(pid="one"), SimpleNamespace(pid="two")])
    ending._worker = SimpleNamespace(pool=SimpleNamespace(_pool=children))

    def hand_back() -> None:
        done.append(f"hand back, renewing: {not ending._stopping.is_set()}")

    ending._hand_back_soon = hand_back
    monkeypatch.setattr(subprocesses, "kill_all", lambda pids: done.append(f"kill {list(pids)}"))
    monkeypatch.setattr(os, "_exit", lambda code: done.append(f"exit {code}"))
    ending.end_now(1)
    assert done == ["kill ['one', 'two']", "hand back, renewing: False", "exit 1"]


def test_a_worker_that_has_killed_its_children_records_no_error_of_what_they_ran() -> None:
    written: list[str] = []
    ending: Any = lease.Lease.__new__(lease.Lease)
    ending._writes, ending._renew_at = queue.SimpleQueue(), math.inf
    ending._stopping = threading.Event()
    ending.write_soon(lambda: written.append("before"))
    ending._guarded = lambda write: write() or True
    ending._turn()
    ending._stopping.set()
    ending.write_soon(lambda: written.append("after"))
    ending._turn()
    assert written == ["before"]


@pytest.mark.parametrize("told", [True, False])
def test_a_stopping_worker_ends_even_if_its_shutdown_hangs(
    monkeypatch: pytest.MonkeyPatch, *, told: bool
) -> None:
    done: list[object] = []
    monkeypatch.setattr("backend.worker.parent.lease.time.sleep", done.append)
    monkeypatch.setattr(os, "_exit", lambda code: done.append(f"exit {code}"))
    ending: Any = lease.Lease.__new__(lease.Lease)
    ending._worker = SimpleNamespace(exitcode=3)
    ending.told_to_stop = lambda: told
    ending._stop_seconds = 5
    ending._stopping = threading.Event()
    ending._stopping.set()  # `end` was called, and does not return
    ending._watch_for_stop()
    assert done == [lease.EXIT_TIMEOUT, "exit 3"]


def test_the_thread_of_the_lease_imports_no_module() -> None:
    """A process that is forked while another thread imports a module waits for it without end."""
    steps = """
        import sys
        from types import SimpleNamespace
        from backend.worker.parent import lease

        lease.Lease = lambda worker: modules.update(sys.modules)  # it would start the thread
        modules = {}
        lease._start(SimpleNamespace(hostname="w"))
        lease.lease_engine()  # the thread's first step
        print(sorted(set(sys.modules) - set(modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(steps)],
        env={
            **os.environ,
            "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:9/nothing",
            "CELERY_BROKER_URL": "amqp://nobody:nothing@127.0.0.1:9//",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
