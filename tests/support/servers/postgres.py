"""PostgreSQL, and a pooler in front of it."""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from backend.local import programs as embedded
from tests.support.clock import Clock

from .processes import Missing, clean_environment, find_program, identity, port_answers
from .server import Server


class Postgres(Server):
    """A PostgreSQL cluster with durable commits; everyone may log in as `postgres`.

    `settings` are added to its configuration ({"fsync": "off"}). The programs are
    Debian's, or else those of the embedded server. If the tests run as root, it runs as
    another user. `clock`: `step_clock` can set its clock; this needs gcc, and without gcc
    it raises Missing.
    """

    _end = signal.SIGQUIT  # after SIGKILL it would leave a System V segment

    def __init__(self, settings: Mapping[str, str] | None = None, *, clock: bool = False) -> None:
        homes = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"),
            key=lambda home: float(home.parent.name),
            reverse=True,
        )
        compiler = find_program("gcc", "gcc") if clock else None
        self._run_by: list[str] = []
        user = "postgres" if os.geteuid() == 0 else None
        try:
            programs = find_program("postgres", "postgresql", *homes).parent
        except Missing:
            programs, self._run_by = embedded.Postgres.programs()
            user = None
        self._initdb, self._postgres = programs / "initdb", programs / "postgres"
        super().__init__("postgres", user)
        if self._run_by:
            shutil.chown(self.directory, "nobody")
        self._clock = Clock(self.directory, compiler) if compiler else None
        self._data = self.directory / "data"
        self._settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "max_connections": "200",
            **(settings or {}),
        }

    def start(self) -> None:
        """See `Server`. The first start creates the cluster, which takes longer."""
        if not self._data.exists():
            made = subprocess.run(
                [*self._run_by, self._initdb, "-D", self._data, "-U", "postgres", "-A", "trust",
                 "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"],
                env=clean_environment(self.directory),
                cwd=self.directory,
                capture_output=True,
                check=False,
                text=True,
                **identity(self._user),
            )  # fmt: skip
            if made.returncode:
                raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
        super().start()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it; "immediate" is like a power failure. Its databases are kept.

        Both close all connections. Does nothing if it does not run.
        """
        self._stop(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Do `stop(mode)` and `start()`."""
        self.stop(mode)
        self.start()

    def demote(self) -> None:
        """Restart it as a standby without a primary: it answers reads and refuses writes."""
        self.stop()
        (self._data / "standby.signal").touch()
        self.start()

    def promote(self) -> None:
        """Accept writes again after `demote()`; connections stay open. Otherwise do nothing."""
        if (self._data / "standby.signal").exists():
            self.start()
            self._execute("SELECT pg_promote(true, 30)")

    def step_clock(self, seconds: float) -> None:
        """Set the server's clock `seconds` ahead of the machine's (negative: behind), at once."""
        assert self._clock is not None
        self._clock.set(seconds)

    @property
    def url(self) -> str:
        """Return SQLAlchemy's URL of the database `postgres`."""
        return self._url("postgres")

    def create_database(self) -> str:
        """Make an empty database with a random name and return its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute(f"CREATE DATABASE {name}")
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/{database}"

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        command: list[str | Path] = [*self._run_by, self._postgres]
        command += ["-D", self._data, *settings]
        return command, self._clock.environment if self._clock else {}

    def _ready(self) -> bool:
        try:
            self._execute("SELECT 1")
        except sa.exc.OperationalError:
            return False
        return True

    def _execute(self, sql: str) -> None:
        engine = sa.create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            poolclass=sa.NullPool,
            connect_args={"connect_timeout": 10},
        )
        with engine.connect() as connection:
            connection.execute(sa.text(sql))


class PgBouncer(Server):
    """A pooler in transaction mode in front of a PostgreSQL of the tests.

    `settings` are added to its configuration. Raises Missing if its program is not installed.
    """

    def __init__(self, postgres: Postgres, settings: Mapping[str, str] | None = None) -> None:
        self._program = find_program("pgbouncer", "pgbouncer", Path("/usr/sbin"))
        # As root it refuses to run.
        super().__init__("pgbouncer", "postgres" if os.geteuid() == 0 else None)
        self._postgres_port = postgres.port
        self._configuration = self.directory / "pgbouncer.ini"
        self._users = self.directory / "users.txt"
        self.allow("postgres")
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(self._users),
            "pool_mode": "transaction",
            "max_client_conn": "500",
            "server_login_retry": "1",
            **(settings or {}),
        }
        self._configuration.write_text(
            f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )

    def allow(self, role: str) -> None:
        """Let a role log in, from the next start on."""
        with self._users.open("a") as users:
            users.write(f'"{role}" ""\n')

    def through(self, url: str) -> str:
        """Return the URL of a database through this pooler."""
        return url.replace(f":{self._postgres_port}/", f":{self.port}/")

    def stop(self) -> None:
        """Kill it (SIGKILL) with all its connections."""
        self._stop(signal.SIGKILL)

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        return [self._program, self._configuration], {}

    def _ready(self) -> bool:
        return port_answers(self.port, b"")
