"""The error line of invalid settings."""

from __future__ import annotations

import pytest

from backend.settings import SettingsError, settings


def refused() -> str:
    """Return the one-line error of the current settings."""
    with pytest.raises(SettingsError) as error:
        settings()
    (line,) = str(error.value).splitlines()
    return line
