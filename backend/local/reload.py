"""Notices changes of Python files, for `tasks-api up --reload`."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOOK_SECONDS = 0.2


class Changes:
    """The Python files of packages, with their subpackages, and of single modules."""

    def __init__(self, names: set[str]) -> None:
        """Take note of the files; `names`: of packages and modules of the top level."""
        self._names = names
        self._seen = self._times()
        self._look_at = time.monotonic() + LOOK_SECONDS

    def next(self) -> Path | None:
        """Return a file that was changed, added or removed since the last look; else None.

        Looks every LOOK_SECONDS, however often it is called.
        """
        if time.monotonic() < self._look_at:
            return None
        before, self._seen = self._seen, self._times()
        self._look_at = time.monotonic() + LOOK_SECONDS
        differing = set(before.items()) ^ set(self._seen.items())
        return min((file for file, _ in differing), default=None)

    def _times(self) -> Mapping[Path, int]:
        """Return when each file was changed last, in nanoseconds."""
        times = {}
        for file in self._files():
            try:
                times[file] = file.stat().st_mtime_ns
            except FileNotFoundError:  # removed in the meantime
                continue
        return times

    def _files(self) -> Iterator[Path]:
        for name in self._names:
            found = importlib.util.find_spec(name)
            if found is None:
                continue
            if found.origin:
                yield Path(found.origin)
            for folder in found.submodule_search_locations or ():
                yield from Path(folder).rglob("*.py")
