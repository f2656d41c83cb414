"""Drops messages that amqp or kombu cannot read: they end the worker, or come again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amqp import serialization
from amqp.spec import Basic

if TYPE_CHECKING:
    from kombu import Connection


def tolerate(connection: Connection) -> None:
    """Make a connection that is not yet established drop entries that kombu cannot read."""
    transport: Any = connection.transport
    if transport.driver_type == "redis":
        from backend.worker.parent.redis_channel import Channel  # noqa: PLC0415 - redis is loaded there

        transport.Channel = Channel


_readers: dict[int, Any] = serialization.PROPERTY_CLASSES
_read_properties = _readers[Basic.CLASS_ID]


def _properties(buffer: memoryview, offset: int) -> tuple[dict[str, Any], int]:
    """Return a message's properties; if amqp cannot read them, a content type that says so.

    With an error here, the broker would deliver the message again after every reconnect. With this
    content type, the worker drops it.
    """
    try:
        properties: tuple[dict[str, Any], int] = _read_properties(buffer, offset)
    except Exception as error:  # noqa: BLE001 - any message
        what = f"unknown: its properties cannot be read ({type(error).__name__})"
        return {"content_type": what}, len(buffer)
    return properties


_readers[Basic.CLASS_ID] = _properties
