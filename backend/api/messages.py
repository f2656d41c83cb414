"""The routes of messages."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response

from backend.api.openapi import BODY_REFUSED, STORE_AWAY, router_of
from backend.api.quick import ABSENT
from backend.api.services import services_of
from backend.schemas import MessageIn, MessageList, MessageOut

router = router_of("Messages", STORE_AWAY)

LAST_ID = 2**63 - 1


@router.get("/messages/", response_model=MessageList, summary="List messages")
async def list_messages(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most")] = 100,
    # A default in the document would be wrong in a browser, which cannot hold LAST_ID exactly.
    before: Annotated[
        int, Query(ge=1, le=LAST_ID, description="Only messages with a smaller id")
    ] = ABSENT,
) -> Response:
    """List the newest messages, ids ascending; for older ones pass the first id as `before`."""
    rows, total = await services_of(request).message_pages.submit((limit, before or LAST_ID))
    page = MessageList(messages=[MessageOut.model_validate(row) for row in rows], total=total)
    return Response(page.model_dump_json(), media_type="application/json")


@router.post(
    "/messages/",
    status_code=201,
    response_model=MessageOut,
    responses=BODY_REFUSED,
    summary="Create a message",
)
async def create_message(message: MessageIn, request: Request) -> Response:
    """Store a message at once, without a task."""
    stored = await services_of(request).new_messages.submit(message.content)
    return Response(
        MessageOut.model_validate(stored).model_dump_json(), 201, media_type="application/json"
    )
