"""Accepts tasks: many in one commit, once for each Idempotency-Key, up to MAX_WAITING."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Header

from backend.api.admission import Backlog
from backend.batcher import Batcher
from backend.db import idempotency, ledger
from backend.db.idempotency import KeyUse
from backend.db.session import autocommit_connection, transaction
from backend.errors import Invalid, StoreNotWritable, TooManyWaiting
from backend.registry import registered

if TYPE_CHECKING:
    from backend.db.records import TaskRecord

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


# The form of an answer. A repeated request must have the same form as the first one.
Form = Literal["task", "batch", "lines"]


@dataclass(frozen=True)
class _Submission:
    """What one call of `submit` asks for."""

    tasks: Sequence[TaskRecord]
    form: Form
    key: str | None
    render: Callable[[Sequence[str]], str]

    @property
    def ids(self) -> list[str]:
        """Return the ids of the tasks."""
        return [task.id for task in self.tasks]

    @cached_property
    def fingerprint(self) -> str:
        """Return a digest of what is asked for and in which form, without the new ids.

        It uses the validated arguments, since a client may write them in another order.
        """
        digest = hashlib.sha256(f"{self.form}\0".encode())
        for task in self.tasks:
            model = registered()[task.name].arguments
            try:
                understood = model.model_validate_json(task.args).model_dump_json()
            except ValueError:  # such as a field that Pydantic cannot write as JSON
                understood = task.args
            digest.update(f"{task.name}\0{understood}\0".encode())
            if task.options:
                digest.update(json.dumps(task.options.given(), sort_keys=True).encode())
        return digest.hexdigest()


class Submissions:
    """Stores tasks. Single tasks share commits; larger requests have another batcher."""

    def __init__(self) -> None:
        self._small = Batcher("submissions", self._write, size=_size)
        self._large = Batcher("bulk submissions", self._write, limit=2)
        self._known = Batcher("known keys", _look_up)
        self._backlog = Backlog()
        # Whether the last write found PostgreSQL read-only or its disk full.
        self.refused = False

    async def submit(
        self,
        tasks: Sequence[TaskRecord],
        form: Form,
        key: str | None,
        render: Callable[[Sequence[str]], str],
    ) -> Sequence[str]:
        """Store the tasks, all or none; return their ids, or those of the key's first request.

        `render` returns the answer's body for ids; any thread may call it. Only API processes of
        the previous version read this body; the next release takes no `render`.

        Raises TooManyWaiting, StoreUnavailable, Overloaded, and Invalid for a key that was used for
        another request.
        """
        request = _Submission(tasks, form, key, render)
        # A task that starts later does not wait yet.
        due = len(tasks) - len([1 for task in tasks if task.options and task.options.starts_later])
        try:
            await self._backlog.admit(due)
        except TooManyWaiting:
            # A repeated request is not refused. Only here is the key looked up separately: the
            # write finds it without a round trip of its own.
            if key is None or (first := await self._known.submit(key)) is None:
                raise
            return _first_ids(request, first)
        batcher = self._small if len(tasks) == 1 else self._large
        first = await batcher.submit(request)
        if first is None:
            return request.ids
        self._backlog.release(due)
        return _first_ids(request, first)

    @property
    def parts(self) -> tuple[Batcher[Any, Any] | Backlog, ...]:
        """Return the parts that have a thread and must be closed."""
        return self._small, self._large, self._known, self._backlog

    def _write(self, requests: Sequence[_Submission]) -> list[KeyUse | None]:
        try:
            written = _write(requests)
        except StoreNotWritable:
            self.refused = True
            raise
        self.refused = False
        return written


def _size(request: _Submission) -> int:
    """Return about how many bytes a small request's arguments have."""
    return len(request.tasks[0].args)


def _first_ids(request: _Submission, first: KeyUse) -> Sequence[str]:
    """Return the ids of the first request with a key. Raises Invalid if the requests differ."""
    if first.fingerprint != request.fingerprint:
        what = "this Idempotency-Key was used before, for another request: use a new one"
        fault = {"detail": what, "pointer": "Idempotency-Key"}
        raise Invalid(f"The request is not valid: {what}.", [fault])
    return first.ids


def _look_up(keys: Sequence[str]) -> list[KeyUse | None]:
    with autocommit_connection() as connection:
        found = idempotency.find(connection, keys)
    return [found.get(key) for key in keys]


def _write(requests: Sequence[_Submission]) -> list[KeyUse | None]:
    """Store the new requests in one commit; return for each the earlier use of its key, or None."""
    first: dict[str, _Submission] = {}
    for request in requests:
        if request.key:
            first.setdefault(request.key, request)
    new_uses = [
        KeyUse(key, request.fingerprint, request.ids, request.render(request.ids))
        for key, request in first.items()
    ]
    # Without keys there is only one statement, which needs no transaction.
    with transaction() if first else autocommit_connection() as connection:
        stored = idempotency.remember(connection, new_uses) if first else {}
        uses = [_earlier_use(request, stored) for request in requests]
        new = [request for request, earlier in zip(requests, uses, strict=True) if earlier is None]
        if new:
            ledger.submit(connection, [task for request in new for task in request.tasks])
    return uses


def _earlier_use(request: _Submission, stored: dict[str, KeyUse]) -> KeyUse | None:
    """Return the use of a request's key by an earlier one; None if this request is new."""
    if request.key is None:
        return None
    first = stored[request.key]
    return None if first.ids == request.ids else first
