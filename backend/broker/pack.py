"""Which queue an attempt is sent to, and which attempts share a message.

First attempts of tasks that do not take long share a bundle.

A message costs broker, relay and worker more than such a task does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from backend.db.records import TASKS, OutboxEntry
from backend.registry import registered

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from backend.task import Task

# The limits of a bundle: tasks, and bytes of arguments (counted as characters) without those of
# its last task.
MAX_TASKS: Final = 100
MAX_BYTES: Final = 256 * 1024


class Outgoing(NamedTuple):
    """A message to be published: one attempt, or a bundle of attempts that share it.

    queue: its queue's name, without QUEUE_PREFIX. All entries have one priority.
    """

    queue: str
    entries: Sequence[OutboxEntry]
    bundle: bool

    @property
    def priority(self) -> int:
        """Return the priority of its tasks."""
        return self.entries[0].priority

    @property
    def task_ids(self) -> list[str]:
        """Return the ids of its tasks."""
        return [entry.task_id for entry in self.entries]


def pack(entries: Sequence[OutboxEntry], long_tasks: Collection[str] | None) -> list[Outgoing]:
    """Return the messages for attempts; those that may share one are in bundles.

    A bundle has up to MAX_TASKS tasks of one queue and priority. A new one begins after MAX_BYTES
    of arguments. `long_tasks`: the names of ordinary tasks that share no message; None for all.
    """
    messages: list[Outgoing] = []
    # By queue and priority: the bundle that is not full, and its bytes of arguments.
    bundles: dict[tuple[str, int], list[OutboxEntry]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for entry in entries:
        task = registered().get(entry.name)
        # This version does not know the task. A newer worker may.
        queue = task.queue if task else TASKS
        if not (task and _may_share(entry, task, long_tasks)):
            messages.append(Outgoing(queue, [entry], bundle=False))
            continue
        key = queue, entry.priority
        bundle = bundles.get(key)
        if bundle is None or len(bundle) == MAX_TASKS or sizes[key] > MAX_BYTES:
            bundle, sizes[key] = [], 0
            bundles[key] = bundle
            messages.append(Outgoing(queue, bundle, bundle=True))
        bundle.append(entry)
        sizes[key] += len(entry.args)
    return messages


def _may_share(entry: OutboxEntry, task: Task, long_tasks: Collection[str] | None) -> bool:
    """Return whether an attempt may share a message with others.

    A first attempt of a short task does. One of an ordinary task does so only when it is published
    for the first time: a group does not record that it has begun, so it could kill its worker again
    and again. If `max_attempts` is 1 it never does, nor with a time limit below a second, which in
    a series would begin too late. A task with `max_running`, or with its own `time_limit` or
    `max_attempts`, never shares a message: it runs alone.
    """
    own_limits = entry.options and (entry.time_limit or entry.max_attempts)
    if entry.attempt > 1 or task.max_running or own_limits:
        return False
    if task.one_commit:
        return True
    if long_tasks is None or entry.name in long_tasks or task.time_limit < 1:
        return False
    return task.max_attempts > 1 and not entry.publishes
