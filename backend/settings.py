"""Every setting of every process, read once: environment, else `.env`, else `backend/.env`.

The two files are put into the environment first, so a task finds its own settings there too.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import load_dotenv
from dotenv.parser import parse_stream
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend import setting_checks, urls
from backend.urls import InvalidSetting


class SettingsError(ValueError):
    """A setting is not valid; each line of the message names one and its valid values."""


ROOT = Path(__file__).resolve().parent.parent
# The first that sets a variable wins, and the environment wins over both.
ENV_FILES = (ROOT / ".env", ROOT / "backend" / ".env")

# In DATA_DIR: the lock of a running `tasks-api up`, and the addresses of its servers; see
# local/lifetime.py.
LOCK_FILE = "lock"
RUNNING_FILE = "running.json"

MAX_RETENTION_DAYS = 3650


Port = Annotated[int, BeforeValidator(setting_checks.not_set_by_kubernetes), Field(ge=1, le=65535)]
PathPrefix = Annotated[str, AfterValidator(setting_checks.path_prefix)]


class Settings(BaseSettings):
    """The settings: each is the environment variable of its name in capitals."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True, frozen=True)

    # Empty where embedded servers are wanted, until `up` has started them.
    database_url: Annotated[str, AfterValidator(urls.database)] = ""
    celery_broker_url: Annotated[str, AfterValidator(urls.broker)] = ""
    queue_prefix: Annotated[str, AfterValidator(setting_checks.queue_prefix)] = ""
    celery_result_backend: Annotated[str, AfterValidator(urls.results)] = "rpc://"
    api_host: Annotated[str, Field(min_length=1), AfterValidator(setting_checks.without_ipv6)] = (
        "127.0.0.1"
    )
    api_port: Port = 8060
    api_workers: int = Field(1, ge=1, le=64)
    keep_alive_seconds: int = Field(75, ge=1, le=3600)
    root_path: Annotated[PathPrefix, AfterValidator(setting_checks.unlike_own_paths)] = ""
    forwarded_allow_ips: Annotated[str, AfterValidator(setting_checks.networks)] = ""
    flower_port: Port = 5555
    # Flower splits the value at commas, and accepts each part as a login. It can compare only
    # ASCII.
    flower_basic_auth: str | None = Field(None, pattern=r"^[ -+\--9;-~]+:[ -+\--~]+$")
    flower_url_prefix: PathPrefix = ""
    worker_queues: Annotated[str, AfterValidator(setting_checks.worker_queues)] = (
        "tasks,short_tasks"
    )
    worker_pool: Literal["processes", "threads"] = "processes"
    worker_concurrency: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=1024)
    max_tasks_per_child: int | None = Field(None, ge=1, le=1_000_000_000)
    # MiB; Celery's own setting of this name is in KiB.
    max_memory_per_child: int | None = Field(None, ge=1, le=1_000_000)
    stop_seconds: int = Field(5, ge=0, le=86_400)
    data_dir: Annotated[Path, AfterValidator(lambda path: ROOT / path)] = Path(".data")
    max_waiting: int = Field(100_000, ge=1)
    idempotency_hours: int = Field(24, ge=1, le=8760)
    retention_days: int | None = Field(None, ge=1, le=MAX_RETENTION_DAYS)
    task_modules: Annotated[str, AfterValidator(setting_checks.task_modules)] = "backend.tasks"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @property
    def own_host(self) -> str:
        """Return the host name for addresses of the API and Flower on this machine."""
        if self.api_host in {"127.0.0.1", "0.0.0.0", "::", "::1"}:  # noqa: S104 - compared only
            return "localhost"
        return f"[{self.api_host}]" if ":" in self.api_host else self.api_host

    @property
    def queues(self) -> list[str]:
        """Return the names of the queues that a worker consumes, without QUEUE_PREFIX."""
        return self.worker_queues.split(",")

    @property
    def flower_path(self) -> str:
        """Return the path of Flower's first page. Flower needs the last slash after its prefix."""
        return f"{self.flower_url_prefix}/" if self.flower_url_prefix else ""


_MEANINGS = {
    "database_url": "a PostgreSQL address: postgresql+psycopg2://user:password@host:5432/database",
    "celery_broker_url": "a broker's address: amqp://user:password@host:5672// or redis://host:6379/0",
    "queue_prefix": (
        "up to 64 letters, digits, _, . and -, such as staging. (it must not begin with amq. or"
        " reply., or end with short_)"
    ),
    "celery_result_backend": "rpc:// or redis://host:6379/0",
    "api_host": "the address to listen on, such as 127.0.0.1",
    "api_port": "a port from 1 to 65535",
    "api_workers": "a whole number of processes from 1 to 64",
    "keep_alive_seconds": "how long an idle connection of the API stays open, from 1 to 3600 s",
    "root_path": "a path such as /jobs, of letters, digits and . _ ~ -, that does not begin with a"
    " path of the API such as /tasks",
    "forwarded_allow_ips": "addresses or networks of proxies such as 127.0.0.1,10.0.0.0/8, or *",
    "flower_port": "a port from 1 to 65535",
    "flower_basic_auth": "user:password, in ASCII letters, digits, spaces, signs except the comma",
    "flower_url_prefix": "a path such as /flower, of letters, digits and . _ ~ -",
    "worker_pool": "processes or threads",
    "worker_concurrency": "a whole number from 1 to 1024",
    "worker_queues": "names of queues, such as tasks,short_tasks",
    "max_tasks_per_child": "a whole number of tasks from 1, or empty for no limit",
    "max_memory_per_child": "a whole number of MiB from 1 to 1000000, or empty for no limit",
    "stop_seconds": "how long running tasks may go on when a worker stops, from 0 to 86400 s",
    "data_dir": "a folder for what embedded servers keep",
    "max_waiting": "how many tasks may wait before more are refused, a whole number from 1",
    "idempotency_hours": "how long an Idempotency-Key is remembered, from 1 to 8760 hours",
    "retention_days": "after how many days ended tasks are deleted, a whole number from 1 to"
    f" {MAX_RETENTION_DAYS}, or empty to keep them",
    "task_modules": "names of modules that declare tasks, such as backend.tasks,acme.tasks",
    "log_level": "DEBUG, INFO, WARNING or ERROR",
}


def read() -> Settings:
    """Return the settings as they are written, without addresses of embedded servers.

    Raises SettingsError for values that are not valid, with one line for each, and for a `.env`
    that cannot be read. The error never has the value: it may contain a password.
    """
    for file in ENV_FILES:
        _load_env_file(file)
    try:
        return Settings()
    except ValidationError as error:
        lines: dict[str, str] = {}
        for problem in error.errors():
            name = str(problem["loc"][0]).lower()
            lines.setdefault(name, f"{name.upper()} must be {_MEANINGS[name]}{_reason(problem)}")
        raise SettingsError("\n".join(lines.values())) from None


def _reason(problem: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    reason = problem.get("ctx", {}).get("error")
    return f"; {reason}" if isinstance(reason, InvalidSetting) else ""


def _load_env_file(file: Path) -> None:
    """Set the variables of a `.env` that the environment does not have, as compose does.

    Raises SettingsError for a file with a line that would be ignored or misread.
    """
    try:
        text = file.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):  # .env may be a virtual environment
        return
    except UnicodeDecodeError:
        text = "\0"
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    if "\0" in text:
        raise SettingsError(f"{file} is not UTF-8 text: save it in this encoding")
    for found in parse_stream(io.StringIO(text)):
        if found.error or (found.key and found.value is None):
            raise SettingsError(f"line {found.original.line} of {file} is not NAME=value")
    load_dotenv(stream=io.StringIO(text))


def database_url() -> str:
    """Return the address of the database. A test of a task needs it, and no broker.

    Raises SettingsError as `settings` does, unless the database is named.
    """
    return read().database_url or settings().database_url


@cache
def settings() -> Settings:
    """Return the settings of this process, with the addresses of a running `up`'s servers.

    Raises SettingsError as `read` does, and if a server is not named and no `up` runs.
    """
    found = read()
    names = [name for name in ("database_url", "celery_broker_url") if not getattr(found, name)]
    if not names:
        return found
    running = _running(found.data_dir)
    missing = [name.upper() for name in names if name not in running]
    if missing:
        raise SettingsError(
            f"set {' and '.join(missing)}, or start embedded servers with `tasks-api up` (make run)"
        )
    return found.model_copy(update={name: running[name] for name in names})


def _running(data_dir: Path) -> dict[str, str]:
    """Return where the embedded servers of a running `up` are; empty where none runs.

    Not for `up` itself: closing the lock file would free its lock.
    """
    try:
        with (data_dir / LOCK_FILE).open() as lock:
            fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        note = data_dir / RUNNING_FILE
        running: dict[str, str] = json.loads(note.read_text() or "{}") if note.exists() else {}
        return running
    except OSError:
        return {}
    return {}
