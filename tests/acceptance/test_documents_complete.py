"""The documents are complete: all settings, modules and changes of state."""

from __future__ import annotations

import re
from types import FunctionType

import sqlalchemy as sa

from backend.db import ledger
from backend.settings import Settings
from tests.support.stack import ROOT


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
    assert {name.upper() for name in Settings.model_fields} == rows.keys()
    for name, field in Settings.model_fields.items():
        if field.default_factory is None and field.default not in {"", None}:
            assert rows[name.upper()] == f"`{field.default}`", name
    compose_only = set(re.findall(r"\$\{(\w+):-", (ROOT / "docker-compose.yml").read_text()))
    for name in compose_only - rows.keys():
        assert f"`{name}`" in (ROOT / "README.md").read_text(), name


def test_every_module_is_in_the_map() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    shown = set(re.findall(r"^  ([\w/]+\.py) ", text, re.MULTILINE))
    there = {
        path.relative_to(ROOT / "backend").as_posix()
        for path in (ROOT / "backend").rglob("*.py")
        if path.name != "__init__.py" and path.parent.name != "versions"
    }
    assert there == shown


def test_every_state_change_is_in_the_table() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("\n## State machine\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \|", table, re.MULTILINE)
    shown = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    changing = {
        name
        for name, function in vars(ledger).items()
        if isinstance(function, FunctionType) and any(map(_changes, function.__code__.co_names))
    }
    assert changing == shown


def _changes(name: str) -> bool:
    """Return whether this is the name of statements of the ledger that change states."""
    found = vars(ledger).get(name)
    return any(
        isinstance(statement, sa.TextClause)
        and bool(re.search(r"SET state =|INSERT INTO tasks", statement.text))
        for statement in (found.values() if isinstance(found, dict) else [found])
    )
