"""Guards of settings, commands, declarations of tasks, and of `tasks-api up`."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "the environment wins over .env",
        "backend/settings.py",
        "load_dotenv(stream=io.StringIO(text))",
        "load_dotenv(stream=io.StringIO(text), override=True)",
        "tests/unit/test_settings_files.py",
    ),
    Guard(
        "the servers of an up that was killed end with its processes",
        "backend/local/lifetime.py",
        "    os.read(reading, 1)\n    _end_servers(sockets)\n",
        "    os.read(reading, 1)\n",
        "tests/acceptance/test_embedded_ends.py::test_a_killed_up_leaves_no_process_or_socket"
        "_folder",
    ),
    Guard(
        "a damaged note of a killed up ends no other server and deletes no other folder",
        "backend/local/lifetime.py",
        "    if sockets and Path(sockets).name.startswith(SOCKETS_PREFIX):\n",
        "    if sockets:\n",
        "tests/unit/test_embedded.py::test_a_state_file_that_names_a_foreign_folder_ends_and"
        "_removes_nothing",
    ),
    Guard(
        "all stops when make is killed",
        "backend/local/supervisor.py",
        " or self._closed.is_set() or orphaned",
        " or self._closed.is_set()",
        "tests/unit/test_supervisor.py::test_everything_stops_when_the_parent_process_is_gone",
    ),
    Guard(
        "reset deletes nothing without an answer",
        "backend/cli.py",
        "        if not yes:\n",
        "        if False:\n",
        "tests/acceptance/test_embedded_ends.py::test_reset_asks_and_deletes_nothing_without_an"
        "_answer",
    ),
    Guard(
        "3: effect and outcome commit together",
        "backend/task.py",
        "    def progress(self",
        "    def __post_init__(self) -> None:\n"
        "        self.session.connection(execution_options={'isolation_level': 'AUTOCOMMIT'})\n\n"
        "    def progress(self",
        "tests/acceptance/test_effects.py::test_a_task_that_raises_leaves_no_effect_and_fails_after"
        "_its_attempts",
    ),
    Guard(
        "a commit holds no more than so many bytes of small orders",
        "backend/batcher.py",
        " and size < BATCH_BYTES",
        "",
        "tests/unit/test_batcher.py",
    ),
    Guard(
        "4: what ends by itself is started again",
        "backend/local/supervisor.py",
        "        elif not restart:\n",
        "        else:\n",
        "tests/unit/test_supervisor.py",
    ),
    Guard(
        "the list outlives a message whose id is none",
        "backend/ids.py",
        "isinstance(value, str) and _UUID",
        "_UUID",
        "tests/unit/test_task_ids.py",
    ),
    Guard(
        "9: arguments that change with time are refused at import",
        "backend/task.py",
        "        _check_model(name, arguments)\n",
        "",
        "tests/unit/test_registry.py",
    ),
    Guard(
        "9: what a killed worker's tasks have started ends",
        "backend/cli.py",
        "    subprocesses.start_cleaner()  # before Celery starts its threads\n",
        "",
        "tests/acceptance/test_subprocesses.py",
    ),
    Guard(
        "uvicorn believes no proxy of its own accord",
        "backend/cli.py",
        "        proxy_headers=False,",
        "",
        "tests/acceptance/test_behind_nginx.py::test_forwarded_headers_of_untrusted_clients_are"
        "_ignored",
    ),
    Guard(
        "a path prefix is no path of the API",
        "backend/settings.py",
        '    if prefix and prefix.split("/")[1] in OWN_PATHS:\n',
        "    if False:\n",
        "tests/unit/test_settings.py",
    ),
    Guard(
        "Flower's password has no comma",
        "backend/settings.py",
        r'pattern=r"^[ -+\--9;-~]+:[ -+\--~]+$"',
        r'pattern=r"^[ -9;-~]+:[ -~]+$"',
        "tests/unit/test_settings.py",
    ),
    Guard(
        "Flower reads no variable that a setting stands for",
        "backend/cli.py",
        "        os.environ.pop(name, None)\n",
        "        pass\n",
        "tests/acceptance/test_addresses.py",
    ),
    Guard(
        "own addresses are not asked through a proxy",
        "backend/local/announce.py",
        "build_opener(urllib.request.ProxyHandler({}))",
        "build_opener()",
        "tests/acceptance/test_addresses.py",
    ),
    Guard(
        "the health check asks through no proxy",
        "deploy/healthy.py",
        "build_opener(urllib.request.ProxyHandler({}))",
        "build_opener()",
        "tests/integration/test_healthy.py",
    ),
    Guard(
        "after kill -9 of everything PostgreSQL starts beside zombies",
        "backend/local/programs.py",
        '        leftovers.forget_ended_postgres(self.folder / "postgres")\n',
        "",
        "tests/acceptance/test_killed_stack.py",
    ),
    Guard(
        "after kill -9 of PostgreSQL its other processes end",
        "backend/local/leftovers.py",
        "    _kill(_processes(ours, programs))\n",
        "",
        "tests/acceptance/test_killed_stack.py",
    ),
    Guard(
        "a sign of a password that would lead to another host is refused",
        "backend/urls.py",
        "        raise InvalidSetting(_ENCODE)\n",
        "        pass\n",
        "tests/unit/test_urls.py",
    ),
    Guard(
        "TLS of rediss:// verifies by default",
        "backend/urls.py",
        """        return f"{url}{'&' if parts.query else '?'}ssl_cert_reqs=required"\n""",
        "        return url\n",
        "tests/acceptance/test_broker_addresses.py::test_a_certificate_is_verified_unless_the_address"
        "_says_otherwise",
    ),
    Guard(
        "a process that does not end keeps the next server from starting",
        "backend/local/leftovers.py",
        "    if left := _signal(processes, signal.SIGKILL, seconds):\n",
        "    if (left := _signal(processes, signal.SIGKILL, seconds)) and not left:\n",
        "tests/unit/test_leftovers.py",
    ),
    Guard(
        "discovery runs no program of a package of tasks",
        "backend/registry.py",
        '        if not found.name.endswith(".__main__"):\n',
        "        if True:\n",
        "tests/unit/test_task_modules.py",
    ),
    Guard(
        "a worker does not start without the functions that tasks name",
        "backend/cli.py",
        "    import_functions()\n",
        "",
        "tests/unit/test_task_modules.py",
    ),
    Guard(
        "an unexpected error does not end a background thread",
        "backend/loop.py",
        "        except Exception as error:\n",
        "        except TimeoutError as error:\n",
        "tests/unit/test_loop.py",
    ),
    Guard(
        "an embedded server that ends is started again",
        "backend/local/programs.py",
        "            self._start_again()\n",
        "            pass\n",
        "tests/unit/test_embedded.py",
    ),
]
