"""A task of a user's own: an ordinary one that writes through its session."""

from __future__ import annotations

from backend.db import messages
from backend.task import Run, task
from backend.tasks.insert_message import MessageIn, MessageOut


@task(name="write_message")
def write_message(args: MessageIn, run: Run) -> MessageOut:
    """Insert a message into the database."""
    return MessageOut.model_validate(messages.insert(run.session, args.content, run.task_id))
