"""The recipe of CONTRIBUTING.md for a schema change passes `make lint` in a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support import documents
from tests.support.recipes import example_migration, example_models
from tests.support.stack import ROOT

if TYPE_CHECKING:
    from pathlib import Path

ERROR = "    error: Mapped[str | None] = mapped_column("


def run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def change_models(models: Path) -> None:
    column, _, table = example_models().text.partition("\n\n\n")
    text = models.read_text()
    before, found, after = text.partition(ERROR)
    assert found
    note = column.removeprefix("class Task(Base):\n")
    models.write_text(f"{before}{note}\n{found}{after}\n\n{table}")


def fill_in(revision: Path) -> None:
    head, _, _ = revision.read_text().partition("\n\ndef upgrade")
    imports, found, functions = example_migration().text.partition("\n\ndef upgrade")
    assert found
    assert imports.strip() in head
    revision.write_text(f"{head}{found}{functions}")


def test_the_recipe_for_a_schema_change_passes_make_lint(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__", ".env")
    for name in ("backend", "benchmarks", "deploy", "examples", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", *documents.NAMES):
        shutil.copy(ROOT / name, folder)
    if (ROOT / ".mypy_cache").exists():  # its content is checked elsewhere
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
    change_models(folder / "backend" / "db" / "models.py")
    (make,) = (block for block in documents.blocks("bash") if "command.revision" in block.text)
    run(folder, "bash", "-c", make.text.replace(".venv/bin/python", sys.executable))
    revision = folder / "backend" / "db" / "migrations" / "versions" / "0042_add_a_note.py"
    fill_in(revision)
    models = "backend/db/models.py"
    for check in (
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "."],
        ["mypy", "--config-file", "pyproject.toml", models, str(revision.relative_to(folder))],
        ["tests.support.migrations_in_step"],
    ):
        run(folder, sys.executable, "-m", *check)
