"""Asking the workers: a late answer is read, however often we ask."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from kombu import Connection, Producer

from backend.api.inspector import Inspector
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("configured")


class Noting(Inspector):
    """An inspector on kombu's in-memory broker, which all connections of a process share."""

    reply_timeout = 0.2

    def __init__(self) -> None:
        self.reply_to: list[str] = []
        self.given_up = threading.Event()
        super().__init__(lambda **_: Connection("memory://"))

    def _put(self, *asked: Any) -> None:
        self.reply_to.append(asked[-1])
        super()._put(*asked)

    def _collect(self, *asked: Any) -> None:
        super()._collect(*asked)
        self.given_up.set()


def test_a_late_answer_is_read_while_requests_continue() -> None:
    asking = Noting()
    try:
        assert asking._connected.wait(5)
        asking.ask(["w"])()
        assert asking._silent == {"w"}
        assert asking.given_up.wait(5), "the thread no longer waits for that answer"
        with Connection("memory://") as broker:
            Producer(broker.channel()).publish({"w": []}, routing_key=asking.reply_to[0])

        def heard() -> bool:
            asking.ask([*asking._silent])()
            return not asking._silent

        eventually(heard, 10, "the late answer is read")
    finally:
        asking.close()
