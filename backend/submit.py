"""Submits a task in a transaction of the caller: with its writes, or not at all.

For applications that share the database, and for `run.submit`. It uses the caller's session, so it
needs no settings. TASKS.md describes it, and the SQL function behind it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError
from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

# Bytes of JSON, as in a request to the API.
MAX_ARGUMENTS = 1024 * 1024

_SUBMIT = text("SELECT CAST(tasks_submit(:name, CAST(:arguments AS json)) AS text)")


def submit(
    session: Session | Connection, name: str, arguments: BaseModel | Mapping[str, object]
) -> str:
    """Submit the task `name` in the transaction of `session`; return its id.

    It runs after the commit. After a rollback it does not exist. With an AsyncSession:
    `await session.run_sync(submit, name, arguments)`.

    Raises ValueError for arguments that are not valid, are over MAX_ARGUMENTS, or differ when they
    are read back from JSON; TypeError for a value that JSON lacks; SQLAlchemy's DBAPIError for a
    name that no task can have.
    """
    json_text = _json_of(arguments)
    if len(json_text.encode()) > MAX_ARGUMENTS:
        raise ValueError(f"the arguments of task {name!r} are over 1 MiB")
    values = {"name": name, "arguments": json_text}
    task_id: str = session.execute(_SUBMIT, values).scalar_one()
    return task_id


def faults_of(error: ValidationError) -> str:
    """Return what does not fit a model as "field: reason; field: reason", without values."""
    return "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()
    )


def _json_of(arguments: BaseModel | Mapping[str, object]) -> str:
    """Return arguments as JSON text. Raises as `submit` does."""
    if not isinstance(arguments, BaseModel):
        return json.dumps(dict(arguments), allow_nan=False)
    json_text = arguments.model_dump_json(by_alias=True, round_trip=True)
    try:
        same = type(arguments).model_validate_json(json_text) == arguments
    except ValidationError as error:
        # Without its cause, whose text has the values.
        raise ValueError(f"{type(arguments).__name__}: {faults_of(error)}") from None
    # False for a secret, NaN, a field that is left out, or a validator that changes its own result.
    if not same:
        raise ValueError(
            f"{type(arguments).__name__}: a worker would read other arguments from their JSON text"
        )
    return json_text
