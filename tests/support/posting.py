"""Clients that post messages during faults."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import httpx

from .waiting import eventually

if TYPE_CHECKING:
    from .stack import Stack


@dataclass
class Posting:
    """Concurrent clients that post messages and keep the ids of the accepted tasks."""

    stack: Stack
    count: int
    clients: int = 8
    accepted: dict[str, str] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = iter(range(self.count))
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._post_all) for _ in range(self.clients)]

    def start(self) -> Self:
        """Begin to post."""
        for thread in self._threads:
            thread.start()
        return self

    def finish(self, timeout: float) -> None:
        """Wait until every message got its 202; requests are repeated after errors."""
        eventually(
            lambda: not any(thread.is_alive() for thread in self._threads),
            timeout,
            "all messages are accepted",
        )

    def _post_all(self) -> None:
        with self.stack.client() as client:
            while True:
                with self._lock:
                    number = next(self._numbers, None)
                if number is None:
                    return
                self._post(client, f"message {number}")

    def _post(self, client: httpx.Client, content: str) -> None:
        """Post until there is a 202; other answers may or may not have created a task."""
        pause = threading.Event()
        while True:
            try:
                answer = client.post("/tasks/", json={"content": content}, timeout=20)
            except httpx.TransportError:
                answer = None
            with self._lock:
                if answer is not None and answer.status_code == 202:
                    self.accepted[answer.json()["task_id"]] = content
                    return
                assert answer is None or answer.status_code == 503, answer.text
                self.unanswered.append(content)
            pause.wait(0.2)
