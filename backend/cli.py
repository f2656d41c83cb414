"""The `tasks-api` command: each process of the service, and all of them together."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import sys
import threading
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from backend.client.commands import COMMANDS
from backend.errors import CannotRun, RegistrationError, StoreUnavailable
from backend.local import lifetime
from backend.ports import refuse_taken
from backend.settings import SettingsError, read, settings
from backend.telemetry.logs import print_any_text, set_up_logging
from backend.telemetry.terminal import Output

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fastapi import FastAPI

    from backend.local.programs import Server
    from backend.maintenance.reconciler import Reconciler
    from backend.relay.relay import Relay

logger = logging.getLogger("system")


def main() -> None:
    """Run the command; exit with one line for an invalid setting or another known error."""
    print_any_text()
    lifetime.end_with_up()
    try:
        commands()
    except (SettingsError, CannotRun, RegistrationError) as error:
        sys.exit(f"tasks-api: {error}")


@click.group(name="tasks-api", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tasks-api", message="%(prog)s %(version)s")
def commands() -> None:
    """Tasks API: an HTTP task service whose 202 is final.

    Settings come from the environment, else .env, else backend/.env; see .env.example.
    """
    read()


for _command in COMMANDS:
    commands.add_command(_command)


@commands.command()
@click.option("--reload", is_flag=True, help="Restart API and worker when a Python file changes.")
def up(*, reload: bool) -> None:
    """Run the whole stack in the foreground: API with its relay, worker and Flower.

    If DATABASE_URL or CELERY_BROKER_URL is not set, it also runs PostgreSQL or Valkey, which the
    other commands then use. They keep their data in DATA_DIR.
    """
    from backend.db.migrate import upgrade_when_available
    from backend.local.supervisor import run, stop_signals
    from backend.registry import registered

    for number in stop_signals():
        signal.signal(number, signal.default_int_handler)
    found = read()
    output = Output()
    set_up_logging(found.log_level, stream=output)
    registered()  # a task that is declared wrongly is reported before anything starts
    with lifetime.exclusive_data_dir(found.data_dir) as killed:
        # Processes of a killed `up` may still be stopping.
        patience = 10.0 if killed else 0.0
        refuse_taken(found.api_host, found.api_port, "API_PORT", patience)
        refuse_taken(found.api_host, found.flower_port, "FLOWER_PORT", patience)
        with lifetime.servers(found) as (servers, inherited_fds):
            upgrade_when_available(lambda: _restart_ended(servers))
            code = run(output, servers, inherited_fds, reload=reload)
    sys.exit(code)


def _restart_ended(servers: Sequence[Server]) -> None:
    """Restart embedded servers that have ended."""
    for server in servers:
        server.check()


@commands.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(*, yes: bool) -> None:
    """Delete what the embedded servers keep in DATA_DIR: every task and message."""
    folder = read().data_dir
    if not (yes or sys.stdin.isatty()):
        raise CannotRun("reset deletes every task and message: add --yes (make reset ARGS=--yes)")
    with lifetime.exclusive_data_dir(folder):
        if not yes:
            what = f"Delete every task and message that the embedded servers keep in {folder}?"
            click.confirm(what, abort=True)
        lifetime.remove_data(folder)
    click.echo(f"Removed what the embedded servers kept in {folder}.")


@commands.command()
@click.option("--no-relay", is_flag=True, help="Leave publishing to `tasks-api relay`.")
def api(*, no_relay: bool) -> None:
    """Serve the HTTP API, with a relay in each of its processes."""
    import uvicorn

    refuse_taken(settings().api_host, settings().api_port, "API_PORT")
    # After a clean stop uvicorn raises the signal again that made it stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    uvicorn.run(
        "backend.api.app:create_app" if no_relay else "backend.cli:create_app_with_relay",
        factory=True,
        host=settings().api_host,
        port=settings().api_port,
        workers=settings().api_workers,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=settings().keep_alive_seconds,
        http="backend.api.protocol:HttpConnection",
        proxy_headers=False,  # api/forwarded.py reads them; uvicorn's default trusts this machine
    )


def create_app_with_relay() -> FastAPI:
    """Return the API's application with a relay beside it, for uvicorn."""
    from backend.api.app import create_app
    from backend.maintenance.reconciler import Reconciler
    from backend.relay.relay import Relay

    app = create_app()
    serve = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(running: FastAPI) -> AsyncIterator[Any]:
        async with serve(running) as state:
            relay, reconciler = Relay(), Reconciler()
            running.state.services.relay_blocked = lambda: relay.blocked
            running.state.services.beside = (relay, reconciler)
            relay.start()
            reconciler.start()
            yield state

    app.router.lifespan_context = lifespan
    return app


@commands.command()
@click.option("--queues", metavar="NAMES", help="Instead of the setting WORKER_QUEUES.")
@click.option("--pool", metavar="KIND", help="Instead of WORKER_POOL: processes or threads.")
@click.option("--concurrency", metavar="N", help="Instead of the setting WORKER_CONCURRENCY.")
@click.option("--name", default="tasks", help="The beginning of its name in Flower and logs.")
def worker(*, queues: str | None, pool: str | None, concurrency: str | None, name: str) -> None:
    """Execute tasks, WORKER_CONCURRENCY at a time."""
    given = {
        "WORKER_QUEUES": queues,
        "WORKER_POOL": pool,
        "WORKER_CONCURRENCY": concurrency,
    }
    os.environ.update({setting: value for setting, value in given.items() if value})
    from celery.platforms import SecurityWarning  # type: ignore[attr-defined]  # not in the stubs
    from celery.utils.nodenames import gethostname, nodename

    from backend.registry import import_functions
    from backend.worker.parent import subprocesses

    subprocesses.start_cleaner()  # before Celery starts its threads
    set_up_logging(settings().log_level, "worker")  # before the lease's thread logs
    import_functions()
    from backend.broker.app import app

    # Celery's warning against root is about pickle, which we do not accept.
    warnings.simplefilter("ignore", SecurityWarning)
    # As `celery worker` does it, without importing Celery's other commands (13 MiB).
    running = app.Worker(
        # A random name: a restarted worker must not renew the lease of the one before. Process ids
        # are not unique: in a container they are the same at every start.
        hostname=nodename(f"{name}-{secrets.token_hex(3)}", gethostname()),
        without_gossip=True,
        without_mingle=True,
        loglevel=settings().log_level,
        quiet=True,
    )
    running.start()
    sys.exit(running.exitcode)


@commands.command()
def relay() -> None:
    """Publish accepted tasks, and publish again those that the broker has lost."""
    from backend.maintenance.reconciler import Reconciler
    from backend.registry import registered
    from backend.relay.relay import Relay

    set_up_logging(settings().log_level, "relay")
    registered()  # an error in a module of tasks ends the process now, not at the first task
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    relay, reconciler = Relay(), Reconciler()
    relay.start()
    reconciler.start()
    stopping.wait()
    asyncio.run(_close(relay, reconciler))


async def _close(*threads: Relay | Reconciler) -> None:
    """Stop them at the same time."""
    await asyncio.gather(*(asyncio.to_thread(each.close) for each in threads))


@commands.command()
def flower() -> None:
    """Serve Flower, the page to watch workers and tasks."""
    from celery.bin.celery import celery

    from backend.broker.app import app
    from backend.broker.queues import queue
    from backend.flower import install
    from backend.registry import queue_names

    install()
    # For Flower's broker page, until workers have reported their queues.
    app.conf.task_queues = [queue(name) for name in queue_names()]
    refuse_taken(settings().api_host, settings().flower_port, "FLOWER_PORT")
    # Flower reads these variables too, and fails on empty ones.
    for name in ("FLOWER_PORT", "FLOWER_BASIC_AUTH", "FLOWER_URL_PREFIX"):
        os.environ.pop(name, None)
    options = [f"--port={settings().flower_port}", f"--address={settings().api_host}"]
    set_up_logging(settings().log_level, "flower")
    options += ["--purge_offline_workers=300", "--natural_time=False", "--logging=none"]
    if settings().flower_basic_auth:
        options.append(f"--basic_auth={settings().flower_basic_auth}")
    if settings().flower_url_prefix:
        options.append(f"--url_prefix={settings().flower_url_prefix}")
    # As `app.start` does it; that would drop the command's exit code.
    celery.params[0].default = app
    sys.exit(celery.main(args=["flower", *options], standalone_mode=False))


@commands.command()
def migrate() -> None:
    """Bring the database's schema up to date; safe to run several times at once."""
    from backend.db.migrate import upgrade_when_available

    set_up_logging(settings().log_level)
    upgrade_when_available()


@commands.command()
@click.option("--older-than", required=True, metavar="AGE", help="Days or hours: 30d, 12h.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
def prune(*, older_than: str, dry_run: bool) -> None:
    """Delete the tasks that ended longer than AGE ago, once; their messages stay.

    With RETENTION_DAYS the service does so all the time.
    """
    from backend.db.purge import Progress
    from backend.maintenance.purge import parse_age, purge_once

    try:
        age = parse_age(older_than)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--older-than") from None
    set_up_logging(settings().log_level)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    progress, why = Progress(), "Stopped before the end; run it again for the rest."
    try:
        for progress in purge_once(age, stopping, dry_run=dry_run):  # noqa: B007 - the last counts
            pass
    except StoreUnavailable as error:
        why = str(error)
    click.echo(f"tasks {'to delete' if dry_run else 'deleted'}: {progress.tasks}")
    if progress.page is not None:
        sys.exit(f"tasks-api: {why}")
