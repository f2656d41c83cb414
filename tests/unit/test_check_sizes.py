"""The check of sizes in `make lint`: what it reports, and what it ignores."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def function(lines: int, indent: str = "") -> str:
    return f"{indent}def long():\n" + f"{indent}    pass\n" * (lines - 1)


def check(folder: Path, name: str, text: str) -> tuple[int, str]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, ROOT / "deploy" / "check_sizes.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = 1\n" * 300, ""),
        ("a = 1\n" * 301, "1: the file has 301 lines, more than 300\n"),
        (function(40), ""),
        ("\n" + function(41), "2: long has 41 lines, more than 40\n"),
        ("class It:\n" + function(41, "    "), "2: long has 41 lines, more than 40\n"),
        ("@it\nasync " + function(41), "2: long has 41 lines, more than 40\n"),
    ],
)
def test_a_file_or_function_that_is_too_long_is_reported_with_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    expected = (1, f"part/it.py:{said}") if said else (0, "")
    assert check(tmp_path, "part/it.py", text) == expected


def test_revisions_and_untracked_files_are_not_checked(tmp_path: Path) -> None:
    assert check(tmp_path, "backend/db/migrations/versions/0001.py", function(99)) == (0, "")
    assert check(tmp_path, ".venv/it.py", function(99)) == (0, "")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert check(tmp_path, "it.py", function(99)) == (0, "")
    subprocess.run(["git", "-C", tmp_path, "add", "it.py"], check=True)
    assert check(tmp_path, "it.py", function(99)) == (
        1,
        "it.py:1: long has 99 lines, more than 40\n",
    )
