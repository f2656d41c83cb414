"""Copies of the compared code: they have no `.env`, and later edits do not change them."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class NotComparable(Exception):
    """A commit that does not exist or does not run here; the message is one line."""


def check_out(commit: str, folder: Path) -> None:
    """Put the service's code of a commit into a folder. Raises NotComparable."""
    command = ["git", "archive", commit, "backend"]
    try:
        archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        raise NotComparable("git is not installed") from None
    if archive.returncode:
        raise NotComparable(f"{commit} is no commit here with the service's code")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        # The filter refuses members outside of the folder. Python has it from 3.11.4 on.
        files.extraction_filter = getattr(tarfile, "data_filter", None)
        files.extractall(folder)


def copy_working_tree(folder: Path) -> None:
    """Copy the service's current code, with changes that are not committed, into a folder."""
    ignore = shutil.ignore_patterns("__pycache__", ".env*")
    shutil.copytree(ROOT / "backend", folder / "backend", ignore=ignore)


@contextmanager
def needing_packages(commit: str) -> Iterator[None]:
    """Raise NotComparable if a process ends because a package is not installed."""
    try:
        yield
    except RuntimeError as error:  # from Processes; its text has the end of the log
        missing = re.search(r"No module named '([\w.]+)'", str(error))
        if missing is None:
            raise
        raise NotComparable(f"{commit} needs {missing[1]}, which .venv does not have") from None
