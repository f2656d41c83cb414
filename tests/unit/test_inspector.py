"""Asking the workers: one that was silent is heard again, however often we ask."""

from __future__ import annotations

import time
from typing import Any

import pytest
from kombu import Connection, Producer

from backend.api import inspector

pytestmark = pytest.mark.usefixtures("configured")


def test_a_late_answer_is_heard_while_questions_do_not_cease(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # kombu's broker in memory: what is published is seen by each connection of this process.
    monkeypatch.setattr(inspector, "connect", lambda **_: Connection("memory://"))
    monkeypatch.setattr(inspector, "REPLY_TIMEOUT", 0.2)
    put = inspector.Inspector._put
    reply_to: list[str] = []

    def note(self: inspector.Inspector, *asked: Any) -> None:
        reply_to.append(asked[-1])
        put(self, *asked)

    monkeypatch.setattr(inspector.Inspector, "_put", note)
    asking = inspector.Inspector()
    try:
        assert asking._connected.wait(5)
        asking.ask(["w"])()
        assert asking._silent == {"w"}
        time.sleep(0.5)  # until the thread no longer waits for that answer
        with Connection("memory://") as broker:
            Producer(broker.channel()).publish({"w": []}, routing_key=reply_to[0])
        deadline = time.monotonic() + 1
        while asking._silent and time.monotonic() < deadline:
            asking.ask([*asking._silent])()
            time.sleep(0.01)
        assert asking._silent == set()
    finally:
        asking.close()
