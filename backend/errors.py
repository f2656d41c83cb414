"""Every error of the project.

Error
├── RegistrationError        a task is declared wrongly; the import fails
├── TaskError                raised by a task's function: fails it for good, without another attempt
├── StatementFailed          a task's own statement failed, though PostgreSQL is there
├── TaskRaised               a task's function raised an error, which is the cause of this one
├── Superseded               this attempt of a task no longer counts; whatever it does is dropped
│   └── Duplicate            the ledger does not wait for it, mostly as it came twice
└── HTTPError                becomes an HTTP answer; the class owns its status
    ├── NotFound             404
    ├── Invalid              422
    ├── TooManyWaiting       429
    ├── TextNotStorable      503, the database's encoding has no such character
    └── StoreUnavailable     503, PostgreSQL cannot be reached
        ├── StoreNotWritable 503, PostgreSQL answers and stores nothing
        └── StoreLocked      503, another session holds a lock for too long
"""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """The root of the project's own errors."""


class RegistrationError(Error):
    """A task is declared wrongly."""


class TaskError(Error):
    """Fails a task for good: its message is the task's error, and no attempt follows."""


class StatementFailed(Error):
    """A task's own statement took too long, met a deadlock or the like: an error of the attempt."""


class TaskRaised(Error):
    """A task's function raised an error, its cause.

    Wrapped, so that it does not count as an error of the ledger's own statements.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id


class Superseded(Error):
    """The ledger no longer counts this attempt of a task."""


class Duplicate(Superseded):
    """The ledger does not wait for this delivery: most likely another one was first."""


class HTTPError(Error):
    """An error that a client is told of.

    `detail` says in plain words what to do; it never holds a query, a host or a traceback.
    """

    status: ClassVar[int]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers: dict[str, str] = {}


class NotFound(HTTPError):
    """What the path names does not exist."""

    status = 404


class Invalid(HTTPError):
    """The request cannot be understood; `problems` has a line for each fault.

    Each problem is `{"detail", "pointer"}`, the pointer a JSON pointer into the body
    (`#/content`) or the name of a query parameter (`?limit`).
    """

    status = 422

    def __init__(self, detail: str, problems: list[dict[str, str]]) -> None:
        super().__init__(detail)
        self.problems = problems


class TooManyWaiting(HTTPError):
    """More tasks wait than MAX_WAITING allows; `seconds` is when to try again."""

    status = 429

    def __init__(self, limit: int, seconds: int) -> None:
        super().__init__(
            f"More than {limit} tasks are waiting. Nothing was accepted; try again in {seconds} s."
        )
        self.headers = {"Retry-After": str(seconds)}


class TextNotStorable(HTTPError):
    """A text has a character that the database's encoding lacks.

    Without Retry-After: the same request fails until there is a database with another encoding.
    """

    status = 503

    def __init__(self) -> None:
        super().__init__(
            "The task store cannot hold this text: its database does not use UTF-8. Nothing was"
            " stored. GET /health/ready says what to do."
        )


class StoreUnavailable(HTTPError):
    """PostgreSQL cannot be reached, or did not answer in time."""

    status = 503

    def __init__(
        self,
        detail: str = "The task store cannot be reached at the moment."
        " Nothing is lost; try again shortly.",
    ) -> None:
        super().__init__(detail)
        self.headers = {"Retry-After": "2"}


class StoreNotWritable(StoreUnavailable):
    """PostgreSQL answers but stores nothing: it is read-only, or its disk is full."""


class StoreLocked(StoreUnavailable):
    """Another session of PostgreSQL has held a lock for longer than it was waited for."""
