"""Scanning SQL: it is fast, and SQL that only resembles session state closes no connection."""

from __future__ import annotations

import time

import pytest

from backend.db.transaction_policy import _scan

LONG = {
    "comments before a word": "/* a */ " * 5_000 + "SELECT 1",
    "unclosed comments": "/* a " * 20_000,
    "brackets": "(" * 100_000 + "SELECT 1",
    "a literal of 5 MB": f"INSERT INTO t VALUES ('{'x' * 5_000_000}'); SELECT 1",
    "many quotes": "SELECT " + "''" * 100_000 + ";",
    "an unclosed quote": "SELECT '" + "x" * 1_000_000,
    "many statements": "SELECT 1;" * 20_000,
}


@pytest.mark.parametrize("sql", LONG.values(), ids=LONG)
def test_scanning_long_sql_is_fast(sql: str) -> None:
    began = time.process_time()
    found = _scan.__wrapped__(sql)
    assert time.process_time() - began < 2
    assert not found.ends


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT temp FROM readings",
        "SELECT 'hold', 'prepare', 'listen'",
        "UPDATE loads SET temporary = true",
        "SELECT pg_advisory_xact_lock(1)",
        "INSERT INTO notes VALUES ('CREATE TEMP TABLE a')",
        "/* LISTEN */ SELECT 1",
    ],
)
def test_sql_that_only_resembles_session_state_is_not_reported(sql: str) -> None:
    assert not _scan(sql).outlasts


@pytest.mark.parametrize(
    "sql",
    [
        "create temp table a (b int)",
        "CREATE OR REPLACE TEMP VIEW a AS SELECT 1",
        "CREATE LOCAL TEMPORARY TABLE a (b int)",
        "CREATE UNLOGGED TABLE b (); CREATE TABLE pg_temp.a (b int)",
        "SELECT 1 INTO TEMP a",
        "SELECT 1; LISTEN a",
        "  PREPARE a AS SELECT 1",
        "LOAD 'auto_explain'",
        "DECLARE a CURSOR WITH HOLD FOR SELECT 1",
        "SELECT pg_try_advisory_lock_shared (1)",
        "SET SESSION AUTHORIZATION somebody",
    ],
)
def test_sql_that_creates_session_state_is_found(sql: str) -> None:
    assert _scan(sql).outlasts
