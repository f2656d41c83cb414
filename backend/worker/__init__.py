"""The worker. Celery imports this package, which registers tasks, lease and commands."""

from backend.broker.app import app
from backend.registry import registered
from backend.worker.parent import (
    inspector,  # noqa: F401 - each connects itself to Celery
    lease,  # noqa: F401 - each connects itself to Celery
)
from backend.worker.parent.events import Dispatcher, Node
from backend.worker.parent.ordinary import OrdinaryTasks
from backend.worker.parent.short import ShortTasks

app.Task.Request = "backend.worker.parent.request:LedgerRequest"
# Celery knows only the names of our tasks: attempt/execute.py runs them.
for name in registered():
    app.register_task(type(name, (app.Task,), {"name": name})())
app.steps["consumer"].update((OrdinaryTasks, ShortTasks))
app.events.dispatcher_cls = Dispatcher  # type: ignore[assignment]  # a name or a class
app.control.mailbox.node_cls = Node  # type: ignore[attr-defined]  # missing in the stubs
