"""Outages of a server that a process needs: one line for each reason, one when it is over.

Several threads of a process use the same server. The first one that meets the outage logs it.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

# The pause before the next try, and the longest pause if only an operator can end the outage.
RETRY_SECONDS = 1.0
LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class Reason:
    """Why a server does not serve: `line` is logged, once for each `kind` in an outage.

    `needs_operator`: only a person can end the outage, so the pauses grow. `recovery_seconds`: a
    success ends the outage only after this time without such a failure. 0: the first success ends
    it. Above 0: for a server that still serves some requests.
    """

    kind: str
    line: str
    needs_operator: bool = False
    recovery_seconds: float = 0.0


class Rule(NamedTuple):
    """What an error means if `cls` names its class or a base, and `pattern` is found in its text.

    `cls` is a name, because the library of a broker that is not used is not loaded.
    """

    pattern: str
    kind: str
    advice: str
    needs_operator: bool = False
    recovery_seconds: float = 0.0
    cls: str = "BaseException"


def first_rule(rules: Sequence[Rule], error: BaseException, text: str) -> Rule:
    """Return the first rule that fits an error with this text; the last one has to fit any."""
    classes = {cls.__name__ for cls in type(error).__mro__}
    return next(rule for rule in rules if rule.cls in classes and re.search(rule.pattern, text))


class Outage:
    """What this process knows of a server that does not serve; may be used by several threads.

    A part of the process that uses the server reports each failure and, while `failing`, each
    success. The outage is over when every part that has failed has succeeded again.
    """

    def __init__(self, recovered_line: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without an outage. `recovered_line` is logged when one is over."""
        self._recovered_line = recovered_line
        self._clock = clock
        self._forget()
        # A child of a worker begins without its parent's outages, and with a new lock.
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        # By part: the reason of its last failure, and when that was.
        self._failures: dict[str, tuple[Reason, float]] = {}
        # By kind: when this outage first had it.
        self._since: dict[str, float] = {}

    @property
    def failing(self) -> bool:
        """Return whether a part has failed and not yet succeeded."""
        return bool(self._failures)

    def failed(self, reason: Reason, part: str = "") -> float:
        """Record a failure, and log its reason if it is new; return the seconds to pause.

        The pause is 1 s. If the reason needs an operator, the pause is as long as the reason has
        lasted, up to 30 s.
        """
        with self._lock:
            now = self._clock()
            new = reason.kind not in self._since
            since = self._since.setdefault(reason.kind, now)
            self._failures[part] = reason, now
        if new:
            logger.warning("%s", reason.line)
        if reason.needs_operator:
            return min(max(now - since, RETRY_SECONDS), LONGEST_PAUSE)
        return RETRY_SECONDS

    def succeeded(self, part: str = "") -> None:
        """Record a success, and log the end of the outage if every part has succeeded."""
        with self._lock:
            if part not in self._failures:
                return
            reason, failed_at = self._failures[part]
            if self._clock() - failed_at < reason.recovery_seconds:
                return
            del self._failures[part]
            over = not self._failures
            if over:
                self._since.clear()
        if over:
            logger.info("%s", self._recovered_line)
