"""Purges tasks that ended long ago: all the time (RETENTION_DAYS), or once (`tasks-api prune`)."""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from backend.db import purge
from backend.db.session import transaction
from backend.loop import Loop
from backend.settings import MAX_RETENTION_DAYS

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

# A pause is this many times as long as the batch before it. So the purge uses a tenth of the time
# of one connection, and purges less while the server is busy.
REST = 9
# How often a process looks whether the pass is to be continued.
LOOK_SECONDS = 5.0


class Purge:
    """The purge's thread. `start` starts it.

    It is not the reconciler's, so that a slow batch does not delay the rescue of lost tasks.
    """

    def __init__(self, days: int) -> None:
        """Make the thread that purges tasks which ended more than `days` days ago."""
        self._days = days
        self._loop = Loop(
            "purge",
            "deletes tasks that ended long ago",
            self.continue_pass,
            interval=LOOK_SECONDS,
        )

    def start(self) -> None:
        """Start the thread."""
        self._loop.start()

    def close(self) -> None:
        """Stop the thread; returns within 1 s, or leaves a longer batch to be rolled back."""
        self._loop.close(1.0)

    def continue_pass(self) -> None:
        """Purge batch by batch until the end of the pass, and log a line if it has purged tasks.

        Returns if no batch is due, or if another process purges. Raises StoreUnavailable.
        """
        age = timedelta(days=self._days)
        while not self._loop.stopping.is_set():
            began = time.monotonic()
            with transaction() as connection:
                progress = purge.resume(connection, age, datetime.now(UTC), REST)
            if progress is None:
                return
            if progress.page is None:
                self._log(progress)
                return
            self._loop.stopping.wait(REST * (time.monotonic() - began))

    def _log(self, progress: purge.Progress) -> None:
        if progress.oldest is not None:
            logger.info(
                "purged %d tasks that ended more than %d days ago; the first of them ended at %s",
                progress.tasks,
                self._days,
                progress.oldest.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )


def purge_once(
    age: timedelta, stopping: threading.Event, *, dry_run: bool
) -> Iterator[purge.Progress]:
    """Purge every task that ended longer than `age` ago, or only count them (`dry_run`).

    Yields the progress after each batch, until `stopping` is set. Raises StoreUnavailable.
    """
    act = purge.count if dry_run else purge.delete
    progress = purge.Progress()
    while progress.page is not None and not stopping.is_set():
        began = time.monotonic()
        with transaction() as connection:
            progress = act(connection, progress, age, datetime.now(UTC))
        took = time.monotonic() - began
        yield progress
        if progress.page is not None and not dry_run:
            stopping.wait(REST * took)


def parse_age(text: str) -> timedelta:
    """Return the age that `30d` (days) or `12h` (hours) means. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,6})([dh])", text)
    if found:
        number = int(found[1])
        age = timedelta(days=number) if found[2] == "d" else timedelta(hours=number)
        if timedelta(0) < age <= timedelta(days=MAX_RETENTION_DAYS):
            return age
    raise ValueError(f"must be days or hours, such as 30d or 12h, from 1h to {MAX_RETENTION_DAYS}d")
