"""The routes of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query, Request, Response

from backend.api.body import dump_json, json_text
from backend.api.openapi import (
    NO_SUCH_TASK,
    NOT_FOUND,
    OTHER_SITE,
    STORE_AWAY,
    SUBMISSION_REFUSED,
    header,
    router_of,
)
from backend.api.options import QueryOptions, refuse_above_declared
from backend.api.route import ABSENT
from backend.api.routes.task_models import (
    EXAMPLE_ID,
    TaskAccepted,
    TaskIdPath,
    TaskList,
    TaskState,
    describe,
    result_text,
)
from backend.api.same_origin import SAME_ORIGIN
from backend.api.services import services_of
from backend.api.submissions import IdempotencyKey
from backend.errors import NotFound
from backend.json_text import compact
from backend.registry import names, registered
from backend.settings import settings
from backend.states import PENDING
from backend.task import Task
from backend.tasks.insert_message import MessageIn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pydantic import BaseModel

    from backend.api.protocol import HttpConnection
    from backend.db.records import TaskRecord
    from backend.options import Options

router = router_of("Tasks", STORE_AWAY)

ENQUEUED = "Task enqueued successfully"
_ACCEPTED: dict[int | str, Any] = {
    202: {
        "model": TaskAccepted,
        "description": "On disk, and it will run",
        "headers": {"Location": header("The task's path", "string", f"/tasks/{EXAMPLE_ID}")},
        "links": {
            "state": {
                "operationId": "get_task",
                "parameters": {"task_id": "$response.body#/task_id"},
                "description": "Its state, and its result when it has ended",
            }
        },
    },
    **SUBMISSION_REFUSED,
}


async def _accept(
    request: Request,
    task: Task,
    arguments: str,
    message: str,
    key: str | None,
    options: Options | None,
) -> Response:
    """Accept a task with arguments as compact JSON text; return the answer after the commit."""

    def render(ids: Sequence[str]) -> str:
        return f'{{"task_id":"{ids[0]}","status":"{PENDING}","message":"{message}"}}'

    services = services_of(request)
    refuse_above_declared(options, task, ("query",))
    new = services.new_task(task, arguments, options)
    ids = await services.submissions.submit([new], "task", key, render)
    headers = {"Location": f"{settings().root_path}/tasks/{ids[0]}"}
    return Response(render(ids), 202, headers=headers, media_type="application/json")


@router.post(
    "/tasks/",
    status_code=202,
    responses=_ACCEPTED,
    summary="Create a message task",
    description=describe(registered()["insert_message"]),
)
async def submit_message(
    message: MessageIn,  # noqa: ARG001 - declared so that the route validates the body
    request: Request,
    options: QueryOptions,
    key: IdempotencyKey = ABSENT,
) -> Response:
    """Enqueue a task that inserts a message into the database."""
    task = registered()["insert_message"]
    return await _accept(request, task, compact(json_text(request)), ENQUEUED, key, options)


@router.get(
    "/tasks/{task_id}",
    response_model=TaskState,
    responses={
        200: {
            "headers": {
                "Progress": {
                    "description": "What a running task reports: done/total",
                    "schema": {"type": "string"},
                }
            },
        },
        **NOT_FOUND,
    },
    summary="Query a task",
)
async def get_task(
    task_id: TaskIdPath,
    request: Request,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for its end")] = 0,
) -> Response:
    """Return state and result of a task, at once or, with `wait`, when it has ended."""
    services = services_of(request)
    if wait:
        # Missing if the server does not use our HttpConnection.
        connection: HttpConnection | None = request.scope.get("extensions", {}).get("tasks_api")
        gone = connection.has_gone if connection else None
        return state_answer(await services.replies.wait(task_id, wait, gone))
    return state_answer(await services.state(task_id))


def state_answer(state: TaskRecord | None) -> Response:
    """Return the answer about a task's state. Raises NotFound for None."""
    if state is None:
        raise NotFound(NO_SUCH_TASK)
    # The result is JSON text already, so it is not decoded.
    result = result_text(state.state, state.result, state.error)
    body = f'{{"task_id":"{state.id}","status":"{state.state}","result":{result}}}'
    headers = {"Progress": state.progress} if state.progress and not state.ended else None
    return Response(body, headers=headers, media_type="application/json")


@router.post(
    "/tasks/slow",
    status_code=202,
    responses=_ACCEPTED | OTHER_SITE,
    dependencies=[SAME_ORIGIN],
    summary="Create a slow task",
    description=describe(registered()["slow"]),
)
async def submit_slow(
    request: Request,
    options: QueryOptions,
    duration: Annotated[int, Query(ge=0, le=3600, description="Seconds to take")] = 10,
    key: IdempotencyKey = ABSENT,
) -> Response:
    """Enqueue a task that takes `duration` seconds, for tests and demonstrations."""
    task = registered()["slow"]
    message = f"Slow task enqueued for {duration} seconds"
    return await _accept(request, task, dump_json({"duration": duration}), message, key, options)


def _route(task: Task) -> Callable[..., Awaitable[Response]]:
    """Return the endpoint of a registered task, whose arguments are the body."""

    async def enqueue(
        arguments: BaseModel,  # noqa: ARG001 - the same
        request: Request,
        options: QueryOptions,
        key: IdempotencyKey = ABSENT,
    ) -> Response:
        return await _accept(request, task, compact(json_text(request)), ENQUEUED, key, options)

    enqueue.__annotations__ |= {"arguments": task.arguments, "request": Request}
    return enqueue


for _name, _task in registered().items():
    if _name == _task.name and _name != "slow":  # slow has its own form above
        router.add_api_route(
            f"/tasks/{_name}",
            _route(_task),
            methods=["POST"],
            status_code=202,
            responses=_ACCEPTED,
            name=f"submit_task_{_name}",
            summary=f"Create a task: {_name}",
            description=describe(_task),
        )


async def refuse_unknown_task(_request: Request) -> Response:
    """Raise NotFound with the names of all tasks."""
    raise NotFound(f"There is no task with this name. The tasks are: {names()}.")


# Starlette's route class, which checks nothing: an unknown name is reported before an invalid query
# or body.
router.add_route("/tasks/{name}", refuse_unknown_task, methods=["POST"], include_in_schema=False)


@router.get("/tasks/", response_model=TaskList, summary="List tasks")
async def list_tasks(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most")] = 1000,
) -> Response:
    """List the tasks that have not ended, oldest first.

    ACTIVE: a worker executes it now. SCHEDULED: it is due later. RESERVED: it waits for a worker.
    """
    tasks, total = await services_of(request).listing.get(limit)
    # Ids and statuses need no escaping. This takes half the time of a JSON encoder.
    rows = [f'{{"task_id":"{task_id}","status":"{status}"}}' for task_id, status in tasks]
    body = f'{{"tasks":[{",".join(rows)}],"total":{total}}}'
    return Response(body, media_type="application/json")
