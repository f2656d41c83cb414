"""What runs in a worker. Celery imports this package for its effects: tasks, lease, commands."""

from backend.worker import inspector, lease  # noqa: F401 - each connects itself to Celery
from backend.worker.claim import register

register()
