"""Tasks that were accepted before a deployment changed their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
import sqlalchemy as sa
from pydantic import AliasChoices, BaseModel, Field

from backend.broker.wire import Delivery
from backend.db import leases
from backend.task import Run, Task
from backend.worker.attempt.attempt import Attempt
from backend.worker.attempt.execute import run
from tests.support.attempts import run_alone
from tests.support.ledger import submit, task
from tests.support.task_session import waiting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.states import State

both_kinds = pytest.mark.parametrize("one_commit", [False, True], ids=["ordinary", "one commit"])

REASON = "The arguments do not fit: source: Field required"


class Broken(BaseModel):
    """The new arguments without regard to the old ones, whose field was `url`."""

    source: str


class Fixed(BaseModel):
    """The new arguments, which the old ones fit too."""

    source: str = Field(validation_alias=AliasChoices("source", "url"))


def spec_of(model: type[Broken | Fixed], *, one_commit: bool) -> Task:
    def function(args: Broken | Fixed, _run: Run) -> Broken:
        return Broken(source=args.source)

    return Task("a_task", function, model, 3, 60, one_commit)


@pytest.fixture(autouse=True)
def leased(service: sa.Engine) -> sa.Engine:
    """Give the worker a lease."""
    with service.begin() as connection:
        leases.renew(connection, "w", list)
    return service


def attempted(spec: Task, task_id: str, number: int) -> list[State]:
    """Run an attempt; return the state that it led to."""
    delivery = Delivery(task_id, number, spec.name, ['{"url": "x"}'], {}, None, None, "tasks")
    report = run([Attempt("w", delivery, spec)])
    return [state for state, _ in report.ended.values()]


def due_later(database: sa.Engine) -> bool:
    with database.connect() as connection:
        asked = sa.text("SELECT due_at > now() + interval '1 s' FROM outbox")
        return bool(connection.execute(asked).scalar_one())


@both_kinds
def test_a_task_whose_arguments_no_longer_fit_waits_for_a_deployment_that_accepts_them(
    service: sa.Engine, *, one_commit: bool
) -> None:
    (task_id,) = submit(service, args='{"url": "x"}')
    assert attempted(spec_of(Broken, one_commit=one_commit), task_id, 1) == ["RETRY"]
    row = task(service, task_id)
    assert (row["state"], row["attempt"], row["error"]) == ("RETRY", 2, REASON)
    assert due_later(service)
    assert attempted(spec_of(Fixed, one_commit=one_commit), task_id, 2) == ["SUCCESS"]
    assert task(service, task_id)["result"] == {"source": "x"}


@both_kinds
def test_a_task_whose_arguments_never_fit_fails_after_its_attempts(
    service: sa.Engine, *, one_commit: bool
) -> None:
    (task_id,) = submit(service, args='{"url": "x"}', max_attempts=2)
    spec = spec_of(Broken, one_commit=one_commit)
    assert attempted(spec, task_id, 1) == ["RETRY"]
    assert attempted(spec, task_id, 2) == ["FAILURE"]
    assert task(service, task_id)["error"] == REASON


@both_kinds
@pytest.mark.parametrize("sent", [{"url": "x"}, {"source": 1}])
def test_a_task_of_another_program_whose_arguments_do_not_fit_is_retried_with_them(
    service: sa.Engine, sent: Mapping[str, object], *, one_commit: bool
) -> None:
    """The program may be older than the deployment, as the API's clients may be."""
    task_id = str(uuid4())
    spec = spec_of(Broken, one_commit=one_commit)
    report = run_alone(spec, task_id, external=True, kwargs=sent)
    assert [state for state, _ in report.ended.values()] == ["RETRY"]
    row = task(service, task_id)
    assert (row["state"], row["args"]) == ("RETRY", sent)
    assert waiting(service) == [task_id]
