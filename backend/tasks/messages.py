"""The task behind POST /tasks/: insert a message."""

from __future__ import annotations

from backend.db import messages
from backend.schemas import MessageIn, MessageOut
from backend.tasks.registry import Run, task


@task(name="insert_message", time_limit=60, one_commit=True)
def insert_message(args: MessageIn, run: Run) -> MessageOut:
    """Insert a message into the database."""
    return MessageOut.model_validate(messages.insert(run.session, args.content, run.task_id))
