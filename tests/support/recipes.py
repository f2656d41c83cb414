"""The examples in the documents that developers copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import documents

if TYPE_CHECKING:
    from tests.support.documents import Block


def _task(name: str) -> Block:
    declared = f'@task(name="{name}"'
    (found,) = (block for block in documents.blocks("python") if declared in block.text)
    return found


def first_task() -> Block:
    """Return the task that README shows, which tests/unit/test_task_modules.py runs."""
    return _task("count_words")


def example_task() -> Block:
    return _task("word_count")


def example_call() -> Block:
    """Return the task that calls another service."""
    return _task("check_link")


def example_submission() -> Block:
    """Return the task that submits the example task."""
    return _task("greet")


def example_application() -> Block:
    """Return the application that submits a task in its own transaction."""
    (found,) = (block for block in documents.blocks("python") if "backend.submit" in block.text)
    return found


def example_test() -> Block:
    """Return the test of the example task, which tests/integration runs."""
    (found,) = (block for block in documents.blocks("python") if "run_task(" in block.text)
    return found


def example_rename() -> Block:
    """Return the model with a renamed argument, which tests/integration uses."""
    (found,) = (block for block in documents.blocks("python") if "AliasChoices" in block.text)
    return found


def example_migration() -> Block:
    (found,) = (block for block in documents.blocks("python") if "def upgrade" in block.text)
    return found


def example_models() -> Block:
    (found,) = (block for block in documents.blocks("python") if "(Base)" in block.text)
    return found


def example_index() -> Block:
    """Return the recipe for a large index, which tests/integration/test_migrate_index.py runs."""
    (found,) = (block for block in documents.blocks("python") if "autocommit_block" in block.text)
    return found
