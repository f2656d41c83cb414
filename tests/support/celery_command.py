"""The command `celery -A backend`, run with the settings of a stack."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.stack import ROOT

if TYPE_CHECKING:
    from tests.support.stack import Stack


def celery_command(stack: Stack, *arguments: str) -> str:
    """Return the output of `celery -A backend …`. Raises AssertionError if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "backend", *arguments],
        cwd=ROOT,
        env=stack.settings(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
