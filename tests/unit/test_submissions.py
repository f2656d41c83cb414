"""Accepting tasks: what counts as waiting."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from backend.db.idempotency import Key
from backend.db.records import NewTask
from backend.errors import TooManyWaiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.api.submissions import SubmitRequest

pytestmark = pytest.mark.usefixtures("configured")


def test_a_repeated_request_does_not_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_WAITING", "50")
    from backend.api import submissions

    used: dict[str, Key] = {}

    def write(orders: Sequence[SubmitRequest]) -> list[Key | None]:
        earlier = [used.get(order.key or "") for order in orders]
        for order in orders:
            if order.key:
                used.setdefault(order.key, Key(order.key, order.fingerprint, order.answer))
        return earlier

    monkeypatch.setattr(submissions, "autocommit_connection", nullcontext)
    monkeypatch.setattr("backend.api.admission.autocommit_connection", nullcontext)
    monkeypatch.setattr("backend.api.admission.outbox.backlog", lambda *_: (0, 0))
    monkeypatch.setattr(submissions, "_write", write)
    # Counted once: what is added since is all that is known of what waits.
    monkeypatch.setattr("backend.api.admission.SAMPLE_SECONDS", 3600)

    async def scene() -> list[str]:
        accepting = submissions.Submissions()
        answers = []
        for number, (count, key) in enumerate([(10, "ten")] * 5 + [(40, None)]):
            tasks = [NewTask(str(number), "slow", "{}", 5, None)] * count
            order = submissions.SubmitRequest(tasks, f"answer {number}", "batch", key)
            answers.append(await accepting.accept(order))
        one_more = submissions.SubmitRequest(tasks[:1], "answer", "task")
        with pytest.raises(TooManyWaiting):
            await accepting.accept(one_more)
        for part in accepting.parts:
            part.close()
        return answers

    assert asyncio.run(scene()) == ["answer 0"] * 5 + ["answer 5"]


def test_arguments_that_cannot_be_written_again_have_a_fingerprint_too() -> None:
    from backend.api.submissions import SubmitRequest
    from backend.db.records import NewTask

    def fingerprint(args: str) -> str:
        task = NewTask("an id", "insert_message", args, 5, None)
        return SubmitRequest([task], "an answer", "task", "a key").fingerprint

    assert fingerprint("[1]") == fingerprint("[1]") != fingerprint("[2]")
    assert fingerprint('{"content":"x"}') == fingerprint('{ "more": 1, "content": "x" }')
