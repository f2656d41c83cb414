"""The folder of embedded servers: one `up` at a time, cleaning up after a killed one, `reset`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backend.errors import CannotRun
from backend.local import lifetime, nobody, programs
from backend.settings import (
    LOCK_FILE,
    ROOT,
    RUNNING_FILE,
    Settings,
    SettingsError,
    read,
    settings,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD = """
import sys
import tempfile
from pathlib import Path
from backend.local.lifetime import exclusive_data_dir
with exclusive_data_dir(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
WATCH = """
import time
from backend.local.lifetime import end_with_up
end_with_up()
print("watching", flush=True)
time.sleep(60)
"""
URLS = {"database_url": "postgresql+psycopg2://a@/a", "celery_broker_url": "redis+socket:///a"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("backend.settings.ENV_FILES", ())
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def reset(data: Path) -> None:
    with lifetime.exclusive_data_dir(data):
        lifetime.remove_data(data)


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program and wait for its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


@pytest.fixture
def holder(data: Path) -> Iterator[subprocess.Popen[str]]:
    """Give another process that works in the folder."""
    with run(HOLD, str(data)) as process:
        yield process
        process.kill()


def test_only_one_up_at_a_time_uses_a_folder(holder: subprocess.Popen[str], data: Path) -> None:
    with (
        pytest.raises(CannotRun, match="already running"),
        lifetime.exclusive_data_dir(data),
    ):
        pass
    with pytest.raises(CannotRun, match="already running"):
        reset(data)
    holder.kill()
    holder.wait()
    with lifetime.exclusive_data_dir(data) as killed:
        assert not killed


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(CannotRun, match="set DATA_DIR") as told,
        lifetime.exclusive_data_dir(tmp_path / "file" / "data"),
    ):
        pass
    assert "\n" not in str(told.value)


def test_servers_of_a_running_up_are_found_and_those_of_a_killed_one_are_not(
    holder: subprocess.Popen[str], data: Path
) -> None:
    with pytest.raises(SettingsError):
        settings()  # it has not started them yet
    (data / RUNNING_FILE).write_text(json.dumps({"sockets": "/nowhere", **URLS}))
    assert settings().database_url == URLS["database_url"]
    assert settings().celery_broker_url == URLS["celery_broker_url"]
    settings.cache_clear()
    holder.kill()
    holder.wait()
    with pytest.raises(SettingsError) as told:
        settings()
    assert str(told.value).count("\n") == 0
    assert "DATABASE_URL and CELERY_BROKER_URL" in str(told.value)


def test_a_named_server_wins_over_an_embedded_one(
    holder: subprocess.Popen[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert holder.poll() is None
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg2://named/db")
    (data / RUNNING_FILE).write_text(json.dumps(URLS))
    assert settings().database_url == "postgresql+psycopg2://named/db"
    assert settings().celery_broker_url == URLS["celery_broker_url"]


@pytest.mark.parametrize(
    "noted", ["{}", "", '{"sock', '{"sockets": "/nowhere/tasks-api-00000000"}']
)
def test_the_state_file_of_a_killed_up_is_cleaned_up_once(data: Path, noted: str) -> None:
    data.mkdir()
    (data / RUNNING_FILE).write_text(noted)
    with lifetime.exclusive_data_dir(data) as killed:
        assert killed
    with lifetime.exclusive_data_dir(data) as killed:
        assert not killed


def test_a_state_file_that_names_a_foreign_folder_ends_and_removes_nothing(
    data: Path, tmp_path: Path
) -> None:
    (folder := tmp_path / "others").mkdir()
    shutil.copy("/bin/sh", server := tmp_path / "postgres")
    data.mkdir()
    (data / RUNNING_FILE).write_text(json.dumps({"sockets": str(folder)}))
    command = [str(server), "-c", "read _; exit 3", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        with lifetime.exclusive_data_dir(data):
            pass
        process.communicate(b"\n")
    assert process.returncode == 3
    assert folder.exists()


def test_a_process_ends_with_the_up_that_started_it(
    holder: subprocess.Popen[str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(lifetime.UP_VARIABLE, str(data / LOCK_FILE))
    with run(WATCH) as process:
        holder.kill()
        assert process.wait(5) == -signal.SIGTERM


def test_reset_removes_only_the_services_own_files(data: Path) -> None:
    for name in ("postgres", "postgres.new", "valkey", "other"):
        (data / name).mkdir(parents=True)
    for name in ("postgresql.log", "valkey.log", "other.log"):
        (data / name).touch()
    reset(data)
    assert sorted(path.name for path in data.iterdir()) == ["other", "other.log"]


def test_reset_without_a_data_folder_creates_none(data: Path) -> None:
    reset(data)
    assert not data.exists()


def test_a_relative_data_folder_is_relative_to_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "elsewhere/data")
    assert read().data_dir == ROOT / "elsewhere" / "data"
    monkeypatch.delenv("DATA_DIR")
    assert read().data_dir == ROOT / ".data"


@pytest.mark.parametrize("name", ["x" * 200, "a,b", "\udce4", "missing/at/all"])
def test_sockets_use_another_folder_if_tmpdir_is_unsuitable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    parent = tmp_path / name
    if "missing" not in name:
        parent.mkdir()
    monkeypatch.setenv("TMPDIR", str(parent))
    monkeypatch.setattr(tempfile, "tempdir", None)
    made = lifetime._make_folder_for_sockets()
    made.rmdir()
    assert made.parent in {Path("/tmp"), Path("/var/tmp")}


@pytest.mark.parametrize("name", ["others", "tasks-api-taken", "no-folder/tasks-api-1", ""])
def test_a_noted_socket_folder_that_cannot_be_made_again_is_not_used(
    tmp_path: Path, name: str
) -> None:
    noted = tmp_path / lifetime.SOCKETS_FILE
    (tmp_path / "tasks-api-taken").mkdir()
    noted.write_text(str(tmp_path / name))
    assert lifetime._make_last_folder(noted) is None
    assert lifetime._make_last_folder(noted) is None  # nor is there a file any more


def test_a_missing_folder_for_sockets_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(CannotRun, match="set TMPDIR") as told:
        lifetime._make_folder_for_sockets()
    assert "\n" not in str(told.value)


def test_the_longest_accepted_folder_leaves_room_for_a_socket_path() -> None:
    parent = "/".ljust(lifetime.LONGEST_PARENT, "x")
    assert len(f"{parent}/tasks-api-12345678/.s.PGSQL.5432") == 103


def test_a_missing_wheel_is_reported_in_one_line() -> None:
    with pytest.raises(CannotRun, match="requirements/embedded") as told:
        programs._package("no_such_wheel", "PostgreSQL")
    assert "\n" not in str(told.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs a server as another user")
def test_the_user_nobody_gets_capabilities_only_where_needed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert "--ambient-caps" not in nobody.run_by_nobody(Path("/bin/sh"), Path("/"))
    command = nobody.run_by_nobody(Path("/bin/sh"), tmp_path)
    listed = subprocess.run([*command, "ls", tmp_path], check=False, capture_output=True)
    assert listed.returncode == 0
    who = subprocess.run([*command, "id", "-u", "-n"], check=True, capture_output=True, text=True)
    assert who.stdout.strip() == "nobody"


def test_a_server_that_ends_at_once_is_reported_with_its_last_output(tmp_path: Path) -> None:
    class Failing(programs.Server):
        name = "Failing"

        def prepare(self) -> list[str]:
            return ["sh", "-c", "echo first; echo last words >&2; exit 3"]

        def answers(self) -> bool:
            return False

    found = read().model_copy(update={"data_dir": tmp_path})
    with pytest.raises(CannotRun, match="Failing did not start: last words"):
        Failing(found, tmp_path).start()


def test_a_server_that_ends_unexpectedly_is_started_again(tmp_path: Path) -> None:
    class Frail(programs.Server):
        name = "Frail"
        first_pause = 0.1

        def prepare(self) -> list[str]:
            return ["sh", "-c", "echo here; exec sleep 60"]

        def answers(self) -> bool:
            return "here" in self.log.read_text()

    server = Frail(read().model_copy(update={"data_dir": tmp_path}), tmp_path)
    server.start()
    assert server._process is not None
    server._process.kill()

    def started_again() -> bool:
        server.check()
        return server.log.read_text().count("here") == 2

    eventually(started_again, 5, "the server is started again")
    server.send(signal.SIGKILL)
    assert server.ended(5)
