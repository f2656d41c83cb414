"""POST /tasks/batch: many tasks in one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field, TypeAdapter

from backend.api.body import json_text, read_json
from backend.api.limits import NDJSON, is_ndjson
from backend.api.openapi import STORE_AWAY, SUBMISSION_REFUSED, router_of
from backend.api.query import QUERY_HINT
from backend.api.route import ABSENT, Route
from backend.api.routes.batch_items import (
    MAX_ITEMS,
    BatchAccepted,
    BatchItem,
    arguments_of,
    task_of,
)
from backend.api.routes.batch_lines import accept_lines, describe_answers
from backend.api.services import services_of
from backend.api.submissions import IdempotencyKey
from backend.states import PENDING

if TYPE_CHECKING:
    from collections.abc import Sequence


async def _read_body(request: Request, adapter: TypeAdapter[Any]) -> tuple[Any, str]:
    """Return JSON and its text; the endpoint reads NDJSON itself. Raises what `read_json` does."""
    return (None, "") if is_ndjson(request.scope) else await read_json(request, adapter)


class BatchRoute(Route):
    """A route whose body may be NDJSON."""

    read_body = staticmethod(_read_body)


router = router_of("Tasks", {**STORE_AWAY, **SUBMISSION_REFUSED}, BatchRoute)

Items = Annotated[list[BatchItem], Field(min_length=1, max_length=MAX_ITEMS)]


@router.post(
    "/tasks/batch",
    status_code=202,
    response_model=BatchAccepted,
    responses={202: {"content": {NDJSON: describe_answers()}}},
    openapi_extra={QUERY_HINT: "; options are in each item: `options`"},
    summary="Create many tasks",
)
async def submit_batch(items: Items, request: Request, key: IdempotencyKey = ABSENT) -> Response:
    """Enqueue up to 1,000 tasks as a JSON array, all or none; the answer has their ids in order.

    Or send NDJSON (`Content-Type: application/x-ndjson`): any number of lines, each an item of the
    array. The answer is NDJSON too, with a line for each; invalid lines are reported and skipped.

    ```
    {"arguments": {"content": "Hello World"}}
    {"name": "slow", "arguments": {"duration": 1}}
    ```
    """
    services = services_of(request)
    if is_ndjson(request.scope):
        return await accept_lines(request, services, key)
    text = json_text(request)
    problems: list[Any] = []
    tasks = []
    for place, (item, arguments) in enumerate(zip(items, arguments_of(items, text), strict=True)):
        try:
            tasks.append(task_of(item, arguments, services, place))
        except RequestValidationError as error:
            problems += error.errors()
    if problems:
        raise RequestValidationError(problems)
    ids = await services.submissions.submit(tasks, "batch", key, _render)
    return Response(_render(ids), 202, media_type="application/json")


def _render(ids: Sequence[str]) -> str:
    tasks = ",".join([f'{{"task_id":"{task_id}","status":"{PENDING}"}}' for task_id in ids])
    return f'{{"tasks":[{tasks}],"total":{len(ids)}}}'
