"""The routes that show every task: the history, and the whole record of one."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Query, Request, Response
from pydantic import Field

from backend.api.body import Answer, dump_json
from backend.api.history import EXAMPLE_CURSOR, Before, TaskFilter, encode_cursor, in_query
from backend.api.openapi import NO_SUCH_TASK, NOT_FOUND, STORE_AWAY, router_of
from backend.api.route import ABSENT
from backend.api.routes.task_models import TaskId, TaskIdPath, result_text
from backend.api.services import services_of
from backend.db import detail, history
from backend.errors import NotFound
from backend.ids import is_task_id, time_of
from backend.options import PRIORITY
from backend.registry import registered
from backend.states import PENDING, RETRY, STARTED, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import RowMapping

router = router_of("Tasks", STORE_AWAY)

TIME = "2026-11-20T14:30:00.000000Z"
WORKER = "tasks-4f1a@host"


class TaskEntry(Answer):
    """A task of the history."""

    task_id: TaskId
    name: str = Field(examples=["insert_message"])
    status: State
    attempt: int = Field(examples=[1])
    created_at: datetime = Field(examples=[TIME])
    started_at: datetime | None = Field(examples=[TIME])
    finished_at: datetime | None = Field(examples=[TIME])


class TaskHistory(Answer):
    """Tasks, newest first."""

    tasks: list[TaskEntry]
    next: str | None = Field(
        examples=[EXAMPLE_CURSOR], description="Pass it as `before`; null after the last task"
    )


class TaskAttempt(Answer):
    """An attempt that has started."""

    attempt: int = Field(examples=[1])
    status: State
    worker: str | None = Field(examples=[WORKER])
    started_at: datetime | None = Field(examples=[TIME])
    finished_at: datetime | None = Field(examples=[TIME])
    error: str | None = Field(examples=["ConnectionRefusedError: [Errno 111] Connection refused"])
    error_type: str | None = Field(examples=["ConnectionRefusedError"])


class TaskOptions(Answer):
    """What was asked for at the submission, else what the task declares."""

    priority: int = Field(examples=[4])
    eta: datetime | None = Field(examples=[TIME])
    expires_at: datetime | None = Field(examples=[TIME])
    time_limit: float | None = Field(
        examples=[60], description="null if this version does not know the task"
    )
    max_attempts: int | None = Field(
        examples=[5], description="null if this version does not know the task"
    )
    tags: list[str] = Field(examples=[["nightly"]])


class TaskDetail(Answer):
    """Everything about a task."""

    task_id: TaskId
    status: State
    result: Any = Field(description="As in GET /tasks/{task_id}", examples=[None])
    name: str = Field(examples=["insert_message"])
    arguments: Any = Field(examples=[{"content": "Hello World"}])
    options: TaskOptions
    attempt: int = Field(examples=[1])
    created_at: datetime = Field(examples=[TIME])
    due_at: datetime | None = Field(
        examples=[TIME], description="When it may start, while it waits"
    )
    started_at: datetime | None = Field(examples=[TIME])
    finished_at: datetime | None = Field(examples=[TIME])
    worker: str | None = Field(examples=[WORKER])
    progress: str | None = Field(examples=["3/10"])
    workflow_id: str | None = Field(examples=[None], description="null: it is in no workflow")
    schedule: str | None = Field(examples=[None], description="null: no schedule has made it")
    attempts: list[TaskAttempt]


@router.get("/tasks/history", response_model=TaskHistory, summary="Find tasks")
async def find_tasks(
    request: Request,
    wanted: Annotated[TaskFilter, Depends(in_query)],
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most")] = 100,
    before: Annotated[Before, Query(description="`next` of the page before")] = ABSENT,
) -> Response:
    """List every task that fits all parameters, newest first.

    A page may have fewer tasks than `limit`, because a request looks at 20,000 tasks at most: go on
    until `next` is null.
    """
    question = partial(history.page, wanted=wanted.select(before), limit=limit)
    page = await services_of(request).history.submit(question)
    body = {"tasks": [_entry(row) for row in page.tasks], "next": encode_cursor(page.next)}
    return Response(dump_json(body), media_type="application/json")


def _entry(row: RowMapping) -> dict[str, Any]:
    return {
        "task_id": str(row["id"]),
        "name": row["name"],
        "status": row["state"],
        "attempt": row["attempt"],
        "created_at": _time(_created_at(row)),
        "started_at": _time(_started_at(row, row["state"])),
        **_times(row, "finished_at"),
    }


def _created_at(row: RowMapping) -> datetime:
    """Return when a task was created: the history is in this order, and is filtered by it."""
    milliseconds = time_of(row["id"])
    created: datetime = row["created_at"]
    return created if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)


def _started_at(row: RowMapping, state: State) -> datetime | None:
    """Return when a task has started; None while its first start is not reported yet."""
    started: datetime | None = row["started_at"]
    return None if state == PENDING else started


def _time(moment: datetime | None) -> str | None:
    # The session's time zone is not UTC if a pooler drops our settings.
    return (
        None
        if moment is None
        else moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
    )


def _times(row: RowMapping, *names: str) -> dict[str, str | None]:
    return {name: _time(row[name]) for name in names}


@router.get(
    "/tasks/{task_id}/detail",
    response_model=TaskDetail,
    responses=NOT_FOUND,
    summary="Everything about a task",
)
async def get_detail(
    task_id: TaskIdPath,
    request: Request,
) -> Response:
    """Return what is known of a task: arguments, options, times, and each attempt that started."""
    question = partial(detail.read, task_id=task_id)
    found = await services_of(request).query(question) if is_task_id(task_id) else None
    if found is None:
        raise NotFound(NO_SUCH_TASK)
    row, attempts = found
    state = State(row["reported"])
    head = {"task_id": task_id, "status": state}
    rest = {
        "options": _options(row),
        "attempt": row["attempt"],
        "created_at": _time(_created_at(row)),
        **_times(row, "due_at"),
        "started_at": _time(_started_at(row, state)),
        **_times(row, "finished_at"),
        "worker": None if state == PENDING else row["worker"],
        "progress": None if row["state"] != STARTED else row["progress"],
        # No version has workflows or schedules yet.
        "workflow_id": None,
        "schedule": None,
        "attempts": [*map(_attempt, attempts), *_current(row, attempts, state)],
    }
    # Arguments and result are JSON texts already, so they are not decoded.
    body = (
        f'{dump_json(head)[:-1]},"result":{result_text(state, row["value"], row["error"])},'
        f'"name":{dump_json(row["name"])},"arguments":{row["arguments"]},{dump_json(rest)[1:]}'
    )
    return Response(body, media_type="application/json")


def _options(row: RowMapping) -> dict[str, Any]:
    given = row["options"] or {}
    task = registered().get(row["name"])
    return {
        "priority": given.get("priority", PRIORITY),
        **_times(row, "eta", "expires_at"),
        "time_limit": given.get("time_limit", task and task.time_limit),
        "max_attempts": given.get("max_attempts", task and task.max_attempts),
        "tags": given.get("tags", []),
    }


def _attempt(row: RowMapping) -> dict[str, Any]:
    names = ("attempt", "status", "worker", "error", "error_type")
    return {**{name: row[name] for name in names}, **_times(row, "started_at", "finished_at")}


def _current(
    row: RowMapping, attempts: Iterable[RowMapping], state: State
) -> Iterable[dict[str, Any]]:
    """Yield the current attempt, if it has started and has no row of its own."""
    earlier = {each["started_at"] for each in attempts}
    has_row = any(each["attempt"] == row["attempt"] for each in attempts)
    if has_row or state in {PENDING, RETRY} or row["started_at"] in {None, *earlier}:
        return
    yield {
        "attempt": row["attempt"],
        "status": state,
        "worker": row["worker"],
        "error": row["error"] if row["finished_at"] and state != State.SUCCESS else None,
        "error_type": None,
        **_times(row, "started_at", "finished_at"),
    }
