"""The tables, for Alembic and for readers; statements are written in SQL beside their purpose.

The state machine of a task is drawn in CONTRIBUTING.md.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Identity,
    Index,
    SmallInteger,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backend.ids import OTHERS_FROM
from backend.states import PENDING, STARTED, UNFINISHED, State, one_of

# The conditions of the partial indexes of tasks.
IS_UNFINISHED = f"state IN {one_of(UNFINISHED)}"
IS_STARTED = f"state = '{STARTED}'"
# Ids that are not ours: they are no UUIDs of version 7, or the time in them is no time of ours.
IS_OTHER_ID = f"(((get_byte(uuid_send(id), 6) >> 4) <> 7) OR (id >= '{OTHERS_FROM}'))"


class Base(DeclarativeBase):
    """The metadata that migrations are compared with."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own way to declare it
        datetime: DateTime(timezone=True),
        str: Text(),
        int: SmallInteger(),
        # json, not jsonb: it is only stored and handed back, keeps the order of keys, and takes
        # every text that JSON allows, \u0000 included.
        dict[str, Any]: JSON(),
    }


def _limit_key() -> Mapped[str | None]:
    return mapped_column(
        comment="What its limit (max_running) counts; null: it has none, or has not been compared"
        " yet"
    )


class Task(Base):
    """The ledger: the only source of truth about every task."""

    __tablename__ = "tasks"
    __table_args__ = (
        CheckConstraint(
            f"state IN {one_of(list(State))}",
            name="tasks_state_check",
        ),
        Index("tasks_unfinished", "created_at", "id", postgresql_where=text(IS_UNFINISHED)),
        Index("tasks_started_at", "started_at", postgresql_where=text(IS_STARTED)),
        Index(
            "tasks_limited",
            "limit_key",
            postgresql_where=text(f"{IS_STARTED} AND limit_key IS NOT NULL"),
        ),
        Index("tasks_other_ids", "created_at", "id", postgresql_where=text(IS_OTHER_ID)),
        Index(
            "tasks_expiring",
            "expires_at",
            postgresql_where=text(f"{IS_UNFINISHED} AND expires_at IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(
        primary_key=True, comment="UUIDv7; its text is the id that Celery and clients use"
    )
    name: Mapped[str] = mapped_column(comment="The registered name of the task")
    args: Mapped[dict[str, Any]] = mapped_column(comment="The arguments, as given")
    state: Mapped[str] = mapped_column(
        server_default=PENDING, comment="Where the task is; CONTRIBUTING.md draws the states"
    )
    attempt: Mapped[int] = mapped_column(
        server_default="1", comment="The current attempt; a message for another attempt is dropped"
    )
    max_attempts: Mapped[int] = mapped_column(
        comment="The attempt after which an error is final; 0: as declared, not yet known"
    )
    reply_to: Mapped[str | None] = mapped_column(
        comment="The queue that gets a reply when the task has ended"
    )
    worker: Mapped[str | None] = mapped_column(
        comment="The worker that claimed the current or last attempt"
    )
    progress: Mapped[str | None] = mapped_column(comment="How far the task says it is: done/total")
    created_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), comment="When the task was accepted"
    )
    started_at: Mapped[datetime | None] = mapped_column(
        comment="When the current or last attempt was claimed"
    )
    finished_at: Mapped[datetime | None] = mapped_column(comment="When the task ended")
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(), comment="The value on SUCCESS")
    error: Mapped[str | None] = mapped_column(
        comment="Why the last attempt failed; clients read it"
    )
    limit_key: Mapped[str | None] = _limit_key()
    options: Mapped[dict[str, Any] | None] = mapped_column(
        JSON(),
        comment="Options of the submission; eta and expires have columns; null: none",
    )
    eta: Mapped[datetime | None] = mapped_column(
        comment="Asked for: when the first attempt may start"
    )
    expires_at: Mapped[datetime | None] = mapped_column(
        comment="Asked for: from then on no attempt starts"
    )


class Outbox(Base):
    """The attempts that have not started: to be published, or published and not yet claimed."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("outbox_due", "due_at", postgresql_where=text("published_at IS NULL")),
        Index(
            "outbox_published", "published_at", postgresql_where=text("published_at IS NOT NULL")
        ),
        Index(
            "outbox_limited",
            "limit_key",
            "due_at",
            "task_id",
            postgresql_where=text("limit_key IS NOT NULL"),
        ),
        Index(
            "outbox_priority_due",
            "priority",
            "due_at",
            postgresql_where=text("published_at IS NULL AND priority IS NOT NULL"),
        ),
        Index(
            "outbox_priority_published",
            "priority",
            "published_at",
            postgresql_where=text("published_at IS NOT NULL AND priority IS NOT NULL"),
        ),
    )

    # No foreign key: both rows are written by one statement, and the check costs on every task.
    task_id: Mapped[UUID] = mapped_column(primary_key=True, comment="The task in the ledger")
    attempt: Mapped[int] = mapped_column(server_default="1", comment="The attempt to be started")
    due_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), comment="Not to be published before"
    )
    published_at: Mapped[datetime | None] = mapped_column(
        comment="When a relay last took it for publishing; null: to be published"
    )
    publishes: Mapped[int] = mapped_column(
        server_default="0",
        comment="How often it was published; the pause before the next time grows with it",
    )
    bundled: Mapped[bool | None] = mapped_column(
        comment="Whether its queue is short_tasks; only the version before 0010 reads it"
    )
    queue: Mapped[str | None] = mapped_column(
        comment="The queue that it was last published to; null: not yet, or by an older version"
    )
    limit_key: Mapped[str | None] = _limit_key()
    priority: Mapped[int | None] = mapped_column(
        comment="0 to 9, the highest is published first; null: 4"
    )


class TaskTag(Base):
    """The tags of tasks, to find tasks by them."""

    __tablename__ = "task_tags"

    tag: Mapped[str] = mapped_column(primary_key=True, comment="As given")
    task_id: Mapped[UUID] = mapped_column(
        primary_key=True, comment="The task, whose options have the tag too"
    )


class TaskAttempt(Base):
    """The attempts that did not succeed: earlier ones, and the last one of a failed task."""

    __tablename__ = "task_attempts"

    task_id: Mapped[UUID] = mapped_column(primary_key=True, comment="The task")
    attempt: Mapped[int] = mapped_column(primary_key=True, comment="Its number, from 1")
    status: Mapped[str] = mapped_column(
        comment="FAILURE, REVOKED, or RETRY if it was handed back or put off"
    )
    worker: Mapped[str | None] = mapped_column(comment="The worker that ran it")
    started_at: Mapped[datetime | None] = mapped_column(comment="When it was claimed")
    finished_at: Mapped[datetime | None] = mapped_column(comment="When it ended")
    error: Mapped[str | None] = mapped_column(comment="Why it ended")
    error_type: Mapped[str | None] = mapped_column(comment="The class of the error")


class Message(Base):
    """The messages that clients create, by a task or directly."""

    __tablename__ = "messages"

    id: Mapped[int] = mapped_column(
        BigInteger(), Identity(), primary_key=True, comment="Ascending in order of insertion"
    )
    task_id: Mapped[UUID | None] = mapped_column(
        unique=True, comment="The task that wrote it, once; null for a direct one"
    )
    content: Mapped[str] = mapped_column(comment="The text, as given")
    created_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), comment="When it was written"
    )


class MessageCount(Base):
    """How many messages there are: kept by triggers (migration 0003), added up by reconcilers."""

    __tablename__ = "message_counts"

    id: Mapped[int] = mapped_column(
        BigInteger(),
        Identity(),
        primary_key=True,
        comment="Ascending in order of the changes",
    )
    messages: Mapped[int] = mapped_column(
        BigInteger(),
        comment="How many were added or taken away; all rows add up to the number",
    )


class IdempotencyKey(Base):
    """The tasks of the first request that came with an Idempotency-Key."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idempotency_keys_age", "created_at"),)

    key: Mapped[str] = mapped_column(primary_key=True, comment="The client's key")
    fingerprint: Mapped[str] = mapped_column(comment="A digest of what was asked for")
    answer: Mapped[str] = mapped_column(
        server_default="", comment="The body of the answer; only the version before 0009 reads it"
    )
    ids: Mapped[list[UUID] | None] = mapped_column(
        ARRAY(Uuid()), comment="The tasks, in order; null in rows of the version before"
    )
    created_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), comment="When the key was first used"
    )


class Worker(Base):
    """A worker's lease: proof of life, and what it holds. Deleted when the worker is dead."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(primary_key=True, comment="Celery's node name of the worker")
    renewed_at: Mapped[datetime] = mapped_column(comment="When the lease was last renewed")
    expires_at: Mapped[datetime] = mapped_column(
        comment="When it should have been renewed; for people, no code compares it with a clock"
    )
    holds: Mapped[list[str]] = mapped_column(
        ARRAY(Text()), comment="The attempts it holds, each as id/attempt"
    )
    long_tasks: Mapped[list[str] | None] = mapped_column(
        ARRAY(Text()), comment="Tasks whose attempts take long; relays do not bundle them"
    )
    queues: Mapped[list[str] | None] = mapped_column(
        ARRAY(Text()),
        comment="The queues that it consumes, without QUEUE_PREFIX; null: tasks and short_tasks",
    )
    stray_at: Mapped[datetime | None] = mapped_column(
        comment="When it last got a message of a task that is not in the table of tasks"
    )
    stray_queue: Mapped[str | None] = mapped_column(comment="The queue that it came from")
