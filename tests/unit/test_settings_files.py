"""The `.env` files: their precedence, their format, and what is refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import backend.settings
from backend.settings import ROOT, settings
from tests.support.settings import refused

if TYPE_CHECKING:
    from pathlib import Path
pytestmark = pytest.mark.usefixtures("only_our_environment")


def test_the_environment_overrides_env_which_overrides_backend_env(
    monkeypatch: pytest.MonkeyPatch, only_our_environment: tuple[Path, Path]
) -> None:
    of_root, of_backend = only_our_environment
    of_backend.write_text("API_PORT=1001\nFLOWER_PORT=1002\nAPI_WORKERS=3\nUNKNOWN=4\n")
    of_root.write_text("API_PORT=2001\nFLOWER_PORT=2002\n")
    monkeypatch.setenv("API_PORT", "3001")
    found = settings()
    assert (found.api_port, found.flower_port, found.api_workers) == (3001, 2002, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfAPI_PORT=1001\nFLOWER_PORT=1002\n",
        b"API_PORT=1001\r\nFLOWER_PORT=1002\r\n",
        "# Größe\n\nexport API_PORT=1001\n  FLOWER_PORT = '1002'  # ports\nOTHER=ü".encode(),
    ],
    ids=["with a byte order mark", "with carriage returns", "with comments"],
)
def test_a_utf_8_file_is_read_with_bom_carriage_returns_or_comments(
    only_our_environment: tuple[Path, Path], content: bytes
) -> None:
    only_our_environment[1].write_bytes(content)
    found = settings()
    assert (found.api_port, found.flower_port) == (1001, 1002)


@pytest.mark.parametrize(
    "content",
    [
        "API_PORT=1001\nNAME=hidden ü\n".encode("latin-1"),
        "API_PORT=1001\n".encode("utf-16"),
        "API_PORT=1001\n".encode("utf-16-le"),
    ],
    ids=["Latin-1", "UTF-16", "UTF-16 without a byte order mark"],
)
def test_a_file_that_is_not_utf_8_is_refused_by_name(
    only_our_environment: tuple[Path, Path], content: bytes
) -> None:
    only_our_environment[0].write_bytes(content)
    expected = f"{only_our_environment[0]} is not UTF-8 text: save it in this encoding"
    assert refused() == expected


@pytest.mark.parametrize("line", ["API_PORT", "API_PORT: 80", "hidden", "'hidden", 'A="hidden'])
def test_a_line_that_is_no_assignment_is_refused_by_number(
    only_our_environment: tuple[Path, Path], line: str
) -> None:
    only_our_environment[1].write_text(f"FLOWER_PORT=1002\n{line}\n")
    assert refused() == f"line 2 of {only_our_environment[1]} is not NAME=value"


def test_a_folder_named_env_is_ignored(
    only_our_environment: tuple[Path, Path],
) -> None:
    only_our_environment[0].mkdir()
    assert settings().api_port == 8060


def test_a_file_that_cannot_be_read_is_named(
    only_our_environment: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_backend, of_root = only_our_environment
    of_root.symlink_to(of_root)
    assert refused() == f"cannot read {of_root}: Too many levels of symbolic links"
    of_root.unlink()

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_text", deny)
    assert refused() == f"cannot read {of_backend}: Permission denied"


def test_settings_of_the_files_are_in_a_tasks_environment(
    monkeypatch: pytest.MonkeyPatch, only_our_environment: tuple[Path, Path]
) -> None:
    of_root, of_backend = only_our_environment
    of_root.write_text(
        "# a comment\nOURS_A=root\nexport OURS_B='two words'\nOURS_C=\"a\\nb\" # more\n"
        "OURS_D=\nOURS_E=${OURS_A}/${OURS_G}\nOURS_G=root\nAPI_PORT=${OURS_PORT}\n"
    )
    of_backend.write_text("OURS_A=backend\nOURS_D=backend\nOURS_F=${OURS_A}\nOURS_PORT=1\n")
    monkeypatch.setenv("OURS_G", "environment")
    monkeypatch.setenv("OURS_PORT", "4000")
    assert settings().api_port == 4000
    assert {name[5:]: os.environ[name] for name in os.environ if name.startswith("OURS_")} == {
        "A": "root",
        "B": "two words",
        "C": "a\nb",
        "D": "",
        "E": "root/environment",
        "F": "root",
        "G": "environment",
        "PORT": "4000",
    }


def test_an_empty_environment_variable_overrides_the_files(
    monkeypatch: pytest.MonkeyPatch, only_our_environment: tuple[Path, Path]
) -> None:
    only_our_environment[0].write_text("API_PORT=2001\n")
    monkeypatch.setenv("API_PORT", "")
    assert (settings().api_port, os.environ["API_PORT"]) == (8060, "")


def test_the_env_files_are_in_the_project_and_in_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert backend.settings.ENV_FILES == (ROOT / ".env", ROOT / "backend" / ".env")
