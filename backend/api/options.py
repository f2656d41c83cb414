"""Options of a submission: from the query of a request, or from an item of a batch."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, ValidationError

from backend.api.route import ABSENT
from backend.options import (
    PRIORITY,
    Countdown,
    Eta,
    Expires,
    MaxAttempts,
    Options,
    Priority,
    Tag,
    TimeLimit,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.task import Task


def restore_plus(time: str) -> str:
    """Return a time with a plus before its offset: in a query a plus means a space."""
    return re.sub(r" (\d\d(:?\d\d)?)$", r"+\1", time)


async def _in_query(
    priority: Priority = PRIORITY,
    countdown: Countdown = 0,
    eta: Annotated[Eta, BeforeValidator(restore_plus)] = ABSENT,
    expires: Expires = ABSENT,
    time_limit: TimeLimit = ABSENT,
    max_attempts: MaxAttempts = ABSENT,
    tag: Annotated[list[Tag], Query(description="Repeat it for up to ten tags")] = [],  # noqa: B006 - FastAPI's own way
) -> Options | None:
    """Return the options of a request's query, None if it has none."""
    given = {
        "priority": priority,
        "countdown": countdown,
        "eta": eta,
        "expires": expires,
        "time_limit": time_limit,
        "max_attempts": max_attempts,
        "tags": tag,
    }
    try:
        return Options.model_validate(given) or None
    except ValidationError as error:
        # FastAPI has checked each value; what is left is too many tags, or a wrong start.
        faults: list[dict[str, Any]] = [
            {**fault, "loc": ("query", "tag" if "tags" in fault["loc"] else "eta")}
            for fault in error.errors()
        ]
        raise RequestValidationError(faults) from error


# A parameter of a route that accepts a task.
QueryOptions = Annotated[Options | None, Depends(_in_query)]


def refuse_above_declared(options: Options | None, task: Task, place: Sequence[Any]) -> None:
    """Raise RequestValidationError if options exceed what the task declares.

    `place`: where the options are in the request, as FastAPI's `loc`.
    """
    if options is None:
        return
    faults = [
        {
            "type": "too_large",
            "loc": (*place, name),
            "msg": f"must be at most {most:g}, which {task.name} declares",
        }
        for name, given, most in (
            ("time_limit", options.time_limit, task.time_limit),
            ("max_attempts", options.max_attempts, task.max_attempts),
        )
        if given is not None and given > most
    ]
    if faults:
        raise RequestValidationError(faults)
