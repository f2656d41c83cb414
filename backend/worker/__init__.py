"""What runs in a worker. Celery imports this package for its effects: tasks, lease, commands."""

from backend.celery_app import app
from backend.worker import inspector, lease  # noqa: F401 - each connects itself to Celery
from backend.worker.batches import ShortTasks
from backend.worker.claim import register
from backend.worker.events import Dispatcher, Node

# For the tasks that Celery itself has; ours name it too (claim.py).
app.Task.Request = "backend.worker.request:LedgerRequest"
register()
app.steps["consumer"].add(ShortTasks)
app.events.dispatcher_cls = Dispatcher  # type: ignore[assignment]  # a name or a class
app.control.mailbox.node_cls = Node  # type: ignore[attr-defined]  # missing in the stubs
