"""A channel to Redis that survives entries that kombu cannot read, and outages of Redis."""

from __future__ import annotations

import logging
from queue import Empty
from typing import TYPE_CHECKING, Any

from kombu.exceptions import InconsistencyError
from kombu.transport.redis import Channel as RedisChannel
from kombu.transport.redis import QoS
from redis.exceptions import DataError, RedisError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class Unacknowledged(QoS):
    """kombu's record of the messages that a channel has delivered."""

    def restore_unacked_once(self, stderr: Any = None) -> None:  # noqa: ANN401 - kombu's
        """Put back what was not acknowledged, when the channel is closed or the process ends.

        While Redis is away kombu raises errors that Celery does not expect. They would end the
        worker.
        """
        try:
            super().restore_unacked_once(stderr)
        except Exception as error:  # noqa: BLE001 - the outbox has what is lost here
            logger.warning(
                "messages were not put back, because Redis is away (%s): their tasks are published"
                " again",
                type(error).__name__,
            )

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:  # noqa: ANN401, FBT001, FBT002, ARG002 - kombu's
        """Return a message to the front of its queue; kombu would put it behind all others."""
        super().restore_by_tag(tag, client)


class Channel(RedisChannel):
    """kombu's channel, for the worker's consumers.

    kombu removes an entry from its list before it reads it, so a dropped one does not come again.
    The worker's handlers of messages raise only errors of Redis; the entry causes all others.
    """

    QoS = Unacknowledged

    def _brpop_read(self, **options: Any) -> Any:  # noqa: ANN401 - kombu's
        return _dropping_malformed(super()._brpop_read, **options)  # type: ignore[misc]  # not in the stubs

    def _receive(self) -> Any:  # noqa: ANN401 - kombu's
        return _dropping_malformed(super()._receive)  # type: ignore[misc]  # as above


def _dropping_malformed(receive: Callable[..., Any], **options: Any) -> Any:  # noqa: ANN401 - as above
    try:
        return receive(**options)
    except DataError as error:  # a field that redis-py cannot send back
        reason: Exception = error
    except (Empty, RedisError, InconsistencyError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - any message
        reason = error
    logger.error("an entry that is not a message was dropped (%s)", type(reason).__name__)
    raise Empty
