"""Finds the tasks: imports the modules in TASK_MODULES, which declare them."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from backend.db.records import SHORT_TASKS, TASKS
from backend.errors import RegistrationError
from backend.settings import read
from backend.task import declared_tasks
from backend.task_checks import cannot_import

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

    from backend.task import Task


@cache
def registered() -> Mapping[str, Task]:
    """Return every task by each of its names. Raises RegistrationError.

    Imports the modules that TASK_MODULES names, and every module of those that are packages.
    """
    for name in read().task_modules.split(","):
        for module in _modules_in(_import(name.strip())):
            _import(module)
    return dict(sorted(declared_tasks.items()))


def _modules_in(module: ModuleType) -> Iterator[str]:
    """Yield the full names of the modules in a package, without packages inside of it.

    A module that is not a package has none.
    """
    for found in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{module.__name__}."):
        if not found.name.endswith(".__main__"):
            yield found.name


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except RegistrationError:
        raise
    except (Exception, SystemExit) as error:
        raise cannot_import(name, error) from error


def import_functions() -> None:
    """Import the functions that tasks name as `run`, for a worker. Raises RegistrationError.

    A worker that started without them would fail each attempt of these tasks.
    """
    for task in registered().values():
        _ = task.function


def queue_names() -> list[str]:
    """Return the names of all queues, without QUEUE_PREFIX: first those that are always there."""
    declared = {task.queue for task in registered().values()}
    return [TASKS, SHORT_TASKS, *sorted(declared - {TASKS, SHORT_TASKS})]


def names() -> str:
    """Return the names of all tasks, in order, with commas between them, for messages."""
    return ", ".join(sorted({task.name for task in registered().values()}))
