"""`python -m tests.support.service` is the `tasks-api` command with the tests' own tasks.

If TESTS_HANG names a file, a worker's event loop hangs when the file exists.
TESTS_CHECKS sets after how many checks without a tick a worker ends itself.
"""

import os
import threading
from typing import Any

from celery.signals import worker_ready

import tests.support.process_tasks
import tests.support.series_tasks
import tests.support.tasks  # noqa: F401 - each registers its tasks
from backend.cli import main


@worker_ready.connect
def _hang_later(sender: Any, **_: object) -> None:  # noqa: ANN401 - Celery's consumer
    file = os.environ.get("TESTS_HANG")

    def hang() -> None:
        if file and os.path.exists(file):  # noqa: PTH110 - the fastest check
            threading.Event().wait()

    sender.hub.call_repeatedly(0.1, hang)


if __name__ == "__main__":
    if checks := os.environ.get("TESTS_CHECKS"):
        from backend.worker.parent import hang

        hang.CHECKS = int(checks)
    main()
