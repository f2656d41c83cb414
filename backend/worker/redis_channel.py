"""A channel to Redis that survives entries which are no messages of kombu's, and Redis's end."""

from __future__ import annotations

import logging
from queue import Empty
from typing import TYPE_CHECKING, Any

from kombu.exceptions import InconsistencyError
from kombu.transport.redis import Channel as RedisChannel
from redis.exceptions import DataError, RedisError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)


class Channel(RedisChannel):
    """kombu's channel, for the worker's consumers.

    kombu takes an entry from its list before it reads it, so a dropped one does not come again. The
    worker's handlers of messages raise only errors of Redis; all others are the entry's.
    """

    closed: bool  # kombu's, not in the stubs

    def close(self) -> None:
        """Close it once, although Redis may have gone.

        At an error of Redis's kombu stops half-way, and the channel counts as open. To close it
        again, or to put back at exit what it holds, would raise an error that Celery does not
        expect, and end the worker. What it holds is published again by the reconciler.
        """
        try:
            super().close()
        except (RedisError, OSError):
            self._disconnect_pools()  # type: ignore[attr-defined]  # not in the stubs; so the next
            self._close_clients()  # type: ignore[attr-defined]  # as above
            held: Any = self._qos
            if held is not None:
                held._on_collect.cancel()  # noqa: SLF001 - nothing else cancels it
            raise
        finally:
            self.closed = True

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
    except Exception as error:  # noqa: BLE001 - whatever was sent
        reason = error
    logger.error("an entry that is no message was dropped (%s)", type(reason).__name__)
    raise Empty
