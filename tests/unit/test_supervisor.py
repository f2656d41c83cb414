"""The whole stack in one terminal: what ends is started again, and all stops in time."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from backend import supervisor
from backend.supervisor import Supervisor
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(30)

SLEEP = ["sleep", "60"]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.1)


def running(running: Supervisor) -> tuple[threading.Thread, list[bool]]:
    """Run it in a thread; return that, and a list that gets what `run` returns."""
    well: list[bool] = []
    thread = threading.Thread(target=lambda: well.append(running.run()), daemon=True)
    thread.start()
    return thread, well


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_processes_start_stops_them_all(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = Supervisor({"one": SLEEP, "two": SLEEP})
    signal.signal(number, lambda *_: stack.stop())
    started = stack._services[0]._start

    def start() -> None:
        started()
        os.kill(os.getpid(), number)

    stack._services[0]._start = start  # type: ignore[method-assign]  # to be told between the two
    assert stack.run()
    assert capsys.readouterr().out.count("stopped (killed by signal 15)") == 2


def test_what_ends_after_all_was_ready_is_started_again_with_growing_pauses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stack = Supervisor({"one": python("import sys; print('started'); sys.exit(3)"), "two": SLEEP})
    stack.ready.set()
    thread, well = running(stack)
    out = ""

    def restarts() -> int:
        nonlocal out
        out += capsys.readouterr().out
        return out.count("one    | started") >= 4

    eventually(restarts, 20, "it was started three more times")
    stack.stop()
    thread.join(10)
    out += capsys.readouterr().out
    assert well == [True]
    assert [
        line.split("| ")[1] for line in out.splitlines() if "system" in line and "ended" in line
    ][:3] == [
        "one ended (exit code 3); starting it again in 0.1 s",
        "one ended (exit code 3); starting it again in 0.2 s",
        "one ended (exit code 3); starting it again in 0.4 s",
    ]
    assert out.count("two started") == 1


def test_the_pauses_are_short_again_after_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STEADY_SECONDS", 0.0)
    stack = Supervisor({"one": ["false"]})
    stack.ready.set()
    thread, _ = running(stack)
    out = ""

    def ends() -> int:
        nonlocal out
        out += capsys.readouterr().out
        return out.count("starting it again") >= 3

    eventually(ends, 20, "it has ended three times")
    stack.stop()
    thread.join(10)
    assert out.count("starting it again in 0.1 s") == out.count("starting it again")


def test_what_ends_before_all_was_ready_stops_everything(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stack = Supervisor({"one": python("print('the reason'); raise SystemExit(1)"), "two": SLEEP})
    assert not stack.run()
    out = capsys.readouterr().out
    assert "one    | the reason\n" in out
    assert "one ended (exit code 1)\n" in out
    assert "two stopped (killed by signal 15)\n" in out


def test_it_stops_while_a_process_is_in_its_pause(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 60.0)
    stack = Supervisor({"one": ["true"], "two": SLEEP})
    stack.ready.set()
    thread, well = running(stack)
    eventually(lambda: "again in 60 s" in capsys.readouterr().out, 10, "one is in its pause")
    stack.stop()
    thread.join(2)
    assert well == [True]


def test_one_that_does_not_stop_is_killed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "KILL_SECONDS", 0.5)
    ignore = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)"
    stack = Supervisor({"one": python(f"{ignore}; time.sleep(60)")})
    thread, _ = running(stack)
    eventually(lambda: "| deaf" in capsys.readouterr().out, 10, "it ignores SIGTERM")
    stack.stop()
    thread.join(5)
    assert "one stopped (killed by signal 9)" in capsys.readouterr().out


def test_a_process_that_keeps_the_output_open_holds_nothing_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pid = tmp_path / "pid"
    leave = "import subprocess, sys; child = subprocess.Popen(['sleep', '60'], process_group=0)"
    stack = Supervisor(
        {"one": python(f"{leave}; open(sys.argv[1], 'w').write(str(child.pid))", pid)}
    )
    stack.ready.set()
    thread, _ = running(stack)
    eventually(lambda: "starting it again" in capsys.readouterr().out, 10, "it is restarted")
    begin = time.monotonic()
    stack.stop()
    thread.join(5)
    assert time.monotonic() - begin < 3
    os.kill(int(pid.read_text()), signal.SIGKILL)


def test_children_of_a_process_that_was_killed_are_gone_before_the_next_one_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pids = tmp_path / "pids"
    fork = "import os, sys, time; pid = os.fork()"
    note = "pid and open(sys.argv[1], 'a').write(f'{os.getpid()} {pid}\\n')"
    stack = Supervisor({"one": python(f"{fork}; {note}; time.sleep(60)", pids)})
    stack.ready.set()
    thread, _ = running(stack)
    eventually(lambda: pids.exists() and pids.read_text().endswith("\n"), 10, "it has forked")
    parent, child = map(int, pids.read_text().split())
    os.kill(parent, signal.SIGKILL)
    eventually(lambda: "starting it again" in capsys.readouterr().out, 10, "its end is noticed")
    eventually(lambda: not os.path.exists(f"/proc/{child}/exe"), 5, "its child is gone")  # noqa: PTH110 - a zombie has none to point to
    stack.stop()
    thread.join(10)
