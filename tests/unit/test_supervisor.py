"""All processes in one terminal: they are restarted when they end, and all stop in time."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.local import reload, supervisor
from backend.local.service import Times
from backend.local.supervisor import Supervisor
from backend.telemetry.terminal import Output
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(30)

SLEEP = ["sleep", "60"]
QUICK = Times(first_pause=0.1)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Give a function that returns the output of `up` so far."""
    caplog.set_level(logging.INFO)
    printed = ""

    def all_of_it() -> str:
        nonlocal printed
        printed += capsys.readouterr().out
        return printed + "\n".join(caplog.messages)

    return all_of_it


def running(running: Supervisor) -> tuple[threading.Thread, list[bool]]:
    """Run it in a thread; return the thread, and a list that gets the value of `run`."""
    well: list[bool] = []
    thread = threading.Thread(target=lambda: well.append(running.run()), daemon=True)
    thread.start()
    return thread, well


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_processes_start_stops_them_all(
    number: signal.Signals, said: Callable[[], str]
) -> None:
    stack = Supervisor({"one": SLEEP, "two": SLEEP}, Output())
    signal.signal(number, lambda *_: stack.stop())
    started = stack._services[0]._start

    def start() -> None:
        started()
        os.kill(os.getpid(), number)

    stack._services[0]._start = start  # type: ignore[method-assign]  # the signal arrives between two starts
    assert stack.run()
    assert said().count("stopped (killed by signal 15)") == 2


def test_a_process_that_ends_after_readiness_is_restarted_with_growing_pauses(
    said: Callable[[], str],
) -> None:
    stack = Supervisor(
        {"one": python("import sys; print('started'); sys.exit(3)"), "two": SLEEP},
        Output(),
        times=QUICK,
    )
    stack.ready.set()
    thread, well = running(stack)
    eventually(
        lambda: said().count('"event": "started"') >= 4,
        20,
        "the process was started three more times",
    )
    stack.stop()
    thread.join(10)
    assert well == [True]
    assert re.findall("one ended.*", said())[:3] == [
        "one ended (exit code 3); starting it again in 0.1 s",
        "one ended (exit code 3); starting it again in 0.2 s",
        "one ended (exit code 3); starting it again in 0.4 s",
    ]
    assert said().count("two started") == 1


def test_the_restart_pauses_are_short_again_after_a_minute(said: Callable[[], str]) -> None:
    stack = Supervisor({"one": ["false"]}, Output(), times=replace(QUICK, steady=0.0))
    stack.ready.set()
    thread, _ = running(stack)
    eventually(
        lambda: said().count("starting it again") >= 3, 20, "the process has ended three times"
    )
    stack.stop()
    thread.join(10)
    assert said().count("starting it again in 0.1 s") == said().count("starting it again")


def test_a_process_that_ends_before_readiness_stops_everything(
    said: Callable[[], str],
) -> None:
    stack = Supervisor(
        {"one": python("print('the reason'); raise SystemExit(1)"), "two": SLEEP}, Output()
    )
    assert not stack.run()
    assert '"event": "the reason"' in said()
    assert "one ended (exit code 1)\n" in said()
    assert "two stopped (killed by signal 15)" in said()


def test_up_stops_during_a_restart_pause(said: Callable[[], str]) -> None:
    stack = Supervisor({"one": ["true"], "two": SLEEP}, Output(), times=Times(first_pause=60.0))
    stack.ready.set()
    thread, well = running(stack)
    eventually(lambda: "again in 60 s" in said(), 10, "the process is in its restart pause")
    stack.stop()
    thread.join(2)
    assert well == [True]


def test_everything_stops_when_the_parent_process_is_gone(said: Callable[[], str]) -> None:
    stack = Supervisor({"one": SLEEP}, Output(), parent=os.getppid())
    thread, well = running(stack)
    eventually(lambda: "one started" in said(), 10, "the process runs")
    stack._parent = 1 if os.getppid() != 1 else 2
    thread.join(10)
    assert well == [True]


def test_a_process_inherits_the_given_file_descriptors() -> None:
    reading, writing = os.pipe()
    stack = Supervisor(
        {"one": python(f"import os; os.write({writing}, b'open')")},
        Output(),
        inherited_fds=[writing],
    )
    thread, _ = running(stack)
    assert os.read(reading, 10) == b"open"
    thread.join(10)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("ignored", [True, False])
def test_sighup_stops_everything_unless_it_is_ignored(*, ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        assert (signal.SIGHUP in supervisor.stop_signals()) is not ignored
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_process_that_does_not_stop_is_killed(said: Callable[[], str]) -> None:
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)"
    stack = Supervisor(
        {"one": python(f"{ignore}; time.sleep(60)")}, Output(), times=Times(kill=0.5)
    )
    thread, _ = running(stack)
    eventually(lambda: "deaf" in said(), 10, "the process ignores SIGTERM")
    stack.stop()
    thread.join(5)
    assert "one stopped (killed by signal 9)" in said()


def test_a_process_that_keeps_the_output_open_does_not_delay_stopping(
    tmp_path: Path, said: Callable[[], str]
) -> None:
    pid = tmp_path / "pid"
    leave = "import subprocess, sys; child = subprocess.Popen(['sleep', '60'], process_group=0)"
    stack = Supervisor(
        {"one": python(f"{leave}; open(sys.argv[1], 'w').write(str(child.pid))", pid)},
        Output(),
        times=QUICK,
    )
    stack.ready.set()
    thread, _ = running(stack)
    eventually(lambda: "starting it again" in said(), 10, "the restart is logged")
    begin = time.monotonic()
    stack.stop()
    thread.join(5)
    assert time.monotonic() - begin < 3
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_children_of_a_killed_process_end_before_it_is_started_again(
    tmp_path: Path, said: Callable[[], str]
) -> None:
    pids = tmp_path / "pids"
    fork = "import os, sys, time; pid = os.fork()"
    note = "pid and open(sys.argv[1], 'a').write(f'{os.getpid()} {pid}\\n')"
    stack = Supervisor(
        {"one": python(f"{fork}; {note}; time.sleep(60)", pids)}, Output(), times=QUICK
    )
    stack.ready.set()
    thread, _ = running(stack)
    eventually(
        lambda: pids.exists() and pids.read_text().endswith("\n"), 10, "the process has forked"
    )
    parent, child = map(int, pids.read_text().split())
    os.kill(parent, signal.SIGKILL)
    eventually(lambda: "starting it again" in said(), 10, "the end of the process is noticed")
    eventually(lambda: not os.path.exists(f"/proc/{child}/exe"), 5, "the child process has ended")  # noqa: PTH110 - a zombie has none to point to
    stack.stop()
    thread.join(10)


def test_a_changed_file_restarts_the_processes_that_run_our_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    module = tmp_path / "a_module_that_changes.py"
    module.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(reload, "LOOK_SECONDS", 0.05)
    stack = Supervisor(
        {"api": SLEEP, "worker": SLEEP, "flower": SLEEP},
        Output(),
        times=Times(kill=5.0),
        changes=reload.Changes({module.stem}),
    )
    thread, well = running(stack)
    eventually(lambda: said().count("started") == 3, 10, "all have started")
    time.sleep(0.2)
    assert "changed" not in said()
    module.write_text("changed = True")
    eventually(lambda: said().count("started") == 5, 10, "two have started again")
    stack.stop()
    thread.join(10)
    assert well == [True]
    assert said().count("a_module_that_changes.py has changed") == 1
    assert "sending SIGTERM to api, worker\n" in said()
    assert "starting it again in" not in said()  # at once


def test_files_that_are_changed_added_or_removed_are_noticed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "a_package_that_changes"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    inside = package / "inner" / "code.py"
    inside.write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(reload, "LOOK_SECONDS", 0.0)
    changes = reload.Changes({package.name, "a_module_that_nobody_has"})
    assert changes.next() is None
    (package / "notes.txt").write_text("not Python")
    assert changes.next() is None
    for change in (lambda: inside.write_text("1"), inside.unlink, lambda: inside.write_text("2")):
        change()
        assert changes.next() == inside
        assert changes.next() is None
