"""Checks whether PostgreSQL can write, by an insert that the caller rolls back."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from backend.db.session import Executor

# Shows that the server is read-only.
SMALL = 4
# Shows that its disk is full: smaller rows may still fit into existing pages.
LARGE = 64 * 1024

# Into the table of leases: it has few other long values, so it has no freed pages into which the
# row would fit.
_INSERT = text(
    """
    INSERT INTO workers (name, renewed_at, expires_at, holds)
    VALUES (:name, now(), now(), ARRAY[:text])
    """
)


def try_insert(connection: Executor, size: int) -> None:
    """Insert a row of `size` bytes; the caller rolls it back. Raises StoreNotWritable."""
    # Random, since PostgreSQL compresses; base64 makes 4 characters of 3 bytes.
    value = base64.b64encode(os.urandom(size // 4 * 3)).decode()
    connection.execute(_INSERT, {"name": f"trial {os.urandom(16).hex()}", "text": value})
