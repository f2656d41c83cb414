"""`make` sets up the environment: its output, and its check for outdated lock files.

It runs in a small project with packages built here, so no package index is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = """
[build-system]
requires = []
build-backend = "build_it"
backend-path = ["."]

[project]
name = "tasks-api"
version = "1.0"
dependencies = ["thing>=1"]

[project.optional-dependencies]
embedded = []
dev = []
bench = []

[dependency-groups]
build = []
"""
BUILD = """
import os, zipfile

SHOWN = '''
import json, os, sys
def main():
    same = os.environ["TASKS_API_PARENT"] == str(os.getppid())
    print(json.dumps({"event": sys.argv[1:], "run by make": same}))
'''

def wheel(folder, name, files):
    info = f"{name}-1.0.dist-info"
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    file = f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, file), "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return file

def build_editable(folder, config_settings=None, metadata_directory=None):
    return wheel(folder, "tasks_api", {
        "shown.py": SHOWN,
        "tasks_api-1.0.dist-info/entry_points.txt":
            "[console_scripts]\\ntasks-api = shown:main\\n",
    })
"""


class Small:
    """A project with one dependency, set up by our Makefile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "deploy/check_locks.py", "deploy/environment.sh"):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        (folder / "pyproject.toml").write_text(PROJECT)
        (folder / "build_it.py").write_text(BUILD)
        scope: dict[str, object] = {}
        exec(BUILD, scope)  # this code is our own
        wheel = scope["wheel"]
        assert callable(wheel)
        digest = hashlib.sha256((folder / wheel(folder, "thing", {})).read_bytes()).hexdigest()
        (folder / "requirements").mkdir()
        for kind in ("run", "embedded", "dev", "bench"):
            lock = folder / f"requirements/{kind}.txt"
            lock.write_text(f"thing==1.0 \\\n    --hash=sha256:{digest}\n")

    def make(self, target: str, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
        # Without the variables that a make which runs these tests sets for its children.
        theirs = ("PIP_", "MAKE", "MFLAGS", "ARGS")
        known = {name: os.environ[name] for name in os.environ if not name.startswith(theirs)}
        return subprocess.run(
            ["make", target],
            cwd=self.folder,
            env={**known, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


def test_makes_own_messages_go_to_stderr(small: Small) -> None:
    first = small.make("run")
    assert json.loads(first.stdout) == {"event": ["up"], "run by make": True}
    making, installing = first.stderr.splitlines()
    assert re.fullmatch(r"Making \.venv with Python 3\.\d+\.\d+ \.\.\.", making)
    assert installing.startswith("Installing 1 packages, which may take a minute")
    second = small.make("run")
    assert (second.stdout, second.stderr) == (first.stdout, "")


def test_a_terminal_shows_the_progress_of_installation(small: Small) -> None:
    lock = small.folder / "requirements/embedded.txt"
    lock.write_text(f"{lock.read_text()}# changed\n")
    ours, theirs = pty.openpty()
    try:
        assert small.make("run", stderr=theirs).returncode == 0
        shown = os.read(ours, 100_000).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert re.search(r"\r  \d of 1 fetched, \d installed ", shown)
    assert shown.endswith("\r\x1b[K")


@pytest.mark.parametrize("wanted", ["rich>=13", "thing==2"])
def test_outdated_lock_files_are_reported(small: Small, wanted: str) -> None:
    project = small.folder / "pyproject.toml"
    before = project.read_text()
    project.write_text(before.replace('["thing>=1"]', f'["thing>=1", "{wanted}"]'))
    try:
        for target in ("run", "test", "lint"):
            refused = small.make(target)
            assert (refused.returncode, refused.stdout) == (2, "")
            line, of_make = refused.stderr.splitlines()
            assert line.startswith(
                "The lock files are older than pyproject.toml: requirements/run.txt"
            )
            assert f" lack {wanted}. Run: make lock" in line
            assert of_make.startswith("make: ***")
    finally:
        project.write_text(before)


def test_the_lock_files_satisfy_the_project_file() -> None:
    done = subprocess.run(
        [sys.executable, "deploy/check_locks.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
