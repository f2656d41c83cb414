"""The consumer of short tasks in the worker's parent process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest


@pytest.mark.usefixtures("configured")
def test_a_worker_that_stops_while_the_broker_is_away_closes_no_channel() -> None:
    from backend.worker.short import ShortTasks

    consumer: Any = SimpleNamespace(connection=None)
    step = ShortTasks(consumer)
    step.consumers = [Mock(channel=Mock(close=Mock(side_effect=ConnectionError)))]
    step.stop(consumer)
    step.shutdown(consumer)
