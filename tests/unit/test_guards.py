"""The guards that `make guards` takes out."""

from __future__ import annotations

import pytest

from tests.support.guards import GUARDS, Guard
from tests.support.stack import ROOT


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.holds)
def test_each_guard_is_found_once_in_its_file(guard: Guard) -> None:
    assert (ROOT / guard.file).read_text().count(guard.code) == 1
