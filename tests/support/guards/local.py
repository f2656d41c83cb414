"""Guards of settings, commands, declarations of tasks, and of `tasks-api up`."""

from __future__ import annotations

from .guard import Guard

GUARDS = [
    Guard(
        "environment variables override the .env files",
        "backend/settings.py",
        "load_dotenv(stream=io.StringIO(text))",
        "load_dotenv(stream=io.StringIO(text), override=True)",
        "tests/unit/test_settings_files.py",
    ),
    Guard(
        "the servers of a killed `up` end with its processes",
        "backend/local/lifetime.py",
        "    os.read(reading, 1)\n    _end_servers(sockets)\n",
        "    os.read(reading, 1)\n",
        "tests/acceptance/test_embedded_ends.py::test_a_killed_up_leaves_no_process_or_socket"
        "_folder",
    ),
    Guard(
        "a damaged state file of a killed `up` ends no other server and deletes no other folder",
        "backend/local/lifetime.py",
        "    if sockets and Path(sockets).name.startswith(SOCKETS_PREFIX):\n",
        "    if sockets:\n",
        "tests/unit/test_embedded.py::test_a_state_file_that_names_a_foreign_folder_ends_and"
        "_removes_nothing",
    ),
    Guard(
        "the next `up` makes the socket folder of the last one again",
        "backend/local/lifetime.py",
        "_make_last_folder(last) or _make_folder_for_sockets()",
        "_make_folder_for_sockets()",
        "tests/acceptance/test_embedded_ends.py::test_a_worker_beside_up_goes_on_after_a_restart"
        "_of_up",
    ),
    Guard(
        "every process of `up` stops when make is killed",
        "backend/local/supervisor.py",
        " or self._closed.is_set() or orphaned",
        " or self._closed.is_set()",
        "tests/unit/test_supervisor.py::test_everything_stops_when_the_parent_process_is_gone",
    ),
    Guard(
        "`reset` deletes nothing without a confirmation",
        "backend/cli.py",
        "        if not yes:\n",
        "        if False:\n",
        "tests/acceptance/test_embedded_ends.py::test_reset_asks_and_deletes_nothing_without_an"
        "_answer",
    ),
    Guard(
        "3: a task's effect and its outcome commit together",
        "backend/task.py",
        "    def progress(self",
        "    def __post_init__(self) -> None:\n"
        "        self.session.connection(execution_options={'isolation_level': 'AUTOCOMMIT'})\n\n"
        "    def progress(self",
        "tests/acceptance/test_effects.py::test_a_task_that_raises_leaves_no_effect_and_fails_after"
        "_its_attempts",
    ),
    Guard(
        "a commit has a limit for the bytes of its submissions",
        "backend/batcher.py",
        " and size < BATCH_BYTES",
        "",
        "tests/unit/test_batcher.py",
    ),
    Guard(
        "4: a process of `up` that ends is started again",
        "backend/local/service.py",
        "        elif not restart:\n",
        "        else:\n",
        "tests/unit/test_supervisor.py",
    ),
    Guard(
        "the list of tasks works although an external message has an invalid id",
        "backend/ids.py",
        "isinstance(value, str) and _UUID",
        "_UUID",
        "tests/unit/test_task_ids.py",
    ),
    Guard(
        "9: argument types whose values change with time are refused at import",
        "backend/task_checks.py",
        "    _check_model(name, arguments)\n",
        "",
        "tests/unit/test_registry.py",
    ),
    Guard(
        "9: the subprocesses of a killed worker's tasks end",
        "backend/cli.py",
        "    subprocesses.start_cleaner()  # before Celery starts its threads\n",
        "",
        "tests/acceptance/test_subprocesses.py",
    ),
    Guard(
        "uvicorn itself trusts no proxy",
        "backend/cli.py",
        "        proxy_headers=False,",
        "",
        "tests/acceptance/test_behind_nginx.py::test_forwarded_headers_of_untrusted_clients_are"
        "_ignored",
    ),
    Guard(
        "a path prefix must not equal a path of the API",
        "backend/setting_checks.py",
        '    if prefix and prefix.split("/")[1] in OWN_PATHS:\n',
        "    if False:\n",
        "tests/unit/test_settings.py",
    ),
    Guard(
        "a comma in Flower's password is refused",
        "backend/settings.py",
        r'pattern=r"^[ -+\--9;-~]+:[ -+\--~]+$"',
        r'pattern=r"^[ -9;-~]+:[ -~]+$"',
        "tests/unit/test_settings.py",
    ),
    Guard(
        "Flower does not read variables that our settings replace",
        "backend/cli.py",
        "        os.environ.pop(name, None)\n",
        "        pass\n",
        "tests/acceptance/test_addresses.py",
    ),
    Guard(
        "`up` checks its own addresses without a proxy",
        "backend/local/announce.py",
        "build_opener(urllib.request.ProxyHandler({}))",
        "build_opener()",
        "tests/acceptance/test_addresses.py",
    ),
    Guard(
        "the containers' health check uses no proxy",
        "deploy/healthy.py",
        "build_opener(urllib.request.ProxyHandler({}))",
        "build_opener()",
        "tests/integration/test_healthy.py",
    ),
    Guard(
        "after kill -9 of everything PostgreSQL starts while zombies are left",
        "backend/local/programs.py",
        '        leftovers.forget_ended_postgres(self.folder / "postgres")\n',
        "",
        "tests/acceptance/test_killed_stack.py",
    ),
    Guard(
        "after kill -9 of PostgreSQL its other processes are ended",
        "backend/local/leftovers.py",
        "    _kill(_processes(ours, programs))\n",
        "",
        "tests/acceptance/test_killed_stack.py",
    ),
    Guard(
        "a character in a password that would change the host is refused",
        "backend/urls.py",
        "        raise InvalidSetting(_ENCODE)\n",
        "        pass\n",
        "tests/unit/test_urls.py",
    ),
    Guard(
        "rediss:// verifies the certificate by default",
        "backend/urls.py",
        """        return f"{url}{'&' if parts.query else '?'}ssl_cert_reqs=required"\n""",
        "        return url\n",
        "tests/acceptance/test_broker_addresses.py::test_a_certificate_is_verified_unless_the_address"
        "_says_otherwise",
    ),
    Guard(
        "a server does not start while an old process in its folder cannot be ended",
        "backend/local/leftovers.py",
        "    if left := _signal(processes, signal.SIGKILL, seconds):\n",
        "    if (left := _signal(processes, signal.SIGKILL, seconds)) and not left:\n",
        "tests/unit/test_leftovers.py",
    ),
    Guard(
        "discovery of tasks does not import __main__ modules",
        "backend/registry.py",
        '        if not found.name.endswith(".__main__"):\n',
        "        if True:\n",
        "tests/unit/test_task_modules.py",
    ),
    Guard(
        "a worker does not start if the function of a task cannot be imported",
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
    Guard(
        "a change of the code restarts the processes that run it",
        "backend/local/supervisor.py",
        "            service.start_again()\n",
        "            pass\n",
        "tests/unit/test_supervisor.py::"
        "test_a_changed_file_restarts_the_processes_that_run_our_code",
    ),
]
