"""Tasks API: an HTTP task service whose 202 is final.

`celery -A backend …` finds the Celery application here. It is imported only on access, so that
`import backend.settings` stays fast and does not break the import layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery


def __getattr__(name: str) -> Celery:
    """Return the Celery application for `backend.app`, the name the `celery` command looks for."""
    if name == "app":
        from backend.broker.app import app  # noqa: PLC0415 - only the celery command needs it

        return app
    raise AttributeError(name)
