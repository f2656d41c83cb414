"""The routes that change a task: cancel and retry."""

from __future__ import annotations

from typing import Any, Literal, Self

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from backend.api.body import Answer, dump_json
from backend.api.bulk import CANCEL, RETRY_TASKS, Action
from backend.api.control import NOT_KNOWN
from backend.api.history import EXAMPLE_CURSOR, Before, Ids, TaskFilter, encode_cursor
from backend.api.openapi import OTHER_SITE, STORE_AWAY, error, header, router_of
from backend.api.routes.task_models import EXAMPLE_ID, TaskId, TaskIdPath, TaskState
from backend.api.routes.tasks import state_answer
from backend.api.same_origin import SAME_ORIGIN
from backend.api.services import services_of
from backend.settings import settings
from backend.states import RETRY, State

router = router_of("Tasks", STORE_AWAY | OTHER_SITE)

_NOT_FOUND = error(404, "No task has this id", NOT_KNOWN)
_NOT_CANCELLED = _NOT_FOUND | error(
    409,
    "The task has ended with SUCCESS or FAILURE, or is running inside one commit",
    "The task has ended with SUCCESS, so it cannot be cancelled.",
)
_NOT_RETRIED = _NOT_FOUND | error(
    409,
    "The task has not ended with FAILURE or REVOKED",
    "The task is SUCCESS. Only one that has ended with FAILURE or REVOKED can be retried.",
)


class TaskRetried(Answer):
    """A task runs again."""

    task_id: TaskId
    status: Literal[State.RETRY]
    message: str = Field(examples=["Task runs again"])


class BulkRequest(BaseModel):
    """Which tasks to change: by their ids, or by a filter."""

    model_config = ConfigDict(extra="forbid")

    ids: Ids | None = Field(None, examples=[[EXAMPLE_ID]], description="Up to 10,000")
    filter: TaskFilter | None = Field(
        None,
        examples=[{"tag": ["nightly"]}],
        description="As in GET /tasks/history; at least one field",
    )
    dry_run: bool = Field(default=False, description="Only say what would be changed")
    before: Before | None = Field(
        None,
        examples=[EXAMPLE_CURSOR],
        description="`next` of the answer before, with the same filter",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or filter")
        if self.filter is not None and not self.filter.model_fields_set:
            raise ValueError("the filter must have at least one field")
        if self.before is not None and self.filter is None:
            raise ValueError("before belongs to a filter")
        return self


class BulkEntry(Answer):
    """The result for a task."""

    task_id: TaskId
    status: State | None = Field(
        examples=["REVOKED"],
        description="After the change, in a dry run now; null for an unknown id",
    )
    changed: bool = Field(examples=[True])


class BulkAnswer(Answer):
    """What a request has changed."""

    dry_run: bool = Field(examples=[False])
    matched: int = Field(examples=[1], description="How many tasks this answer is about")
    changed: int = Field(examples=[1], description="How many were changed, or would be")
    tasks: list[BulkEntry]
    next: str | None = Field(
        examples=[EXAMPLE_CURSOR],
        description="Pass it as `before`; null if there are no more tasks",
    )


async def _bulk(request: Request, action: Action, wanted: BulkRequest) -> Response:
    which: Any = wanted.filter if wanted.ids is None else wanted.ids
    control = services_of(request).control
    result = await control.change_many(action, which, wanted.before, dry_run=wanted.dry_run)
    body = {
        "dry_run": wanted.dry_run,
        "matched": len(result.tasks),
        "changed": sum(each.changed for each in result.tasks),
        "tasks": [each._asdict() for each in result.tasks],
        "next": encode_cursor(result.next),
    }
    return Response(dump_json(body), media_type="application/json")


@router.post(
    "/tasks/cancel",
    response_model=BulkAnswer,
    dependencies=[SAME_ORIGIN],
    summary="Cancel many tasks",
)
async def cancel_tasks(wanted: BulkRequest, request: Request) -> Response:
    """Cancel up to 10,000 tasks that have not ended, by their ids or by a filter."""
    return await _bulk(request, CANCEL, wanted)


@router.post(
    "/tasks/retry",
    response_model=BulkAnswer,
    dependencies=[SAME_ORIGIN],
    summary="Retry many tasks",
)
async def retry_tasks(wanted: BulkRequest, request: Request) -> Response:
    """Retry up to 10,000 tasks that have failed or were revoked, by their ids or by a filter."""
    return await _bulk(request, RETRY_TASKS, wanted)


@router.post(
    "/tasks/{task_id}/cancel",
    response_model=TaskState,
    responses=_NOT_CANCELLED,
    dependencies=[SAME_ORIGIN],
    summary="Cancel a task",
)
async def cancel_task(task_id: TaskIdPath, request: Request) -> Response:
    """End a task with REVOKED: it does not start, or its process is killed within 5 s.

    What it has written through `run.session` is rolled back. A cancelled task may be cancelled
    again.
    """
    services = services_of(request)
    await services.control.cancel(task_id)
    return state_answer(await services.state(task_id))


@router.post(
    "/tasks/{task_id}/retry",
    status_code=202,
    response_model=TaskRetried,
    responses={
        202: {
            "description": "On disk, and it will run",
            "headers": {"Location": header("The task's path", "string", f"/tasks/{EXAMPLE_ID}")},
        },
        **_NOT_RETRIED,
    },
    dependencies=[SAME_ORIGIN],
    summary="Retry a task",
)
async def retry_task(task_id: TaskIdPath, request: Request) -> Response:
    """Give a task that ended with FAILURE or REVOKED another attempt, at once, with the same id."""
    await services_of(request).control.retry(task_id)
    body = f'{{"task_id":"{task_id}","status":"{RETRY}","message":"Task runs again"}}'
    headers = {"Location": f"{settings().root_path}/tasks/{task_id}"}
    return Response(body, 202, headers=headers, media_type="application/json")
