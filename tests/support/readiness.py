"""The API's readiness checks, run in the test's own process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from backend.api.services import Services

if TYPE_CHECKING:
    from backend.api.readiness import Readiness


def readiness() -> list[Readiness]:
    """Run the PostgreSQL checks of GET /health/ready."""
    services: Any = SimpleNamespace(submissions=SimpleNamespace(refused=False))
    return Services._check(services, [None])
