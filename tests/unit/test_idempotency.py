"""Idempotency keys: one that is purged while it is asked for is a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from backend.db.idempotency import Key, remember

if TYPE_CHECKING:
    from sqlalchemy import Connection, TextClause


class Table:
    """A table with an old key, which is purged when the first insert has met it."""

    def __init__(self, *old: Key) -> None:
        self._rows = {key.key: key for key in old}
        self._purged = False

    def execute(self, statement: TextClause, values: dict[str, list[str]]) -> list[Key]:
        if "INSERT" not in statement.text:
            return [self._rows[key] for key in values["keys"] if key in self._rows]
        for row in zip(values["keys"], values["fingerprints"], values["answers"], strict=True):
            self._rows.setdefault(row[0], Key(*row))
        if not self._purged:
            self._purged = True
            del self._rows["old"]
        return []


def test_a_key_that_is_purged_between_insert_and_look_is_stored_as_new() -> None:
    table = Table(Key("old", "before", "first"))
    again, other = Key("old", "now", "second"), Key("new", "now", "third")
    found = remember(cast("Connection", table), [again, other])
    assert found == {"old": again, "new": other}
