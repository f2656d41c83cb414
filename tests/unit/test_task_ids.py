"""Which values are valid ids of tasks."""

from __future__ import annotations

import pytest

from backend.ids import is_task_id

UPPER = "019A3F0E-7C1A-7D7E-9A53-0D8F2C7B1F55"
HEX = UPPER.lower().replace("-", "")


@pytest.mark.parametrize(
    "value", [None, 7, b"", [], "", "abc-123", "x" * 36, UPPER, HEX, UPPER.lower() + "\n"]
)
def test_a_value_that_is_no_uuid_is_no_task_id(value: object) -> None:
    assert not is_task_id(value)


def test_a_lower_case_uuid_is_a_task_id() -> None:
    assert is_task_id(UPPER.lower())
