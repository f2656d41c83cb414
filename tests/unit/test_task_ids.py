"""Which values count as the id of a task."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("configured")


@pytest.mark.parametrize("value", [None, 7, b"", [], "", "abc-123", "x" * 36])
def test_what_is_no_uuid_is_no_id_of_a_task(value: object) -> None:
    from backend.celery_app import is_task_id

    assert not is_task_id(value)
