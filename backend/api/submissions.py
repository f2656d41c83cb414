"""Accepting tasks: many in one commit, once for each Idempotency-Key, and not without limit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Header

from backend.api.admission import Backlog
from backend.batcher import Batcher
from backend.db import idempotency, ledger
from backend.db.session import autocommit_connection, transaction
from backend.errors import Invalid, StoreNotWritable, TooManyWaiting
from backend.registry import registered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.records import NewTask

IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Repeat a request with the same key to get the first answer again",
    ),
]


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """What one request asks for: tasks, all or none, and the answer once they are on disk.

    `form`: of the answer, which a repeated request can only get in the form that it had at first.
    """

    tasks: Sequence[NewTask]
    answer: str
    form: Literal["task", "batch", "lines"]
    key: str | None = None

    @property
    def fingerprint(self) -> str:
        """Return a digest of what is asked for and in which form, without the new ids.

        Of the arguments as they were understood: a client may write them in another order.
        """
        digest = hashlib.sha256(f"{self.form}\0".encode())
        for task in self.tasks:
            model = registered()[task.name].arguments
            try:
                understood = model.model_validate_json(task.args).model_dump_json()
            except ValueError:  # such as a field that Pydantic cannot write as JSON
                understood = task.args
            digest.update(f"{task.name}\0{understood}\0".encode())
        return digest.hexdigest()


class Submissions:
    """Writes tasks: small requests together in one commit, large ones apart so that none waits."""

    def __init__(self) -> None:
        self._small = Batcher("submissions", self._write, size=_size)
        self._large = Batcher("bulk submissions", self._write, limit=2)
        self._known = Batcher("known keys", _look_up)
        self._backlog = Backlog()
        # Whether the last write found PostgreSQL read-only or its disk full.
        self.refused = False

    async def accept(self, request: SubmitRequest) -> str:
        """Return the answer when the tasks are on disk, or the first one given to the key.

        Raises TooManyWaiting, Invalid for a key that came with something else, StoreUnavailable.
        """
        try:
            await self._backlog.admit(len(request.tasks))
        except TooManyWaiting:
            # A repeated request was accepted already. Looked up here only: otherwise the write
            # finds the key without another round trip.
            if request.key is None or (first := await self._known.submit(request.key)) is None:
                raise
            return _first_answer(request, first)
        batcher = self._small if len(request.tasks) == 1 else self._large
        first = await batcher.submit(request)
        if first is None:
            return request.answer
        self._backlog.release(len(request.tasks))
        return _first_answer(request, first)

    @property
    def parts(self) -> tuple[Batcher[Any, Any] | Backlog, ...]:
        """What has a thread, to be closed; each takes as long as a Batcher."""
        return self._small, self._large, self._known, self._backlog

    def _write(self, requests: Sequence[SubmitRequest]) -> list[idempotency.Key | None]:
        try:
            written = _write(requests)
        except StoreNotWritable:
            self.refused = True
            raise
        self.refused = False
        return written


def _size(request: SubmitRequest) -> int:
    """Return about how many bytes a small request's arguments have."""
    return len(request.tasks[0].args)


def _first_answer(request: SubmitRequest, first: idempotency.Key) -> str:
    """Return the answer given to the first request with a key. Raises Invalid for another one."""
    if first.fingerprint != request.fingerprint:
        what = "this Idempotency-Key was used before, for another request: use a new one"
        fault = {"detail": what, "pointer": "Idempotency-Key"}
        raise Invalid(f"The request is not valid: {what}.", [fault])
    return first.answer


def _look_up(keys: Sequence[str]) -> list[idempotency.Key | None]:
    with autocommit_connection() as connection:
        found = idempotency.find(connection, keys)
    return [found.get(key) for key in keys]


def _write(requests: Sequence[SubmitRequest]) -> list[idempotency.Key | None]:
    """Write what is new of the requests in one commit; return, for the others, their first use."""
    first: dict[str, SubmitRequest] = {}
    for request in requests:
        if request.key:
            first.setdefault(request.key, request)
    counts: dict[str, idempotency.Key] = {}
    # Without keys one statement is all there is to do.
    with transaction() if first else autocommit_connection() as connection:
        if first:
            keys = [
                idempotency.Key(key, request.fingerprint, request.answer)
                for key, request in first.items()
            ]
            counts = idempotency.remember(connection, keys)
        uses = [_earlier_use(request, counts) for request in requests]
        new = [request for request, earlier in zip(requests, uses, strict=True) if earlier is None]
        if new:
            ledger.submit(connection, [task for request in new for task in request.tasks])
    return uses


def _earlier_use(
    request: SubmitRequest, counts: dict[str, idempotency.Key]
) -> idempotency.Key | None:
    """Return the use of a request's key by another one; None if this request is new."""
    if request.key is None:
        return None
    first = counts[request.key]
    # Answers hold the ids of their tasks, so no two are the same.
    return None if first.answer == request.answer else first
