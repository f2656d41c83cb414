"""Asks the workers what they hold: one broadcast, one thread, one connection.

A request waits up to a second for a worker that does not answer. Later requests do not wait for
this worker until it has answered again. During an outage of the broker no request waits.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu import Consumer, Exchange, Producer, Queue

from backend.api.event_drain import CLOSE_SECONDS, HEARTBEAT_SECONDS, EventDrain
from backend.broker.app import app
from backend.broker.connection import connect, pause_after
from backend.broker.outage import broker_outage
from backend.broker.queues import CLASSIC, prefixed
from backend.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kombu import Connection

Holdings = dict[str, str]

# The mailbox that workers read questions from.
_control: Any = app.control.mailbox  # type: ignore[attr-defined]  # missing in the stubs


class Inspector:
    """A thread with a connection for questions; it serves one caller at a time."""

    reply_timeout = 1.0

    def __init__(self, open_connection: Callable[..., Connection] = connect) -> None:
        self._open_connection = open_connection
        self._silent: set[str] = set()
        self._question: _Question | None = None
        self._connected = threading.Event()
        self._asked = threading.Event()
        self._loop = Loop(
            "inspector",
            "asks the workers what they hold",
            self._serve,
            pause_after=pause_after("inspector"),
        )
        self._stopping = self._loop.stopping
        self._loop.start()

    def ask(self, workers: Sequence[str]) -> Callable[[], Holdings]:
        """Ask the workers what they hold; return a function that waits for their answers.

        The function returns task ids with their statuses. It waits for the slowest answer, at most
        a second. Call `ask` again only after the function has returned.
        """
        if not workers or not self._connected.is_set():
            return dict
        self._silent &= set(workers)
        question = _Question(workers, self._silent)
        self._question = question
        self._asked.set()

        def answers() -> Holdings:
            question.answered.wait(self.reply_timeout)
            self._silent |= question.missing
            return dict(question.holdings)

        return answers

    def close(self) -> None:
        """Tell the thread to stop, and wait for it, at most CLOSE_SECONDS."""
        self._stopping.set()
        self._asked.set()
        self._loop.close(CLOSE_SECONDS)

    def _serve(self) -> None:
        connection = self._open_connection(heartbeat=HEARTBEAT_SECONDS, timeout=self.reply_timeout)
        try:
            self._answer_questions(connection)
        finally:
            self._connected.clear()
            connection.collect()

    def _answer_questions(self, connection: Connection) -> None:
        channel = connection.channel()
        producer = Producer(channel, exchange=_control.exchange, serializer="json")
        # A new name for each connection: the old queue is exclusive, and RabbitMQ keeps it until it
        # notices that the old connection is dead.
        name = prefixed(f"inspect.{uuid4()}")
        queue = Queue(
            name,
            Exchange(""),
            name,
            exclusive=True,
            auto_delete=True,
            durable=False,
            queue_arguments=CLASSIC,
        )
        events = EventDrain(connection)
        with Consumer(channel, [queue], callbacks=[self._on_answer], no_ack=True, accept=["json"]):
            self._silent.clear()
            self._connected.set()
            while not self._stopping.is_set():
                if self._asked.wait(timeout=2.0):
                    self._asked.clear()
                    if (question := self._question) and not self._stopping.is_set():
                        self._put(question, producer, name)
                        self._collect(question, events)
                # Read late answers: a worker that has answered late is no longer silent. This takes
                # a millisecond, so it comes after the question.
                events.handle_all()
                if broker_outage.failing:
                    broker_outage.succeeded("inspector")

    def _put(self, question: _Question, producer: Producer, reply_to: str) -> None:
        """Broadcast a question, as kombu.pidbox does, but with one reply queue for all."""
        producer.publish(
            {
                "method": "holdings",
                "arguments": {},
                "destination": list(question.workers),
                "pattern": None,
                "matcher": None,
                "ticket": question.ticket,
                "reply_to": {"exchange": "", "routing_key": reply_to},
            },
            declare=[_control.exchange],
            headers={
                "clock": _control.clock.forward(),
                "expires": time.time() + self.reply_timeout,
            },
        )

    def _collect(self, question: _Question, events: EventDrain) -> None:
        deadline = time.monotonic() + self.reply_timeout
        while not question.answered.is_set():
            left = deadline - time.monotonic()
            if left <= 0 or not events.handle(timeout=left):
                return

    def _on_answer(self, body: Any, message: Any) -> None:  # noqa: ANN401 - any message
        """Record an answer: `{worker: [[task id, status], …]}`."""
        if not isinstance(body, dict):
            return
        question = self._question
        for worker, holdings in body.items():
            self._silent.discard(worker)
            if question is not None and message.headers.get("ticket") == question.ticket:
                question.answer(worker, holdings)


class _Question:
    """A question to `workers`. `answered` is set when all but the silent ones have answered."""

    def __init__(self, workers: Sequence[str], silent: set[str]) -> None:
        self.ticket = str(uuid4())
        self.workers = tuple(workers)
        self.missing = set(workers) - silent
        self.holdings: Holdings = {}
        self.answered = threading.Event()
        if not self.missing:
            self.answered.set()

    def answer(self, worker: str, holdings: Any) -> None:  # noqa: ANN401 - any message
        """Record a worker's answer. An error is taken for an answer without tasks."""
        if isinstance(holdings, list):
            self.holdings.update((task_id, status) for task_id, status in holdings)
        self.missing.discard(worker)
        if not self.missing:
            self.answered.set()
