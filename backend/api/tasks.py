"""The routes of tasks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from backend.api.deps import services_of
from backend.api.problems import (
    BODY_REFUSED,
    NOT_FOUND,
    STORE_AWAY,
    TOO_MANY,
    UNPROCESSABLE,
    UNPROCESSABLE_OR_REUSED,
)
from backend.api.quick import IDEMPOTENCY_KEY, WAIT, QuickRoute, compact
from backend.api.submissions import Order
from backend.errors import NotFound
from backend.schemas import MessageIn, TaskAccepted, TaskList, TaskState
from backend.settings import settings
from backend.tasks.registry import Task, names, registered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import BaseModel

    from backend.api.protocol import HttpConnection

# In this order: the busiest first, the fallback last.
quick = APIRouter(tags=["Tasks"], responses=STORE_AWAY, route_class=QuickRoute)
router = APIRouter(tags=["Tasks"], responses=STORE_AWAY)
fallback = APIRouter()

ENQUEUED = "Task enqueued successfully"
_ACCEPTED: dict[int | str, Any] = {
    202: {
        "model": TaskAccepted,
        "description": "On disk, and it will run",
        "headers": {
            "Location": {"description": "Where to ask for it", "schema": {"type": "string"}}
        },
    },
    **BODY_REFUSED,
    **TOO_MANY,
    **UNPROCESSABLE_OR_REUSED,
}
_KEYED = {"parameters": [IDEMPOTENCY_KEY.openapi]}


async def _accept(request: Request, task: Task, arguments: str, message: str) -> Response:
    """Accept a task with arguments as JSON text: the answer is sent after the commit."""
    services, key = services_of(request), IDEMPOTENCY_KEY.of(request)
    new = services.new_task(task, arguments)
    answer = f'{{"task_id":"{new.id}","status":"PENDING","message":"{message}"}}'
    answer = await services.submissions.accept(Order([new], answer, "task", key))
    task_id = new.id if key is None else json.loads(answer)["task_id"]
    headers = {"Location": f"{settings().root_path}/tasks/{task_id}"}
    return Response(answer, 202, headers=headers, media_type="application/json")


@quick.post(
    "/tasks/",
    status_code=202,
    responses=_ACCEPTED,
    openapi_extra=_KEYED,
    summary="Create a message task",
)
async def create_message_task(message: MessageIn, request: Request) -> Response:  # noqa: ARG001 - read and validated for it
    """Enqueue a task that inserts a message into the database."""
    return await _accept(
        request, registered()["insert_message"], request.scope["json_text"], ENQUEUED
    )


@router.post(
    "/tasks/slow",
    status_code=202,
    responses=_ACCEPTED,
    openapi_extra=_KEYED,
    summary="Create a slow task",
)
async def create_slow_task(
    request: Request,
    duration: Annotated[int, Query(ge=0, le=3600, description="Seconds to take")] = 10,
) -> Response:
    """Enqueue a task that takes `duration` seconds, to have something to look at."""
    task = registered()["slow"]
    message = f"Slow task enqueued for {duration} seconds"
    return await _accept(request, task, compact({"duration": duration}), message)


def _route(task: Task) -> Callable[..., Awaitable[Response]]:
    """Return the route of a registered task: its arguments are the body."""

    async def enqueue(arguments: BaseModel, request: Request) -> Response:  # noqa: ARG001 - as above
        return await _accept(request, task, request.scope["json_text"], ENQUEUED)

    enqueue.__annotations__ = {
        "arguments": task.arguments,
        "request": Request,
        "return": Response,
    }
    return enqueue


for _name, _task in registered().items():
    if _name == _task.name and _name != "slow":  # slow has its own form above
        quick.add_api_route(
            f"/tasks/{_name}",
            _route(_task),
            methods=["POST"],
            status_code=202,
            responses=_ACCEPTED,
            openapi_extra=_KEYED,
            name=f"create_{_name}",
            summary=f"Create a task: {_name}",
            description=_task.function.__doc__,
        )


@fallback.post("/tasks/{name}", include_in_schema=False)  # noqa: FAST003 - not repeated
async def refuse_unknown_task() -> Response:
    """Say which tasks there are."""
    raise NotFound(f"There is no task of this name. There are: {names()}.")


@router.get("/tasks/", response_model=TaskList, responses=UNPROCESSABLE, summary="List tasks")
async def list_tasks(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most")] = 1000,
) -> Response:
    """List the tasks that have not ended, oldest first.

    ACTIVE: a worker executes it now. SCHEDULED: it is due later. RESERVED: it waits for a worker.
    """
    tasks, total = await services_of(request).list_tasks(limit)
    # Ids and statuses need no escaping, and a thousand of them are written so in half the time.
    rows = ",".join(f'{{"task_id":"{task_id}","status":"{status}"}}' for task_id, status in tasks)
    return Response(f'{{"tasks":[{rows}],"total":{total}}}', media_type="application/json")


@quick.get(
    "/tasks/{task_id}",
    response_model=TaskState,
    responses={
        200: {
            "headers": {
                "Progress": {
                    "description": "How far a running task says it is, done/total",
                    "schema": {"type": "string"},
                }
            }
        },
        **NOT_FOUND,
        **UNPROCESSABLE,
    },
    openapi_extra={"parameters": [WAIT.openapi]},
    summary="Query a task",
)
async def get_task(
    task_id: Annotated[str, Path(description="As returned when the task was created")],
    request: Request,
) -> Response:
    """Tell state and result of a task, at once or when it has ended."""
    services, wait = services_of(request), WAIT.of(request)
    if wait:
        # Missing where another server than ours serves the application.
        connection: HttpConnection | None = request.scope.get("extensions", {}).get("tasks_api")
        gone = connection.has_gone if connection else None
        state = await services.inbox.wait(task_id, wait, gone)
    else:
        state = await services.state(task_id)
    if state is None:
        raise NotFound("There is no task with this id.")
    failed = state.ended and state.state != "SUCCESS"
    result = compact({"error": state.error or "No reason was given"}) if failed else state.result
    # The result is JSON already; writing it out as it is spares decoding it.
    body = f'{{"task_id":"{state.id}","status":"{state.state}","result":{result or "null"}}}'
    headers = {"Progress": state.progress} if state.progress and not state.ended else None
    return Response(body, headers=headers, media_type="application/json")
