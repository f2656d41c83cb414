"""Connections of the tests to a broker."""

from __future__ import annotations

from typing import Any

import kombu


def connect(url: str, **options: Any) -> kombu.Connection:
    """Return a connection that sees the same queues as the service."""
    # On Redis a queue has one list for each priority; the service has these.
    transport = {"priority_steps": list(range(10))} if url.startswith("redis") else {}
    return kombu.Connection(url, transport_options=transport, **options)
