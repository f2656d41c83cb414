"""The pool of threads: what happens if the machine cannot start a thread."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from backend import coroutines
from backend.broker.wire import Delivery
from backend.loop import start_thread
from backend.worker.attempt.report import Report
from backend.worker.parent.threads import Threads

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator


THREADS = "backend.worker.parent.threads"


class Hub:
    """An event loop that only notes what it is to call later."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[..., None]]] = []

    def add_reader(self, *_: object) -> None: ...

    def call_later(self, seconds: float, function: Callable[..., None], *_: object) -> Any:  # noqa: ANN401 - kombu's
        self.later.append((seconds, function))
        return self

    def cancel(self) -> None: ...


class Semaphore:
    """Counts what is released."""

    released = 0

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    """Give a pool whose attempts do nothing."""
    monkeypatch.setattr(f"{THREADS}.run_attempt", lambda *_: Report())
    monkeypatch.setattr(f"{THREADS}.session_engine", lambda: None)
    monkeypatch.setattr(coroutines, "share_event_loop", lambda _: None)
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    made = Threads(2, semaphore=Semaphore())
    made.on_start()
    made.register_with_event_loop(Hub())
    yield made
    made._commits.close()
    for end in (made._read, made._write):
        os.close(end)


def apply(pool: Threads, accepted: list[int], ended: list[Report]) -> None:
    delivery = Delivery("an-id", 1, "slow", ("{}",), {}, None, None, "tasks", external=False)
    pool.on_apply(
        None,
        ("w", [delivery]),
        {},
        accept_callback=lambda number, _: accepted.append(number),
        callback=ended.append,
        error_callback=lambda _: None,
        timeout=60.0,
    )


def test_an_attempt_waits_for_a_thread_that_the_machine_cannot_start_yet(
    pool: Threads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [RuntimeError("can't start new thread")] * 2

    def failing(*arguments: Any) -> threading.Thread:
        if errors:
            raise errors.pop()
        return start_thread(*arguments)

    monkeypatch.setattr(f"{THREADS}.start_thread", failing)
    accepted: list[int] = []
    ended: list[Report] = []
    apply(pool, accepted, ended)
    apply(pool, accepted, ended)
    assert (accepted, pool.busy()) == ([], 0)
    assert {seconds for seconds, _ in pool._hub.later} == {1.0}
    pool._hub.later[0][1]()
    assert len(accepted) == 2
    pool._calls.get(timeout=10)()
    pool._calls.get(timeout=10)()
    assert (len(ended), pool.busy(), pool.options["semaphore"].released) == (2, 0, 2)
    assert "a thread cannot be started" in caplog.text


def test_what_has_no_thread_is_forgotten_with_the_connection(
    pool: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(f"{THREADS}.start_thread", failing)
    accepted: list[int] = []
    apply(pool, accepted, [])
    pool.flush()
    monkeypatch.setattr(f"{THREADS}.start_thread", start_thread)
    pool._hub.later[0][1]()
    assert (accepted, pool.busy()) == ([], 0)
