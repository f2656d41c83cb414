"""The line that settings are refused with."""

from __future__ import annotations

import pytest

from backend.settings import SettingsError, settings


def refused() -> str:
    """Return the one line that the settings are refused with."""
    with pytest.raises(SettingsError) as error:
        settings()
    (line,) = str(error.value).splitlines()
    return line
