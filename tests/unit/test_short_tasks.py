"""The consumer of short tasks in the worker's parent process."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from celery.worker import state as celery_state
from kombu import Message

import backend.worker  # noqa: F401 - registers the tasks
from backend.broker.pack import Outgoing
from backend.broker.wire import encode
from backend.db.records import OutboxEntry
from backend.worker.parent.consumer import LedgerConsumer
from backend.worker.parent.short import ShortTasks


def test_a_worker_that_stops_while_the_broker_is_away_closes_no_channel() -> None:
    consumer: Any = SimpleNamespace(connection=None, controller=None)
    step = ShortTasks(consumer)
    step.consumers = [Mock(channel=Mock(close=Mock(side_effect=ConnectionError)))]
    step.stop(consumer)
    step.shutdown(consumer)


@pytest.mark.parametrize(("name", "gathered"), [("insert_message", 1), ("slow", 0)])
def test_a_task_of_the_short_queue_that_is_not_short_runs_alone(name: str, gathered: int) -> None:
    entry = OutboxEntry(str(uuid4()), 1, name, "{}", None)
    body, options = encode(Outgoing("short_tasks", [entry], bundle=True))
    make: Any = Message  # the stubs want a real channel
    message = make(
        body,
        headers=options["headers"],
        delivery_info={"routing_key": "short_tasks"},
        channel=Mock(no_ack_consumers=None),
    )
    consumer = Mock(read=lambda how, given: how(given), hostname="w", connection_errors=())
    consumer.requests_in = partial(LedgerConsumer.requests_in, consumer)
    step = ShortTasks(consumer)
    step._on_message(message)
    alone = [call.args[0] for call in consumer.ordinary_tasks.add.call_args_list]
    assert (len(step._waiting._requests), len(alone)) == (gathered, 1 - gathered)
    requests = [*step._waiting._requests, *alone]
    assert [(each.shares_job, each.announced) for each in requests] == [(bool(gathered), False)]
    celery_state.reserved_requests.clear()
