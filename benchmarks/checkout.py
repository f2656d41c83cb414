"""The code that is compared, in folders of its own: no `.env`, and nobody edits it meanwhile."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from benchmarks.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path


class NotComparable(Exception):
    """A commit that does not exist or does not run here; the message is one line."""


def check_out(commit: str, folder: Path) -> None:
    """Put the service's code of a commit into a folder. Raises NotComparable."""
    command = ["git", "archive", commit, "backend", "pyproject.toml"]
    try:
        archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    except FileNotFoundError:
        raise NotComparable("git is not installed") from None
    if archive.returncode:
        raise NotComparable(f"{commit} is no commit here with the service's code")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    if missing := unmet((folder / "pyproject.toml").read_text()):
        raise NotComparable(f"{commit} needs packages that .venv lacks: {', '.join(missing)}")


def copy_working_tree(folder: Path) -> None:
    """Put the service's code as it is now, changes without a commit too, into a folder."""
    ignore = shutil.ignore_patterns("__pycache__", ".env*")
    shutil.copytree(ROOT / "backend", folder / "backend", ignore=ignore)


def unmet(pyproject: str) -> list[str]:
    """Return the dependencies in the text of a pyproject.toml that are not installed here."""
    dependencies = tomllib.loads(pyproject)["project"]["dependencies"]
    return [text for text in dependencies if not _is_met(Requirement(text))]


def _is_met(requirement: Requirement) -> bool:
    if requirement.marker and not requirement.marker.evaluate():
        return True
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
