"""Check that no Python file and no function is too long.

A file has up to 300 lines, a function up to 40, from its `def` to its last line.
"""

# ruff: noqa: INP001 - a script

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_LINES = 300
FUNCTION_LINES = 40

# Folders and files that may be longer, each with the reason.
EXCEPTIONS = {
    "backend/db/migrations/": "a revision says in one function what it does, and stays as it was",
}


def tracked(root: Path) -> list[Path]:
    """Return the Python files that git tracks; without git, those outside of hidden folders."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.py"],  # noqa: S607 - wherever git is installed
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [root / name for name in listed.stdout.split("\0") if name]
        return [path for path in paths if path.exists()]
    paths = [path.relative_to(root) for path in sorted(root.rglob("*.py"))]
    return [root / path for path in paths if not any(part[0] == "." for part in path.parts)]


def too_long(text: str) -> Iterator[tuple[int, str]]:
    """Yield what is too long in a file: the number of the line, and a message."""
    if (lines := len(text.splitlines())) > FILE_LINES:
        yield 1, f"the file has {lines} lines, more than {FILE_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines, more than {FUNCTION_LINES}"


def offenders(root: Path) -> Iterator[str]:
    """Yield `path:line: message` for all that is too long in a project, except EXCEPTIONS."""
    for path in tracked(root):
        name = path.relative_to(root).as_posix()
        if not name.startswith(tuple(EXCEPTIONS)):
            for line, message in too_long(path.read_text()):
                yield f"{name}:{line}: {message}"


if __name__ == "__main__":
    found = list(offenders(Path()))
    print(*found, sep="\n", end="\n" if found else "")  # noqa: T201 - its result
    sys.exit(bool(found))
