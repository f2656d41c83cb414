"""The worker. Celery imports this package, which registers tasks, lease and commands."""

import time
from functools import partial

from backend.broker.app import app
from backend.broker.queues import prefixed, queue
from backend.broker.results import LedgerResultBackend
from backend.db.records import SHORT_TASKS
from backend.errors import CannotRun
from backend.registry import queue_names, registered
from backend.settings import settings
from backend.worker.parent import (
    inspector,  # noqa: F401 - each connects itself to Celery
    lease,
)
from backend.worker.parent.events import Dispatcher, Node
from backend.worker.parent.ordinary import OrdinaryTasks
from backend.worker.parent.short import ShortTasks
from backend.worker.parent.unreported import record_revoke

if settings().worker_pool == "threads" and SHORT_TASKS in settings().queues:
    raise CannotRun(
        f"a worker of threads cannot run {SHORT_TASKS}: name other queues, in WORKER_QUEUES or with"
        " --queues"
    )
if unknown := set(settings().queues) - set(queue_names()):
    raise CannotRun(
        f"WORKER_QUEUES names {', '.join(sorted(unknown))}, which no task has as its queue;"
        f" there are {', '.join(queue_names())}"
    )
# All of them, although only those in WORKER_QUEUES are consumed: Flower shows the others too.
app.conf.task_queues = [queue(each) for each in queue_names()]
app.amqp.queues.select([prefixed(each) for each in settings().queues])
LedgerResultBackend.on_revoke = staticmethod(
    lambda task_id, reason: lease.write_soon(
        partial(record_revoke, task_id, reason, time.monotonic())
    )
)
app.Task.Request = "backend.worker.parent.request:LedgerRequest"
# Celery knows only the names of our tasks: attempt/execute.py runs them.
for name in registered():
    app.register_task(type(name, (app.Task,), {"name": name})())
app.steps["consumer"].update((OrdinaryTasks, ShortTasks))
app.events.dispatcher_cls = Dispatcher  # type: ignore[assignment]  # a name or a class
app.control.mailbox.node_cls = Node  # type: ignore[attr-defined]  # missing in the stubs
