"""The models of tables with one row, which all processes share."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.models import Base


def _only_row() -> Mapped[bool]:
    """Return the key of a table that has one row."""
    return mapped_column(
        primary_key=True, server_default=text("true"), comment="True: there is one row"
    )


def _bound(scan: str) -> Mapped[datetime]:
    return mapped_column(server_default="-infinity", comment=f"No {scan} is older")


class ScanBounds(Base):
    """Where the scans of the partial indexes start; see bounds.py."""

    __tablename__ = "scan_bounds"
    __table_args__ = (CheckConstraint("only_row", name="scan_bounds_only_row"),)

    only_row: Mapped[bool] = _only_row()
    unfinished_from: Mapped[datetime] = _bound("tasks.created_at of a task that has not ended")
    started_from: Mapped[datetime] = _bound("tasks.started_at of a started task")
    due_from: Mapped[datetime] = _bound("outbox.due_at of a row that is to be published")
    published_from: Mapped[datetime] = _bound("outbox.published_at")


class Repairs(Base):
    """Counts waiting tasks that had no outbox row; see repairs.py."""

    __tablename__ = "repairs"
    __table_args__ = (CheckConstraint("only_row", name="repairs_only_row"),)

    only_row: Mapped[bool] = _only_row()
    tasks: Mapped[int] = mapped_column(
        BigInteger(),
        server_default="0",
        comment="How many waiting tasks had no outbox row",
    )
    latest: Mapped[datetime] = mapped_column(
        server_default="-infinity", comment="When a task was last repaired"
    )


class Purge(Base):
    """Where the purge of ended tasks is; see purge.py."""

    __tablename__ = "purge"
    __table_args__ = (CheckConstraint("only_row", name="purge_only_row"),)

    only_row: Mapped[bool] = _only_row()
    due_at: Mapped[datetime] = mapped_column(
        server_default="-infinity", comment="Not to be continued before"
    )
    page: Mapped[int] = mapped_column(
        BigInteger(), server_default="0", comment="The page of tasks where the pass continues"
    )
    tasks: Mapped[int] = mapped_column(
        BigInteger(), server_default="0", comment="How many tasks the pass has deleted"
    )
    oldest: Mapped[datetime | None] = mapped_column(
        comment="When the first of them ended; null: none was deleted"
    )


class Clock(Base):
    """The latest time that PostgreSQL's clock has shown; see clock.py."""

    __tablename__ = "clock"
    __table_args__ = (CheckConstraint("only_row", name="clock_only_row"),)

    only_row: Mapped[bool] = _only_row()
    latest: Mapped[datetime] = mapped_column(
        server_default="-infinity",
        comment="The latest time seen; a clock that shows less was set back",
    )
