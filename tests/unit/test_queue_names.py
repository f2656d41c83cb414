"""Names on the broker, which other programs and running older versions use."""

from __future__ import annotations

from typing import Any

from backend.broker.app import _REDIS_OPTIONS, app
from backend.broker.queues import queue
from backend.registry import queue_names


def test_without_a_prefix_every_name_is_as_in_earlier_versions() -> None:
    queues = [queue(name) for name in queue_names()]
    assert [(each.name, each.routing_key) for each in queues] == [
        ("tasks", "tasks"),
        ("short_tasks", "short_tasks"),
    ]
    assert {each.exchange.name for each in queues} == {"tasks"}
    mailbox: Any = app.control.mailbox  # type: ignore[attr-defined]  # missing in the stubs
    assert (mailbox.exchange.name, mailbox.reply_exchange.name) == (
        "celery.pidbox",
        "reply.celery.pidbox",
    )
    assert (app.conf.event_exchange, app.conf.event_queue_prefix) == ("celeryev", "celeryev")
    assert _REDIS_OPTIONS["unacked_key"] == "unacked"
    assert _REDIS_OPTIONS["unacked_index_key"] == "unacked_index"
    assert _REDIS_OPTIONS["unacked_mutex_key"] == "unacked_mutex"
