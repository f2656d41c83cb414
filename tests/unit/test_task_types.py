"""A decorated task keeps its own type: mypy finds wrong arguments, of `run_task` too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# `# wrong: CODE` marks a line in which mypy must find an error of that code, and no other line may
# have one.
CALLS = """
from typing import assert_type

from pydantic import BaseModel

from backend.task import Run, task
from backend.testing import run_task


class Image(BaseModel):
    width: int


class Thumbnail(BaseModel):
    size: int


@task(name="thumbnail")
def thumbnail(args: Image, run: Run) -> Thumbnail:
    return Thumbnail(size=args.width)


@task(name="resize", run="acme.resizing:resize")
def resize(args: Image, run: Run) -> Image:
    raise NotImplementedError


@task(name="fetch")
async def fetch(args: Image, run: Run) -> Thumbnail:
    return Thumbnail(size=args.width)


def calls(image: Image, run: Run) -> None:
    assert_type(run_task(fetch, image).value, Thumbnail)
    run.submit(fetch, image)
    run.submit(fetch, Thumbnail(size=1))  # wrong: arg-type
    assert_type(thumbnail(image, run), Thumbnail)
    assert_type(resize(args=image, run=run), Image)
    assert_type(run_task(thumbnail, image, attempt=2).value, Thumbnail)
    run_task(thumbnail, Thumbnail(size=1))  # wrong: arg-type
    run_task(resize, image).value.size  # wrong: attr-defined
    thumbnail(run, run)  # wrong: arg-type
    thumbnail(image)  # wrong: call-arg
    resize(image, run).size  # wrong: attr-defined
    reveal_type(thumbnail)
"""


@pytest.mark.timeout(300)  # without a cache mypy also checks all that the code imports
def test_a_type_checker_sees_a_tasks_own_parameters_and_value(tmp_path: Path) -> None:
    file = tmp_path / "calls.py"
    file.write_text(CALLS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(file)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    found = re.findall(r"calls\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    lines = enumerate(CALLS.splitlines(), start=1)
    wrong = [(str(n), line.split()[-1]) for n, line in lines if "# wrong: " in line]
    assert found == wrong, done.stdout + done.stderr
    assert '"def (args: calls.Image, run: backend.task.Run) -> calls.Thumbnail"' in done.stdout
