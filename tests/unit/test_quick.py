"""Parameters that are read without FastAPI's help: the values, and how a bad one is refused."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from backend.api import problems
from backend.api.quick import IDEMPOTENCY_KEY, WAIT

app = FastAPI()
problems.install(app)


@app.get("/")
async def read(request: Request) -> dict[str, Any]:
    return {"key": IDEMPOTENCY_KEY.of(request), "wait": WAIT.of(request)}


client = TestClient(app)


def test_a_parameter_that_is_not_given_has_its_default() -> None:
    assert client.get("/").json() == {"key": None, "wait": 0.0}
    assert client.get("/?other=1").json() == {"key": None, "wait": 0.0}


def test_parameters_are_read() -> None:
    answer = client.get("/?wait=2.5", headers={"idempotency-key": "a-1"})
    assert answer.json() == {"key": "a-1", "wait": 2.5}


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "caf\xe9".encode("latin-1")])
def test_a_bad_key_is_refused_by_its_name(key: str | bytes) -> None:
    value = key if isinstance(key, bytes) else key.encode()
    answer = client.get("/", headers=[(b"Idempotency-Key", value)])
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["Idempotency-Key"]


@pytest.mark.parametrize("wait", ["-1", "60.1", "nan", "inf", "soon", ""])
def test_a_bad_wait_is_refused_by_its_name(wait: str) -> None:
    answer = client.get(f"/?{urlencode({'wait': wait})}")
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == ["?wait"]


def test_what_the_documentation_says_of_them() -> None:
    assert "default" not in IDEMPOTENCY_KEY.openapi["schema"]
    assert WAIT.openapi["schema"] == {"type": "number", "minimum": 0, "maximum": 60, "default": 0.0}
