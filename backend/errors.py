"""Every error that crosses files, except SettingsError.

Error
├── RegistrationError        a task is declared wrongly; the import fails
├── CannotRun                `up` or `reset` cannot do its work; one line that says what to do
├── TaskError                raised by a task's function: fails it at once, without another attempt
├── RetryLater               raised by a task's function: puts it off, which uses up no attempt
├── ArgumentsDoNotFit        a task's stored arguments do not fit its model
├── StatementFailed          a task's own statement failed, although PostgreSQL is available
├── TaskRaised               a task's function raised an error, which is the cause of this one
├── Fenced                   the attempt was cancelled in its thread, because it no longer counts
├── Superseded               not the current attempt of the task; its outcome is dropped
│   └── Duplicate            the task does not wait for this delivery, usually the second one
├── AtLimit                  as many as `max_running` allows are running; this one waits
├── StoreError               PostgreSQL did not do it; clients get 503 with this text
│   ├── TextNotStorable      the database's encoding has no such character
│   └── StoreUnavailable     PostgreSQL cannot be reached, or did not answer in time
│       ├── StoreNotWritable it answers and stores nothing
│       ├── StoreLocked      another session holds a lock for too long
│       └── LeaseExpired     this worker has no lease, so it starts no ordinary task
└── HTTPError                becomes an HTTP answer; each class has its status
    ├── OtherSite            403, a page of another web site has sent the request
    ├── NotFound             404
    ├── Conflict             409, the task's state does not allow it
    ├── Invalid              422
    ├── TooManyWaiting       429
    ├── NotMigrated          503, the database's schema is older than this version
    └── Overloaded           503, too many requests wait in this process

TimeUp is a BaseException: it is raised in a task's function before the time limit.
"""

from __future__ import annotations

from typing import ClassVar

# In seconds.
YEAR = 366 * 86_400


class Error(Exception):
    """The root of the project's own errors."""


class RegistrationError(Error):
    """A task is declared wrongly."""


class CannotRun(Error):
    """`up` or `reset` cannot do its work; the message is one line that says what to do."""


class TaskError(Error):
    """Fails a task at once: its message is the task's error, and no attempt follows."""


class RetryLater(Error):
    """Puts a task off: its next attempt is due in `seconds`, and none is used up.

    Raised in a task's function, for example when another service asks to be called later.
    """

    def __init__(self, seconds: float, reason: str = "The task was put off") -> None:
        """Store the delay and the reason, which clients read until the next attempt.

        Raises ValueError for seconds out of range.
        """
        if not 0 <= seconds <= YEAR:
            raise ValueError(f"seconds must be from 0 to {YEAR}, got {seconds}")
        super().__init__(reason)
        self.seconds = seconds


class TimeUp(BaseException):
    """The time limit of an attempt is near. Raised in the task's function, so that it can clean up.

    Not an Exception: a library that tries again after any error must not catch it.
    """

    def __init__(self, seconds: float) -> None:
        """Make the error of a time limit of so many seconds."""
        super().__init__(f"The task nearly reached its time limit of {seconds:g} seconds")


class ArgumentsDoNotFit(Error):
    """A task's arguments do not fit its model: an error of the attempt.

    The API checks arguments, so the model has changed since then, or the task was not posted to the
    API. A later deployment may accept them.
    """


class StatementFailed(Error):
    """A statement of a task failed, or lost PostgreSQL too often: an error of the attempt."""


class TaskRaised(Error):
    """A task's function raised an error, which is the cause of this one.

    `task_ids`: the tasks for which the function was called. The wrapper distinguishes the error
    from errors of the ledger's own statements.
    """

    def __init__(self, *task_ids: str) -> None:
        super().__init__(*task_ids)
        self.task_ids = task_ids


class Superseded(Error):
    """The attempt is not the current one of its task, or the task has ended."""


class AtLimit(Error):
    """As many tasks as `max_running` allows are running; this one waits in the outbox."""


class Duplicate(Superseded):
    """The task does not wait for this delivery: most likely another one was first."""


class Fenced(Error):
    """The coroutine of an attempt was cancelled, because the attempt no longer counts."""


class StoreError(Error):
    """PostgreSQL did not do what it was asked. The text says what a client can do."""


class TextNotStorable(StoreError):
    """A text has a character that the database's encoding lacks.

    The same request fails until there is a database with another encoding.
    """

    def __init__(self) -> None:
        super().__init__(
            "The task store cannot hold this text: its database does not use UTF-8. Nothing was"
            " stored. GET /health/ready says what to do."
        )


class StoreUnavailable(StoreError):
    """PostgreSQL cannot be reached, or did not answer in time."""

    def __init__(
        self,
        text: str = "The task store cannot be reached at the moment."
        " Nothing is lost; try again shortly.",
    ) -> None:
        super().__init__(text)


class StoreNotWritable(StoreUnavailable):
    """PostgreSQL answers but stores nothing: it is read-only, or its disk is full."""


class StoreLocked(StoreUnavailable):
    """Another session of PostgreSQL has held a lock for longer than we wait."""


class LeaseExpired(StoreUnavailable):
    """A worker has no lease: the reconciler would take every attempt that it starts."""

    def __init__(self) -> None:
        super().__init__("this worker has no lease at the moment; it starts nothing without one")


class HTTPError(Error):
    """An error that becomes an HTTP answer.

    `detail` says what is wrong and what to do; it never has a query, a host or a traceback.
    """

    status: ClassVar[int]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers: dict[str, str] = {}


class OtherSite(HTTPError):
    """A page of another web site has made a browser send this request."""

    status = 403

    def __init__(self) -> None:
        super().__init__(
            "A page of another web site has sent this request. Send it from a page of this service,"
            " or from a program."
        )


class NotFound(HTTPError):
    """What the path names does not exist."""

    status = 404


class Conflict(HTTPError):
    """The state of the task does not allow the request."""

    status = 409


class Invalid(HTTPError):
    """The request is not valid; `problems` has an entry for each fault.

    Each problem is `{"detail", "pointer"}`, the pointer a JSON pointer into the body
    (`#/content`) or the name of a query parameter (`?limit`).
    """

    status = 422

    def __init__(self, detail: str, problems: list[dict[str, str]]) -> None:
        super().__init__(detail)
        self.problems = problems


class TooManyWaiting(HTTPError):
    """More tasks would wait than MAX_WAITING allows; the client may try again after `seconds`."""

    status = 429

    def __init__(self, limit: int, seconds: int) -> None:
        super().__init__(
            f"With this request more than {limit} tasks would wait. Nothing was accepted; try again"
            f" in {seconds} s."
        )
        self.headers = {"Retry-After": str(seconds)}


class NotMigrated(HTTPError):
    """The database's schema is older than this version."""

    status = 503

    def __init__(self) -> None:
        super().__init__(
            "The database's schema is older than this version: run `tasks-api migrate`."
        )
        self.headers = {"Retry-After": "2"}


class Overloaded(HTTPError):
    """More requests wait in this process than it can serve in time, or it stops."""

    status = 503

    def __init__(self) -> None:
        super().__init__(
            "This process takes no more requests at the moment. Nothing was stored; try again"
            " shortly."
        )
        self.headers = {"Retry-After": "2"}
