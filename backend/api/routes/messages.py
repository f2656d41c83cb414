"""The routes of messages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from fastapi import Path, Query, Request, Response
from pydantic import Field

from backend.api.body import Answer
from backend.api.openapi import BODY_REFUSED, OTHER_SITE, STORE_AWAY, error, router_of
from backend.api.route import ABSENT
from backend.api.same_origin import SAME_ORIGIN
from backend.api.services import services_of
from backend.db import messages
from backend.errors import NotFound
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
        return messages.page(connection, limit, before or LAST_ID)

    rows, total = await services_of(request).query(ask)
    return MessageList(messages=[MessageOut.model_validate(row) for row in rows], total=total)


_NO_MESSAGE = "There is no message with this id."
_NOT_FOUND = error(404, "No message has this id", _NO_MESSAGE)
_MessageId = Annotated[int, Path(ge=1, le=LAST_ID, description="As in the list")]


@router.get("/messages/{message_id}", responses=_NOT_FOUND, summary="Query a message")
async def get_message(message_id: _MessageId, request: Request) -> MessageOut:
    """Return a message."""
    found = await services_of(request).query(partial(messages.one, message_id=message_id))
    if found is None:
        raise NotFound(_NO_MESSAGE)
    return MessageOut.model_validate(found)


@router.delete(
    "/messages/{message_id}",
    status_code=204,
    responses=_NOT_FOUND | OTHER_SITE,
    dependencies=[SAME_ORIGIN],
    summary="Delete a message",
)
async def delete_message(message_id: _MessageId, request: Request) -> Response:
    """Delete a message. The task that wrote it stays as it is."""
    if not await services_of(request).deletions.submit(message_id):
        raise NotFound(_NO_MESSAGE)
    return Response(status_code=204)


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
