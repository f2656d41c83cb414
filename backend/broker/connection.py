"""Connections to the broker, with a timeout for each read and write, and their errors."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any, Final

from kombu.exceptions import BatchPublishError  # type: ignore[attr-defined]  # not in the stubs

from backend.broker.app import CONNECT_TIMEOUT, REDIS_TIMEOUT, app
from backend.broker.outage import broker_outage, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu import Connection

_broker: Any = app.connection_for_write()  # the stubs' errors are not quite exceptions
# The errors of a broker that is away, refuses something or does not answer; see outage.py.
BROKER_ERRORS: Final[tuple[type[Exception], ...]] = (
    *_broker.connection_errors,
    *_broker.channel_errors,
    BatchPublishError,
)


def pause_after(part: str) -> Callable[[Exception], float | None]:
    """Return the `pause_after` function of a Loop that uses the broker.

    The function reports an error of the broker as a failure of this part of the process, and
    returns the seconds to pause. It returns None for every other error.
    """

    def pause(error: Exception) -> float | None:
        if not isinstance(error, BROKER_ERRORS):
            return None
        return broker_outage.failed(explain(error), part)

    return pause


def connect(
    heartbeat: float = 0, timeout: float = 15, *, survives_alarm: bool = False
) -> Connection:
    """Return a new connection to the broker whose reads and writes end after `timeout` seconds.

    `survives_alarm`: Linux must not drop the connection while RabbitMQ reads nothing (alarm). The
    caller must then check heartbeats. Raises one of BROKER_ERRORS within 3 s if the broker is away,
    refuses or does not answer.
    """
    options: dict[str, Any] = {}
    # A busy broker needs longer for a new connection than for anything else.
    connect_timeout = min(2 * timeout, CONNECT_TIMEOUT)
    if _broker.transport.driver_type == "amqp":
        options = {"read_timeout": timeout, "write_timeout": timeout}
        if survives_alarm and sys.platform == "linux":
            # py-amqp sets it to 1 s: Linux then drops a connection whose peer reads nothing.
            options["socket_settings"] = {socket.TCP_USER_TIMEOUT: 0}
    elif timeout < REDIS_TIMEOUT:
        options = {"socket_timeout": timeout, "socket_connect_timeout": connect_timeout}
    connection = app.connection_for_write(
        heartbeat=heartbeat,
        connect_timeout=connect_timeout,
        transport_options=options,
    )
    # Once: connect() would try again after two seconds.
    connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
    return connection
