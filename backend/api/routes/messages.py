"""The routes of messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Query, Request
from pydantic import Field

from backend.api.body import Answer
from backend.api.openapi import BODY_REFUSED, STORE_AWAY, router_of
from backend.api.route import ABSENT
from backend.api.services import services_of
from backend.db import messages
from backend.tasks.insert_message import MessageIn, MessageOut

if TYPE_CHECKING:
    from backend.db.messages import Message
    from backend.db.session import Executor

router = router_of("Messages", STORE_AWAY)

LAST_ID = 2**63 - 1


class MessageList(Answer):
    """A page of messages, ids ascending."""

    messages: list[MessageOut]
    total: int = Field(description="How many messages there are in all", examples=[1])


@router.get("/messages/", summary="List messages")
async def list_messages(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most")] = 100,
    # A default in the document would be wrong in a browser, which cannot hold LAST_ID exactly.
    before: Annotated[
        int, Query(ge=1, le=LAST_ID, description="Only messages with a smaller id")
    ] = ABSENT,
) -> MessageList:
    """List the newest messages, ids ascending; for older ones pass the first id as `before`."""

    def ask(connection: Executor) -> tuple[list[Message], int]:
        page = messages.page(connection, limit, before or LAST_ID)
        return page, messages.count(connection)

    rows, total = await services_of(request).read(ask)
    return MessageList(messages=[MessageOut.model_validate(row) for row in rows], total=total)


@router.post(
    "/messages/",
    status_code=201,
    responses=BODY_REFUSED,
    summary="Create a message",
)
async def create_message(message: MessageIn, request: Request) -> MessageOut:
    """Store a message at once, without a task."""
    stored = await services_of(request).new_messages.submit(message.content)
    return MessageOut.model_validate(stored)
