"""The checker: compares every answer with the final state.

It shares no code with the service. It only reads, so a saved history can be checked again.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from .answers import accepted_ids, action, expected, states_in
from .changes import Changes
from .schedule import DEADLY, OF_THE_STORE
from .states import ENDED, States

if TYPE_CHECKING:
    from .ending import Ending, Task
    from .history import Answer, History

# The tasks that must fail, and those that write a message.
FAILING = {"refuse", "fail"}
WRITING = {"insert_message", "note"}
# Seconds after a fault in which it can still explain an answer.
AFTERMATH = 5.0


class Given(NamedTuple):
    """An id from an answer with 202, its task, and the times of request and answer."""

    name: str
    label: str
    sent: float
    received: float


@dataclass
class Report:
    """The findings of the checker."""

    accepted: int = 0
    ended: int = 0
    effects: int = 0
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    not_ended: list[str] = field(default_factory=list)
    backwards: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """Return all findings, each with its kind."""
        kinds = ("lost", "twice", "not_ended", "backwards", "other")
        return [f"{kind}: {text}" for kind in kinds for text in getattr(self, kind)]


def check(history: History, ending: Ending) -> Report:
    """Return the findings."""
    return Checker(history, ending).check()


class Checker:
    """One check of one run."""

    def __init__(self, history: History, ending: Ending) -> None:
        self.history = history
        self.ending = ending
        self.report = Report()
        self.given: dict[str, Given] = {}
        self.unsure: set[str] = set()  # labels of tasks that may or may not have been accepted
        self.unsure_slow = 0
        self.changes = Changes()
        self.states = States(self.changes)

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """Return the tasks of the ledger by id."""
        return {task.id: task for task in self.ending.tasks}

    def check(self) -> Report:
        """Return the report."""
        first_answers: dict[tuple[str, str], str] = {}
        for answer in sorted(self.history.answers, key=lambda answer: answer.received):
            self._check_status(answer)
            if action(answer):
                self.changes.note(answer)
                for read in states_in(answer):
                    self._note_read(read)
            elif answer.method == "POST" and answer.path != "/messages/":
                self._note_submission(answer, first_answers)
            elif answer.status == 200 and answer.path.startswith("/tasks/") and answer.path[7:]:
                self._note_read(answer)
        self.report.accepted = len(self.given)
        self._check_tasks()
        self._check_ledger()
        self._check_effects()
        self.report.backwards += self.states.backwards(self.tasks)
        self._check_lists()
        self._check_end()
        return self.report

    # --- Answers

    def _check_status(self, answer: Answer) -> None:
        what = f"{answer.method} {answer.path} to replica {answer.replica} at {answer.sent:.2f}"
        if answer.status in expected(answer):
            return
        if answer.status is None:
            ended = self._near({"kill_api", "ended_by_itself"}, answer, f"api-{answer.replica}")
            if not ended or "Timeout" in answer.body:
                self.report.other.append(f"{what} got no answer: {answer.body}")
        elif answer.status == 503:
            if not self._near(OF_THE_STORE, answer):
                self.report.other.append(f"{what} got 503 while PostgreSQL was available")
        elif answer.status == 404:
            self.report.lost.append(f"{what} got 404 for an accepted task")
        else:
            self.report.other.append(f"{what} got {answer.status}: {answer.body[:300]}")

    def _near(self, names: set[str], answer: Answer, target: str | None = None) -> bool:
        """Return whether a request was sent during or soon after a fault of one of these kinds."""
        return any(
            fault.began <= answer.received and answer.sent <= fault.ended + AFTERMATH
            for fault in self.history.happened
            if fault.name in names and target in {None, fault.target}
        )

    def _note_submission(self, answer: Answer, first: dict[tuple[str, str], str]) -> None:
        ids = accepted_ids(answer) if answer.status == 202 else [None] * len(answer.asked)
        if len(ids) != len(answer.asked):
            self.report.other.append(f"{answer.path}: {len(ids)} answers to {len(answer.asked)}")
            return
        for place, ((name, label), task_id) in enumerate(zip(answer.asked, ids, strict=True)):
            if name == "no_such_task":
                continue
            if task_id is None:
                self.unsure.add(label)
                self.unsure_slow += name == "slow"
                continue
            asked_for = (answer.key or "", f"{place} {label}")
            if answer.key and first.setdefault(asked_for, task_id) != task_id:
                self.report.twice.append(f"key {answer.key!r}: ids {first[asked_for]}, {task_id}")
            before = self.given.setdefault(
                task_id, Given(name, label, answer.sent, answer.received)
            )
            if (before.name, before.label) != (name, label):
                self.report.twice.append(f"id {task_id} for {before.label!r} and {label!r}")

    def _note_read(self, answer: Answer) -> None:
        try:
            self.states.note(answer)
        except ValueError as error:
            self.report.other.append(f"{answer.path} got {answer.body[:300]} ({error})")

    # --- The ledger

    def _check_tasks(self) -> None:
        for task_id, given in self.given.items():
            task = self.tasks.get(task_id)
            what = f"{given.name} {given.label!r} {task_id}"
            if task is None:
                self.report.lost.append(f"{what} is not in the ledger")
            elif (task.name, _label(task)) != (given.name, given.label):
                self.report.other.append(f"{what} is {task.name} {task.args}")
            elif task.state not in ENDED:
                self.report.not_ended.append(f"{what} is {task.state}, attempt {task.attempt}")
            else:
                self.report.ended += 1
                expected = "FAILURE" if given.name in FAILING else "SUCCESS"
                if task.state != expected and not self._may_have_ended_so(given, task):
                    text = f"{what} is {task.state}, attempt {task.attempt}: {task.error}"
                    self.report.other.append(text)
                if (retries := self.changes.retries(task_id)) >= task.attempt:
                    text = f"{what} was retried {retries} times, attempt {task.attempt}"
                    self.report.other.append(text)

    def _may_have_ended_so(self, given: Given, task: Task) -> bool:
        """Return whether a client or a fault may have ended a task otherwise than expected."""
        if task.state == "REVOKED":
            return task.error == "Cancelled" and self.changes.cancelled(task.id)
        return task.state == "FAILURE" and self._lost_its_worker(given, task)

    def _lost_its_worker(self, given: Given, task: Task) -> bool:
        """Return whether a task with one attempt may have lost its worker because of a fault."""
        retried = self.changes.retried(task.id)
        end = None if retried else self.states.ended_by(task.id)
        return given.name == "once" and any(
            fault.name in DEADLY
            and given.sent <= fault.ended + AFTERMATH
            and (end is None or fault.began <= end)
            for fault in self.history.happened
        )

    def _check_ledger(self) -> None:
        """Check that the ledger has only requested tasks, and none twice."""
        labels = Counter(_label(task) for task in self.ending.tasks if task.name != "slow")
        for label, times in labels.items():
            if times > 1:
                self.report.twice.append(f"{label!r} has {times} tasks")
        slow = 0
        for task in self.ending.tasks:
            if task.id in self.given:
                continue
            if task.name == "slow":
                slow += 1
            elif _label(task) not in self.unsure:
                self.report.other.append(f"not requested: {task.name} {task.args} {task.id}")
            if task.state not in ENDED:
                self.report.not_ended.append(f"{task.id} without an answer is {task.state}")
        if slow > self.unsure_slow:
            self.report.other.append(f"{slow} slow tasks without {self.unsure_slow} requests")

    def _check_effects(self) -> None:
        effects = Counter(message.task_id for message in self.ending.messages if message.task_id)
        for task_id, times in effects.items():
            if times > 1:
                self.report.twice.append(f"task {task_id} wrote {times} messages")
        for content, times in Counter(row.content for row in self.ending.messages).items():
            if times > 1:
                self.report.twice.append(f"message {content!r} is there {times} times")
        for task in self.ending.tasks:
            if effects[task.id] and (task.state != "SUCCESS" or task.name not in WRITING):
                self.report.other.append(f"{task.name} {task.id}, {task.state}, left a message")
            if task.state == "SUCCESS" and task.name in WRITING and not effects[task.id]:
                self.report.lost.append(f"the message of {task.name} {task.id}")
        self.report.effects = sum(effects[task_id] for task_id in self.given)
        self._check_messages()

    def _check_messages(self) -> None:
        """Check that each message has the requested content, and that direct messages are kept."""
        by_id = {message.id: message for message in self.ending.messages}
        for message in self.ending.messages:
            task = self.tasks.get(message.task_id or "")
            if message.task_id and (task is None or _label(task) != message.content):
                self.report.other.append(
                    f"message {message} does not belong to task {message.task_id}"
                )
        for answer in self.history.answers:
            if answer.path == "/messages/" and answer.status == 201:
                body = json.loads(answer.body)
                kept = by_id.get(body["id"])
                texts = {answer.asked[0][1], body["content"]}
                if kept is None or texts != {kept.content}:
                    self.report.lost.append(f"message {body['id']} that got a 201")

    # --- Lists

    def _check_lists(self) -> None:
        """Check that lists have all unfinished tasks, and no ended ones."""
        for answer in self.history.answers:
            if (answer.path, answer.method, answer.status) != ("/tasks/", "GET", 200):
                continue
            body = json.loads(answer.body)
            listed = {row["task_id"] for row in body["tasks"]}
            when = f"the list of replica {answer.replica} at {answer.sent:.2f}"
            for task_id in listed:
                at = self.states.ended_by(task_id)
                again = self.changes.retried(task_id, until=answer.received)
                if at is not None and at <= answer.sent and not again:
                    self.report.backwards.append(f"{when} has {task_id}, which had ended")
            for task_id in self.given if len(listed) == body["total"] else ():
                accepted = self.given[task_id].received <= answer.sent
                at = self.states.unfinished_at(task_id) if accepted else None
                if at is None or answer.received > at or self.changes.retried(task_id):
                    continue
                if task_id not in listed:
                    self.report.other.append(f"{when} lacks {task_id}, which ended later")

    # --- The end

    def _check_end(self) -> None:
        ending, other = self.ending, self.report.other
        if ending.outbox:
            other.append(f"{len(ending.outbox)} left in the outbox: {', '.join(ending.outbox[:3])}")
        other += [f"an open transaction: {text}" for text in ending.open_transactions]
        other += [f"a traceback: {text}" for text in ending.tracebacks]
        for replica, (listed, ready, total) in enumerate(
            zip(ending.listed, ending.ready, ending.message_totals, strict=True)
        ):
            if listed != '{"tasks":[],"total":0}':
                other.append(f"replica {replica} lists at the end: {listed[:300]}")
            if ready != '{"status":"ready","degraded":[]}':
                other.append(f"replica {replica} is at the end: {ready[:300]}")
            if total != len(ending.messages):
                other.append(f"replica {replica} counts {total} of {len(ending.messages)} messages")
        for happened in self.history.happened:
            if happened.name == "ended_by_itself" or happened.note.startswith("failed: "):
                other.append(f"{happened.name} {happened.target}: {happened.note}")


def _label(task: Task) -> str:
    """Return the unique text of a task."""
    return str(task.args.get("content", task.args.get("text", "")))
