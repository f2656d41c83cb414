"""RabbitMQ, controlled with Erlang expressions."""

import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.ports import free_port
from tests.support.waiting import eventually

from .processes import find_program, port_answers
from .server import PATIENCE, Server


class RabbitMQ(Server):
    """A RabbitMQ node without plugins, with the user guest and its own epmd.

    `consumer_timeout_ms`: how long a message may stay unacknowledged before its
    channel is closed (RabbitMQ's own default is 30 minutes). If it is set, the node checks
    this every second instead of every minute. Raises Missing if programs are not installed.
    """

    def __init__(self, consumer_timeout_ms: int | None = None) -> None:
        # On PATH there is only Debian's wrapper, which requires the user rabbitmq.
        wrapper = find_program("rabbitmq-server", "rabbitmq-server", Path("/usr/sbin"))
        self._server = wrapper.resolve().parent / "rabbitmq-server"
        self._epmd = find_program("epmd", "erlang-base")
        self._erl_call = find_program("erl_call", "erlang-base", Path("/usr/lib/erlang/bin"))
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
        """Return the AMQP URL of the virtual host `/`."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """See `Server`; "serves" means that it answers an AMQP handshake."""
        if self._epmd_process is None:
            self._epmd_process = self._spawn(
                [self._epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"], {}
            )
            eventually(lambda: port_answers(self._epmd_port, b""), PATIENCE, "epmd listens")
        super().start()

    def stop(self) -> None:
        """Kill it (SIGKILL). Durable queues and confirmed persistent messages are kept."""
        self._stop(signal.SIGKILL)

    def restart(self) -> None:
        """Do `stop()` and `start()`."""
        self.stop()
        self.start()

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
        """Delete all queues with their messages, also those in use."""
        self._call(
            # A queue may disappear with its connection at the same time: ignore the error.
            '[catch rabbit_amqqueue:delete(Queue, false, false, <<"tests">>)'
            " || Queue <- rabbit_amqqueue:list()], ok"
        )

    def close_all_connections(self) -> None:
        """Close all AMQP connections from the server's side (320 CONNECTION_FORCED)."""
        self._call(
            "rabbit_networking:close_connections("
            'rabbit_networking:connections(), <<"closed by the tests">>)'
        )

    def set_alarm(self, raised: bool) -> None:  # noqa: FBT001 - the name of the function shows what it means
        """Raise or clear the memory alarm, which blocks every connection that publishes."""
        share = "0.0" if raised else "0.4"
        self._call(f"vm_memory_monitor:set_vm_memory_high_watermark({share})")

    def add_vhost(self, name: str, default_queue_type: str) -> str:
        """Create a virtual host with a default queue type; return its URL.

        `name` has only letters, digits and underscores.
        """
        self._call(
            f'rabbit_vhost:add(<<"{name}">>,'
            f' #{{default_queue_type => <<"{default_queue_type}">>}}, <<"tests">>)'
        )
        self.allow("guest", name)
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{name}"

    def set_password(self, user: str, password: str) -> None:
        """Change a user's password; a new user is created without permissions."""
        listed = ",".join(map(str, password.encode()))
        self._call(
            "rabbit_auth_backend_internal:put_user("
            f'#{{name => <<"{user}">>, password => <<{listed}>>, tags => <<"">>}},'
            ' <<"tests">>)'
        )

    def allow(self, user: str, vhost: str = "/", configure: str = ".*") -> None:
        """Give a user the permissions in a virtual host; `configure` may limit the first."""
        patterns = f'<<"{configure}">>, <<".*">>, <<".*">>'
        self._call(
            "rabbit_auth_backend_internal:set_permissions("
            f'<<"{user}">>, <<"{vhost}">>, {patterns}, <<"tests">>)'
        )

    def add_user(self, password: str) -> str:
        """Create a user with all permissions in `/`; return its name."""
        name = f"user_{secrets.token_hex(4)}"
        self.set_password(name, password)
        self.allow(name)
        return name

    def eval(self, expression: str) -> str:
        """Return the value of an expression without its final dot, as Erlang writes it.

        Evaluated in the node, in milliseconds. Raises RuntimeError if it fails there.
        """
        return self._call(f'io:format("~0tp", [begin {expression} end])')

    def close(self) -> None:
        """See `Server`."""
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
            timeout=PATIENCE,
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
            # Makes the start script `exec` the node, so that our child is the node.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _ready(self) -> bool:
        return port_answers(self.port, b"AMQP\x00\x00\x09\x01")
