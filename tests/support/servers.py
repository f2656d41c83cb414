"""Private PostgreSQL, RabbitMQ and Redis servers for the tests.

Each has a directory and ports of its own, listens on 127.0.0.1 only, and leaves the
machine's own servers alone. None needs more than Debian's package of it, and
PostgreSQL not even that. All are gone, files included, after `close()`, at exit, and
when the tests are killed.
"""

import atexit
import contextlib
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self, TypedDict

import redis
import sqlalchemy as sa

from backend.local import programs as embedded

from .certificates import Certificate
from .clock import Clock
from .ports import free_port
from .waiting import eventually

__all__ = ["Missing", "PgBouncer", "Postgres", "RabbitMQ", "Redis", "free_port", "missing"]

# Seconds a server may take to start or to stop.
_PATIENCE = 60.0

# Ends its arguments' process group (2, with signal 1) and directory (3) when the
# tests' process is gone without having ended this one: its input ends then.
_HEIR = """
read -r _ && exit
kill -s "$1" -- "-$2"
sleep 1
kill -s KILL -- "-$2"
rm -rf "$3"
"""


class Missing(RuntimeError):
    """A program the tests need is not installed; the message says which package."""


class _Server:
    """One server process in a session of its own, and its directory."""

    # How to end it at once, without leaving anything behind in the system.
    _end = signal.SIGKILL

    def __init__(self, name: str, user: str | None = None) -> None:
        self.name = name
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"test-{name}-"))
        self._user = user
        if user is not None:
            shutil.chown(self.directory, user)
        self._process: subprocess.Popen[bytes] | None = None
        self._heirs: dict[int, subprocess.Popen[bytes]] = {}
        atexit.register(self.close)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start it on the state it has, and return when it serves.

        Does nothing if it runs. Raises RuntimeError with the end of its log if it
        ends instead, and AssertionError if it does not serve after a minute.
        """
        if not self.running:
            self._stop(signal.SIGKILL)  # what is left of one that ended by itself
            self._process = self._spawn(*self._command())
            eventually(self._started, _PATIENCE, f"{self.name} serves")

    def freeze(self) -> None:
        """Stop all its processes (SIGSTOP): it keeps its connections, in silence."""
        for pid in _tree(self._pid):
            _signal(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its processes go on after `freeze()`; else, or if it is down, do nothing."""
        if self.running:
            for pid in _tree(self._pid):
                _signal(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it for good and remove its files; idempotent."""
        atexit.unregister(self.close)
        self._stop(self._end)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def serves(self) -> bool:
        """Whether it runs and answers."""
        return self.running and self._ready()

    @property
    def log(self) -> str:
        """What it has logged since its first start."""
        return (self.directory / "log").read_text(errors="replace")

    @property
    def _pid(self) -> int:
        if self._process is None or not self.running:
            raise RuntimeError(f"{self.name} does not run")
        return self._process.pid

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        """Return the command that runs it in the foreground, and its environment."""
        raise NotImplementedError

    def _ready(self) -> bool:
        """Say whether it serves; does not wait."""
        raise NotImplementedError

    def _started(self) -> bool:
        if not self.running:
            raise RuntimeError(f"{self.name} ended:\n{self.log[-4000:]}")
        return self._ready()

    def _spawn(
        self, argv: Sequence[str | Path], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                env={**_environment(self.directory), **environment},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **_identity(self._user),
            )
        heir = ["sh", "-c", _HEIR, "heir", self._end.name.removeprefix("SIG")]
        self._heirs[process.pid] = subprocess.Popen(
            [*heir, str(process.pid), self.directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return process

    def _stop(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._end_process(self._process, how)
            self._process = None

    def _end_process(self, process: subprocess.Popen[bytes], how: signal.Signals) -> None:
        """End it with `how`, by SIGKILL with all it started, or if it takes a minute."""
        if process.poll() is None and how is not signal.SIGKILL:
            process.send_signal(how)
            for pid in _tree(process.pid):
                _signal(pid, signal.SIGCONT)  # it may be frozen
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
        if process.poll() is None:
            for pid in list(_tree(process.pid)):
                _signal(pid, signal.SIGKILL)
            process.wait()
        self._heirs.pop(process.pid).communicate(b"\n")


class Postgres(_Server):
    """A PostgreSQL cluster with durable commits, trusting everyone as `postgres`.

    `settings` are added to its configuration ({"fsync": "off"}). The programs are
    Debian's, else those of the embedded server. Run by root it runs as another user.
    `clock`: its clock can be set by `step_clock`, which needs gcc; raises Missing without.
    """

    _end = signal.SIGQUIT  # killed, it would leave a System V segment behind

    def __init__(self, settings: Mapping[str, str] | None = None, *, clock: bool = False) -> None:
        homes = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"),
            key=lambda home: float(home.parent.name),
            reverse=True,
        )
        compiler = _find("gcc", "gcc") if clock else None
        self._run_by: list[str] = []
        user = "postgres" if os.geteuid() == 0 else None
        try:
            programs = _find("postgres", "postgresql", *homes).parent
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
        """See `_Server`; the first time it makes the cluster, which takes longer."""
        if not self._data.exists():
            made = subprocess.run(
                [*self._run_by, self._initdb, "-D", self._data, "-U", "postgres", "-A", "trust",
                 "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"],
                env=_environment(self.directory),
                cwd=self.directory,
                capture_output=True,
                check=False,
                text=True,
                **_identity(self._user),
            )  # fmt: skip
            if made.returncode:
                raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
        super().start()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it, "immediate" as if the power failed; its databases stay.

        Either breaks all connections. Does nothing if it does not run.
        """
        self._stop(signal.SIGINT if mode == "fast" else signal.SIGQUIT)

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Do `stop(mode)` and `start()`."""
        self.stop(mode)
        self.start()

    def demote(self) -> None:
        """Restart it as a standby of nothing: it answers reads and refuses writes."""
        self.stop()
        (self._data / "standby.signal").touch()
        self.start()

    def promote(self) -> None:
        """Let it write again after `demote()`; its connections stay. Else do nothing."""
        if (self._data / "standby.signal").exists():
            self.start()
            self._execute("SELECT pg_promote(true, 30)")

    def step_clock(self, seconds: float) -> None:
        """Set the server's clock `seconds` ahead of the machine's (negative: behind), at once."""
        assert self._clock is not None
        self._clock.set(seconds)

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database `postgres`."""
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


class PgBouncer(_Server):
    """A pooler in transaction mode in front of a PostgreSQL of the tests.

    `settings` are added to its configuration. Raises Missing without its program.
    """

    def __init__(self, postgres: Postgres, settings: Mapping[str, str] | None = None) -> None:
        self._program = _find("pgbouncer", "pgbouncer", Path("/usr/sbin"))
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
        """Let a role in, from the next start on."""
        with self._users.open("a") as users:
            users.write(f'"{role}" ""\n')

    def through(self, url: str) -> str:
        """Return the URL of a database as it is reached through this pooler."""
        return url.replace(f":{self._postgres_port}/", f":{self.port}/")

    def stop(self) -> None:
        """Kill it (SIGKILL) with all its connections."""
        self._stop(signal.SIGKILL)

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        return [self._program, self._configuration], {}

    def _ready(self) -> bool:
        return _answers(self.port, b"")


class RabbitMQ(_Server):
    """A RabbitMQ node without plugins, with the user guest, on an epmd of its own.

    `consumer_timeout_ms`: how long a message may stay unacknowledged before its
    channel is closed (RabbitMQ's own default is 30 minutes); with it the node looks
    every second instead of every minute. Raises Missing without its programs.
    """

    def __init__(self, consumer_timeout_ms: int | None = None) -> None:
        # On PATH is a wrapper of Debian's, which insists on the user rabbitmq.
        wrapper = _find("rabbitmq-server", "rabbitmq-server", Path("/usr/sbin"))
        self._server = wrapper.resolve().parent / "rabbitmq-server"
        self._epmd = _find("epmd", "erlang-base")
        self._erl_call = _find("erl_call", "erlang-base", Path("/usr/lib/erlang/bin"))
        super().__init__("rabbitmq")
        self.node = f"{self.directory.name}@localhost"
        self._dist_port = free_port()
        self._epmd_port = free_port()
        self._epmd_process: subprocess.Popen[bytes] | None = None
        self._cookie = secrets.token_hex(16)
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        settings = [f'{{tcp_listeners, [{{"127.0.0.1", {self.port}}}]}}']
        if consumer_timeout_ms is not None:
            settings.append(f"{{consumer_timeout, {consumer_timeout_ms}}}")
            settings.append("{channel_tick_interval, 1000}")
        (self.directory / "advanced.config").write_text(f"[{{rabbit, [{', '.join(settings)}]}}].\n")
        for empty in "env.conf", "enabled_plugins":
            (self.directory / empty).touch()

    @property
    def url(self) -> str:
        """AMQP URL of the virtual host `/`."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """See `_Server`; "serves" means that it answers an AMQP handshake."""
        if self._epmd_process is None:
            self._epmd_process = self._spawn(
                [self._epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"], {}
            )
            eventually(lambda: _answers(self._epmd_port, b""), _PATIENCE, "epmd listens")
        super().start()

    def stop(self) -> None:
        """Kill it (SIGKILL). Durable queues and confirmed persistent messages stay."""
        self._stop(signal.SIGKILL)

    def restart(self) -> None:
        """Do `stop()` and `start()`."""
        self.stop()
        self.start()

    def stop_app(self) -> None:
        """Stop the broker in good order, as `rabbitmqctl stop_app` does."""
        self._call("rabbit:stop()")

    def start_app(self) -> None:
        """Start the broker after `stop_app()`, and return when it serves."""
        self._call("rabbit:start()")
        eventually(self._started, _PATIENCE, f"{self.name} serves")

    def queues(self) -> dict[str, int]:
        """Return how many messages, ready or unacknowledged, are in each queue of `/`.

        The number is exact for classic queues, some seconds old for quorum queues.
        """
        lines = self._call(
            "lists:foreach(fun([{name, {resource, _, queue, Name}}, {messages, N}]) ->"
            ' io:format("~w ~ts~n", [N, Name]) end,'
            ' rabbit_amqqueue:info_all(<<"/">>, [name, messages]))'
        ).splitlines()
        return {name: int(n) for n, name in (line.split(" ", 1) for line in lines)}

    def delete_all_queues(self) -> None:
        """Delete all queues with their messages, those in use too."""
        self._call(
            # One that ends by itself meanwhile, with its connection, is as good as deleted.
            '[catch rabbit_amqqueue:delete(Queue, false, false, <<"tests">>)'
            " || Queue <- rabbit_amqqueue:list()], ok"
        )

    def close_all_connections(self) -> None:
        """Close all AMQP connections from the server's side (320 CONNECTION_FORCED)."""
        self._call(
            "rabbit_networking:close_connections("
            'rabbit_networking:connections(), <<"closed by the tests">>)'
        )

    def set_alarm(self, raised: bool) -> None:  # noqa: FBT001 - on or off is all there is to say
        """Raise or clear the memory alarm, which blocks every connection that publishes."""
        share = "0.0" if raised else "0.4"
        self._call(f"vm_memory_monitor:set_vm_memory_high_watermark({share})")

    def add_vhost(self, name: str, default_queue_type: str) -> str:
        """Make a virtual host whose queues have a type unless they name another; return its URL.

        `name` has only letters, digits and underscores.
        """
        self._call(
            f'rabbit_vhost:add(<<"{name}">>,'
            f' #{{default_queue_type => <<"{default_queue_type}">>}}, <<"tests">>)'
        )
        self.allow("guest", name)
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{name}"

    def set_password(self, user: str, password: str) -> None:
        """Change a user's password; make the user if there is none, without permissions."""
        listed = ",".join(map(str, password.encode()))
        self._call(
            "rabbit_auth_backend_internal:put_user("
            f'#{{name => <<"{user}">>, password => <<{listed}>>, tags => <<"">>}},'
            ' <<"tests">>)'
        )

    def allow(self, user: str, vhost: str = "/", configure: str = ".*") -> None:
        """Let a user do everything in a virtual host; `configure`: to what fits only."""
        patterns = f'<<"{configure}">>, <<".*">>, <<".*">>'
        self._call(
            "rabbit_auth_backend_internal:set_permissions("
            f'<<"{user}">>, <<"{vhost}">>, {patterns}, <<"tests">>)'
        )

    def add_user(self, password: str) -> str:
        """Make a user who may do everything in `/`; return its name."""
        name = f"user_{secrets.token_hex(4)}"
        self.set_password(name, password)
        self.allow(name)
        return name

    def eval(self, expression: str) -> str:
        """Return the value, as Erlang writes it, of an expression (no final dot).

        Evaluated in the node, in milliseconds. Raises RuntimeError if it fails there.
        """
        return self._call(f'io:format("~0tp", [begin {expression} end])')

    def close(self) -> None:
        """See `_Server`."""
        super().close()
        if self._epmd_process is not None:
            self._end_process(self._epmd_process, signal.SIGKILL)
            self._epmd_process = None

    def _call(self, expression: str) -> str:
        """Evaluate an expression whose value is `ok`; return what it prints."""
        self._pid  # noqa: B018 - raises if it does not run
        address = f"127.0.0.1:{self._dist_port}"
        called = subprocess.run(
            [self._erl_call, "-address", address, "-c", self._cookie, "-fetch_stdout", "-e"],
            input=f"{expression}.\n",
            capture_output=True,
            check=False,
            text=True,
            timeout=_PATIENCE,
        )
        if not called.stdout.endswith("{ok, ok}"):
            raise RuntimeError(f"{expression}: {called.stdout}{called.stderr}")
        return called.stdout.removesuffix("{ok, ok}")

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        here = self.directory
        return [self._server], {
            "ERL_CRASH_DUMP_SECONDS": "0",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1"
            ),
            "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
            "RABBITMQ_LOG_BASE": f"{here}/logs",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": f"{here}/pid",
            "RABBITMQ_CONFIG_FILE": f"{here}/none",
            "RABBITMQ_CONF_ENV_FILE": f"{here}/env.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{here}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/enabled_plugins",
            # Makes the start script end in `exec`, so that our child is the node.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _ready(self) -> bool:
        return _answers(self.port, b"AMQP\x00\x00\x09\x01")


class Redis(_Server):
    """A Redis server that keeps nothing. Raises Missing without its program.

    `settings` are added to its configuration ({"requirepass": "secret"}). `certificate`: it talks
    nothing but TLS.
    """

    _kind = "redis"

    def __init__(
        self, settings: Mapping[str, str] | None = None, certificate: Certificate | None = None
    ) -> None:
        self.password = (settings or {}).get("requirepass", "")
        self._server = self._program()
        super().__init__(self._kind)
        self._scheme, self._settings = "redis", {"port": str(self.port), **(settings or {})}
        if certificate is not None:
            self._scheme = "rediss"
            self._settings |= {
                "port": "0",
                "tls-port": str(self.port),
                "tls-cert-file": str(certificate.file),
                "tls-key-file": str(certificate.key),
                "tls-auth-clients": "no",
            }

    @property
    def url(self) -> str:
        """URL of database 0."""
        return f"{self._scheme}://127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """Kill it (SIGKILL); all it held is lost."""
        self._stop(signal.SIGKILL)

    def command(self, *words: str) -> None:
        """Send it a command, such as `command("CONFIG", "SET", "maxmemory", "1")`."""
        with redis.Redis(port=self.port, password=self.password or None) as client:
            client.execute_command(*words)

    def set_password(self, password: str) -> None:
        """Ask for a password from now on; "" for none. Connections that are open stay."""
        self.command("CONFIG", "SET", "requirepass", password)
        self.password = password

    def _program(self) -> Path:
        return _find("redis-server", "redis-server")

    def _command(self) -> tuple[Sequence[str | Path], Mapping[str, str]]:
        settings = {"bind": "127.0.0.1", "save": "", "appendonly": "no", **self._settings}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return [self._server, *words], {}

    def _ready(self) -> bool:
        return _answers(self.port, b"PING\r\n" if self._scheme == "redis" else b"")


@functools.cache
def missing(kind: Callable[[], Postgres | RabbitMQ | Redis]) -> str:
    """Return what is not installed of a server and which package has it; "" if all is there.

    "" too where TESTS_REQUIRE_SERVERS is set: a server that is missing is an error then.
    """
    if os.environ.get("TESTS_REQUIRE_SERVERS"):
        return ""
    try:
        kind().close()
    except Missing as error:
        return str(error)
    return ""


def _find(program: str, package: str, *elsewhere: Path) -> Path:
    """Return the program's path, from `elsewhere` before PATH; else raise Missing."""
    path = os.pathsep.join([*map(str, elsewhere), os.environ.get("PATH", os.defpath)])
    found = shutil.which(program, path=path)
    if found is None:
        raise Missing(f"{program}: install Debian's {package} package")
    return Path(found)


def _environment(home: Path) -> dict[str, str]:
    """Return a server's environment: nothing of ours may configure it."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8"}


class _Identity(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _identity(user: str | None) -> _Identity:
    """Return the arguments that make `subprocess` run a program as `user`."""
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _answers(port: int, greeting: bytes) -> bool:
    """Say whether a server listens, and, if greeted, answers at all."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(greeting)
            return not greeting or connection.recv(1) != b""
    except OSError:
        return False


def _tree(pid: int) -> Iterator[int]:
    """Go over the ids of a process and all that descend from it, parents first.

    The children are looked up when their parent has been dealt with: one that has
    been stopped starts no more of them.
    """
    yield pid
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # has just ended
        return
    for thread in threads:
        try:
            below = (thread / "children").read_text().split()
        except OSError:  # the same
            continue
        for child in below:
            yield from _tree(int(child))


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
