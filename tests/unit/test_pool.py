"""The pool of processes: what a worker has half done when its event loop starts over."""

from __future__ import annotations

import os
import pickle
import select
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from kombu.asynchronous import Hub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.worker.pool import Results

pytestmark = pytest.mark.usefixtures("configured")

HALF = 60


def message(value: object) -> bytes:
    """Return what a child writes to send a value."""
    body = pickle.dumps(value)
    return struct.pack(">i", len(body)) + body


class Scene:
    """A child's pipe, an event loop, and the values that were received."""

    def __init__(self) -> None:
        from backend.worker.pool import Results

        self.pipe, self._end = os.pipe()
        os.set_blocking(self.pipe, False)
        self.hub = Hub()
        self.child = SimpleNamespace(outqR_fd=self.pipe)
        self.received: list[Any] = []
        nothing = dict.fromkeys(
            (
                "outqueue",
                "get",
                "poll",
                "join_exited_workers",
                "putlock",
                "restart_state",
                "check_timeouts",
                "on_job_ready",
                "on_process_alive",
            )
        )
        self.results: Results = Results(cache={}, fileno_to_outq={self.pipe: self.child}, **nothing)
        self.results.on_state_change = self.received.append  # type: ignore[attr-defined]  # missing in the stubs
        self.start_loop()

    def start_loop(self) -> None:
        """Start the event loop, or start it over."""
        self.hub.reset()
        self.results.register_with_event_loop(self.hub)
        self.hub.add_reader(self.pipe, self.results.handle_event, self.pipe)

    def send(self, data: bytes) -> None:
        """Write to the pipe, and let the event loop read it."""
        os.write(self._end, data)
        loop = self.hub.create_loop()
        while select.select([self.pipe], [], [], 0)[0]:
            next(loop)

    def close(self) -> None:
        """Close all."""
        self.hub.close()
        os.close(self.pipe)
        os.close(self._end)


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Give a scene."""
    made = Scene()
    yield made
    made.close()


def test_a_result_read_in_part_is_read_to_its_end_after_the_loop_starts_over(scene: Scene) -> None:
    first = message("first" * HALF)
    scene.send(first[:HALF])
    scene.start_loop()
    scene.send(first[HALF:])
    scene.send(message("second"))
    assert scene.received == ["first" * HALF, "second"]


def test_the_rest_of_a_result_is_read_from_a_child_that_has_ended(scene: Scene) -> None:
    first = message("first" * HALF)
    scene.send(first[:HALF])
    scene.hub.reset()
    os.write(scene._end, first[HALF:])
    scene.results.read_rest(scene.child)
    assert scene.received == ["first" * HALF]


def test_a_child_that_ended_within_a_result_costs_the_next_one_nothing(scene: Scene) -> None:
    scene.send(message("first" * HALF)[:HALF])
    scene.results.read_rest(scene.child)
    scene.results.fileno_to_outq[scene.pipe] = SimpleNamespace(outqR_fd=scene.pipe)
    scene.start_loop()
    scene.send(message("of the next"))
    assert scene.received == ["of the next"]


def test_the_loop_starts_over_while_a_child_that_has_ended_is_still_in_the_pool(
    scene: Scene,
) -> None:
    from backend.worker.pool import Processes

    pool = Processes.__new__(Processes)
    pool._track_child_process(SimpleNamespace(_sentinel_poll=None), scene.hub)
    assert scene.hub.readers.keys() == {scene.pipe}
