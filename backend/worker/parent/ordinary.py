"""Ordinary tasks wait here for a free child. It gets several of those that came in bundles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from celery import bootsteps
from celery.worker.state import task_reserved

from backend.registry import registered
from backend.settings import settings
from backend.worker.parent import held, lease
from backend.worker.parent.jobs import Job
from backend.worker.parent.request import drop_duplicates
from backend.worker.parent.series import Series
from backend.worker.parent.waiting import WaitingRequests

if TYPE_CHECKING:
    from backend.worker.parent.priority_queue import PriorityQueue
    from backend.worker.parent.request import LedgerRequest

# The number of attempts that a child gets at once, at most.
MAX_JOB = 100


class OrdinaryTasks(bootsteps.StartStopStep):
    """Gives ordinary attempts to the children."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: object) -> None:  # noqa: ANN401 - Celery's
        super().__init__(consumer, **kwargs)
        self._consumer = consumer
        self._controller = consumer.controller
        self._waiting = WaitingRequests(self._controller, self._next_job, self._limit)
        consumer.ordinary_tasks = self
        # Celery's functions for a request that may run now: of a message, and of an ETA.
        consumer.on_task_request = self._controller.process_task = self.add

    def start(self, consumer: Any) -> None:  # noqa: ANN401 - Celery's
        """Forget what waited on the last connection."""
        self._waiting.connected(consumer.task_consumer)

    def stop(self, consumer: Any) -> None:  # noqa: ANN401, ARG002 - Celery's
        """Let no child begin another attempt of its series, if the worker stops."""
        if lease.told_to_stop():
            for each in list(held.series):
                each.give_rest_back()

    def add(self, request: LedgerRequest) -> None:
        """Let an attempt with its own message wait."""
        self._waiting.add([request])

    def add_bundle(self, message: Any) -> None:  # noqa: ANN401 - kombu's
        """Let the attempts of a bundle wait."""
        # A redelivered bundle: its worker died or was busy. A task may have killed that worker
        # before it was STARTED. So now each runs alone: it is STARTED first, and a crash uses up an
        # attempt.
        redelivered = bool(message.delivery_info.get("redelivered"))
        requests = []
        for request in self._consumer.requests_in(message):
            if not request.merge_into_held():
                # A relay of another version may not know that the task has a limit.
                limited = registered()[request.delivery.name].max_running
                request.shares_job = not (redelivered or limited)
                task_reserved(request)
                requests.append(request)
        self._waiting.add(requests)

    def _limit(self) -> float:
        """Return how many children may run ordinary tasks: all but one, left for short tasks."""
        if not self._consumer.takes_short_tasks:
            return math.inf
        processes: int = self._controller.pool.num_processes
        return max(1, processes - 1)

    def _next_job(self, requests: PriorityQueue) -> Job | Series | None:
        first = requests.first()
        if first.shares_job and self._controller.pool.runs_series:
            return self._next_series(requests)
        requests.pop_first()
        return None if first.revoked() else Job(self._controller, [first], self._waiting)

    def _next_series(self, requests: PriorityQueue) -> Series | None:
        """Return the free child's part of the first attempts, which came in bundles."""
        # max_tasks_per_child counts jobs, so each job then has one attempt.
        most = 1 if settings().max_tasks_per_child else MAX_JOB
        size = min(most, math.ceil(len(requests) / self._waiting.free()))
        members: list[LedgerRequest] = []
        while requests and requests.first().shares_job and len(members) < size:
            members.append(requests.pop_first())
        chosen = drop_duplicates(members)
        return Series(self._controller, chosen, self._waiting) if chosen else None
