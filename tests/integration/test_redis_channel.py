"""The worker's channel to Redis after Redis has ended."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import kombu
import pytest

from backend.worker.parent import malformed

if TYPE_CHECKING:
    from tests.support.servers import Redis


@pytest.mark.usefixtures("service")
def test_a_connection_with_an_unacknowledged_message_can_be_closed_without_redis(
    redis_server: Redis,
) -> None:
    redis_server.start()
    connection: Any = kombu.Connection(redis_server.url, connect_timeout=1)
    malformed.tolerate(connection)
    channel = connection.default_channel
    queue = kombu.Queue("held", channel=channel)
    queue.declare()
    kombu.Producer(channel).publish("a message", routing_key="held")
    news = kombu.Queue("news", kombu.Exchange("news", "fanout"), channel=channel, auto_delete=True)
    kombu.Consumer(channel, [queue, news], callbacks=[lambda _body, _message: None]).consume()
    connection.drain_events(timeout=5)
    channel._brpop_start()
    redis_server.stop()
    # As in Celery's Consumer.on_connection_error_after_connected.
    with suppress(Exception):
        connection.collect()
    connection.close()
