"""A batch of short tasks in a child process: one claim, each one's work, one commit."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from billiard.common import terminate_handler_fired  # type: ignore[attr-defined]  # stubs lack it
from pydantic_core import from_json

from backend.celery_app import SHORT_QUEUE, app
from backend.db import ledger
from backend.db.task_session import TaskSession
from backend.errors import StoreUnavailable, Superseded
from backend.states import SUCCESS
from backend.tasks.registry import Run, registered
from backend.worker.call import Losses, as_json, call
from backend.worker.outcomes import Ended
from backend.worker.retry import retry_while_unavailable
from backend.worker.stray_messages import DroppedMessages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

# So many members may raise before the rest runs alone too: each costs the batch another start.
MAX_FAILED_MEMBERS = 3
# What an event has of a task's value.
TEXT_LENGTH = 200


class Member(NamedTuple):
    """A task's message, as the parent hands it over."""

    task_id: str
    attempt: int
    name: str
    args: list[str]
    reply_to: str | None


@dataclass
class Report:
    """What became of a batch: the values as text, and the ids of the others.

    `dropped` do not count, or could not be written; `alone` are still to be run.
    """

    succeeded: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _MemberFailed(Exception):
    """A member raised; the batch goes on without it."""

    def __init__(self, member: Member) -> None:
        super().__init__(member.task_id)
        self.member = member


def run_batch(worker: str, members: Sequence[Member]) -> Report:
    """Run a batch in one transaction; never raises."""
    start = time.monotonic()
    report = Report()
    left = list(members)
    losses = {member.task_id: Losses() for member in members}
    while left:
        try:
            ended = retry_while_unavailable(lambda: _in_one_commit(worker, left, losses))
        except _MemberFailed as failed:
            left.remove(failed.member)
            report.alone.append(failed.member.task_id)
            if len(report.alone) < MAX_FAILED_MEMBERS:
                continue
            report.alone += [member.task_id for member in left]
        except StoreUnavailable:
            # Their rows in the outbox are still there: they are published again.
            logger.warning("short tasks given up, since PostgreSQL stayed away: %d", len(left))
            report.dropped += [member.task_id for member in left]
        except Exception:
            report.alone += [member.task_id for member in left]
            logger.exception("a batch failed; its short tasks run alone: %d", len(left))
        else:
            report.succeeded = {end.task_id: _short_text(end.value) for end in ended}
            report.dropped += [m.task_id for m in left if m.task_id not in report.succeeded]
            if ended:
                _tell(ended)
            if report.dropped:
                logger.debug(
                    "short tasks dropped, as they do not wait for these attempts: %d",
                    len(report.dropped),
                )
                DroppedMessages(worker, SHORT_QUEUE.name, report.dropped).record()
        break
    report.seconds = time.monotonic() - start
    return report


def _short_text(value: object) -> str:
    """Return a task's value as Flower shows it, in TEXT_LENGTH characters at most."""
    whole = repr(value)
    return whole if len(whole) <= TEXT_LENGTH else f"{whole[: TEXT_LENGTH - 3]}..."


def _in_one_commit(
    worker: str, members: Sequence[Member], losses: Mapping[str, Losses]
) -> list[Ended]:
    attempts = {member.task_id: member.attempt for member in members}
    ended: list[Ended] = []
    outcomes: list[ledger.Outcome] = []
    with TaskSession() as session:
        claim = ledger.claim(session, attempts, worker, start=False)
        for member in members:
            if member.task_id not in claim.ids:
                continue
            text = _call(member, session, losses[member.task_id])
            outcomes.append(ledger.Outcome(member.task_id, member.attempt, SUCCESS, text))
            ended.append(Ended(member.task_id, from_json(text), member.reply_to))
        done = ledger.finish(session, outcomes, worker, waiting=True, began=claim.began)
        if len(done) < len(outcomes):
            raise Superseded("the ledger has moved on")
        session.commit()
    return ended


def _call(member: Member, session: TaskSession, losses: Losses) -> str:
    """Return the member's value as JSON text. Raises _MemberFailed, StoreUnavailable."""
    spec = registered()[member.name]
    try:
        (arguments,) = member.args
        run = Run(member.task_id, member.attempt, session, one_commit=True)
        with session.lent(), losses:
            return as_json(call(spec, arguments, run))
    except StoreUnavailable:
        raise
    except BaseException as error:
        if terminate_handler_fired():
            raise  # this process was told to end
        raise _MemberFailed(member) from error


def _tell(ended: Sequence[Ended]) -> None:
    outcomes: Any = app.backend
    outcomes.tell_together(ended)
