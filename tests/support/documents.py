"""The documents for the tests: headings, links, code blocks, and how each block is tested.

Most blocks are run. Some must not be run, because they would install packages or start the service
again; these are checked in another way. A block of an unknown command is an error.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import click
import pytest
from flower.options import default_options

from backend.cli import commands
from backend.settings import Settings

from .stack import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

NAMES = ("README.md", "TASKS.md", "FLOWER.md", "QUICK_ACCESS.md", "CONTRIBUTING.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block; `answer` is the block below it if that shows the output of the command."""

    document: str
    line: int
    language: str
    text: str
    answer: Block | None = None

    @property
    def where(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """Return the words of each command; continued lines are joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@dataclass(frozen=True)
class Document:
    """One of the documents."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def prose(self) -> str:
        """Return the text without its code blocks."""
        return FENCE.sub("", self.text)

    @cached_property
    def blocks(self) -> list[Block]:
        """Return the code blocks in order; an answer belongs to the block of its command."""
        found: list[Block] = []
        last_end = -1
        for match in FENCE.finditer(self.text):
            line = self.text.count("\n", 0, match.start()) + 1
            block = Block(self.path.name, line, match[1], match[2])
            between = self.text[last_end : match.start()].strip() if found else "text"
            last_end = match.end()
            if block.language in {"json", "http"} and found and not between:
                asked = found.pop()
                assert asked.language == "bash", block.where
                block = Block(asked.document, asked.line, asked.language, asked.text, block)
            found.append(block)
        return found

    @cached_property
    def anchors(self) -> set[str]:
        """Return the anchors of the headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}

    @property
    def links(self) -> list[str]:
        """Return the targets of its links within the project."""
        targets = re.findall(r"\]\(([^)]+)\)", self.prose)
        return [target for target in targets if "://" not in target]

    @property
    def addresses(self) -> set[str]:
        """Return the addresses of the running service that it links to."""
        return set(re.findall(r"<(http://localhost:\d+[^>]*)>", self.prose)) | set(
            re.findall(r"\]\((http://localhost:\d+[^)]*)\)", self.prose)
        )


def documents() -> list[Document]:
    return [Document(ROOT / name) for name in NAMES]


def blocks(language: str) -> list[Block]:
    return [
        block for document in documents() for block in document.blocks if block.language == language
    ]


# --- Commands that are not run, each with how it is checked


def _make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words[: words.index("|")] if "|" in words else words:
        name, _, value = word.partition("=")
        if not value:
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"make {name}"
        elif name in {"SEED", "SECONDS", "BROKER"}:
            assert words[0] == "chaos", words
            assert value in {"rabbitmq", "valkey"} if name == "BROKER" else value.isdigit(), word
        else:
            assert name in {"ARGS", "PYTHON", "BASE"}, word
            for path in re.findall(r"tests/\S+", value):
                assert (ROOT / path).exists(), path
            if "--thorough" in value:
                assert "--thorough" in (ROOT / "tests" / "conftest.py").read_text()


def _docker(words: list[str]) -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    _, _, services_on = compose.partition("\nservices:\n")
    services = set(
        re.findall(r"^  (\w+):$", services_on.partition("\nvolumes:\n")[0], re.MULTILINE)
    )
    assert words[0] == "compose", words
    arguments = words[1 : words.index("|")] if "|" in words else words[1:]
    if not arguments:
        return
    if arguments[0] == "--profile":
        assert f"profiles: [{arguments[1]}]" in compose, arguments
        arguments = arguments[2:]
    verb, *rest = arguments
    assert verb in {"up", "down", "ps", "logs", "restart", "exec"}, verb
    named = [re.sub(r"=\d+$", "", word) for word in rest if not word.startswith("-")]
    for service in named[:1] if verb == "exec" else named:
        assert service in services, service
    if verb == "exec" and rest[1] == "tasks-api":
        _tasks_api(rest[2:])


def _tasks_api(words: list[str]) -> None:
    assert isinstance(commands, click.Group)
    command = commands.commands[words[0]]
    parser = command.make_parser(click.Context(command))
    try:
        _, more, _ = parser.parse_args(words[1:])
    except click.UsageError as error:
        raise AssertionError(error.message) from None
    assert not more, words


def _pip(words: list[str]) -> None:
    for place, word in enumerate(words):
        if word == "-r":
            assert (ROOT / words[place + 1]).exists(), words
        elif word == "-e":
            assert (ROOT / words[place + 1] / "pyproject.toml").exists(), words


def _cp(words: list[str]) -> None:
    assert (ROOT / words[0]).exists(), words


def _python(words: list[str]) -> None:
    assert words[:2] == ["-m", "venv"], words


def _apt_get(words: list[str]) -> None:
    assert words == ["install", "python3", "python3-venv", "make"], words


def _psql(words: list[str]) -> None:
    embedded = (ROOT / "backend" / "local" / "lifetime.py").read_text()
    assert words == ["-h", "$(jq -r .sockets .data/running.json)", "-U", "postgres", "postgres"]
    assert '"sockets": str(sockets)' in embedded


_NOT_RUN: Mapping[str, Callable[[list[str]], None]] = {
    "make": _make,
    "docker": _docker,
    ".venv/bin/tasks-api": _tasks_api,
    ".venv/bin/pip": _pip,
    "cp": _cp,
    "apt-get": _apt_get,
    "psql": _psql,
}
_RUN = {"curl", "printf", "for", "do", "done", "echo", "until", "watch", "sleep", "node", "python3"}
_RUN |= {".venv/bin/celery", ".venv/bin/python", "-d", "-H"}


def _is_run(words: list[str]) -> bool:
    return words[0] in _RUN or words[0].startswith("TASK_ID=$(curl")


def checked(block: Block) -> bool:
    """Check a block that must not be run; return False for one that is to be run.

    Raises AssertionError for a command that does not exist, or that this module does not know.
    """
    if block.text.startswith("python3 -m venv"):
        _python(block.commands[0][1:])
        rest = block.commands[1:]
    elif block.commands[0][0] in _NOT_RUN:
        rest = block.commands
    else:
        strange = [words for words in block.commands if not _is_run(words)]
        assert not strange, f"{block.where}: neither run nor known: {strange}"
        return False
    for program, *words in rest:
        assert program in _NOT_RUN, f"{block.where}: give {program} its own block"
        try:
            _NOT_RUN[program](words)
        except (AssertionError, KeyError) as error:
            raise AssertionError(f"{block.where}: {program} {words}: {error}") from error
    return True


# --- Answers


def shortened(text: str) -> str:
    """Return a text in which slow tasks take one second, in commands and in their output.

    Tasks of a minute are unchanged, because the documents revoke them.
    """
    text = re.sub(r"duration=(?!60\b)\d+", "duration=1", text)
    return re.sub(r"(enqueued for|completed after) \d+ seconds", r"\1 1 seconds", text)


def known_settings() -> set[str]:
    """Return the names of all settings, including Flower's own."""
    ours = {name.upper() for name in Settings.model_fields}
    return ours | {f"FLOWER_{name.replace('-', '_').upper()}" for name in default_options}


everywhere = pytest.mark.parametrize("document", documents(), ids=lambda d: d.path.name)
