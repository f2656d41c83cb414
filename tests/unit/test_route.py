"""Parameters that our route class reads: the values, and the errors for invalid ones."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from tests.support.routed import client, pointers


def test_a_missing_parameter_has_its_default() -> None:
    for query in ("", "?", "?&"):
        assert client.get(f"/{query}").json() == {"key": None, "wait": 0.0, "limit": 5}


def test_parameters_are_read() -> None:
    answer = client.get("/?wait=2.5&limit=7", headers={"idempotency-key": "a-1"})
    assert answer.json() == {"key": "a-1", "wait": 2.5, "limit": 7}


def test_the_first_of_two_headers_with_one_name_is_used() -> None:
    headers = [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b")]
    assert client.get("/", headers=headers).json()["key"] == "a"


@pytest.mark.parametrize("key", ["", "two words", "x" * 256, "caf\xe9".encode("latin-1")])
def test_an_invalid_key_is_refused_by_name(key: str | bytes) -> None:
    value = key if isinstance(key, bytes) else key.encode()
    answer = client.get("/", headers=[(b"Idempotency-Key", value)])
    assert pointers(answer) == ["Idempotency-Key"]


@pytest.mark.parametrize("wait", ["-1", "60.1", "nan", "inf", "soon", ""])
def test_an_invalid_wait_is_refused_by_name(wait: str) -> None:
    assert pointers(client.get(f"/?{urlencode({'wait': wait})}")) == ["?wait"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("status=FAILURE", ["?status"]),
        ("status", ["?status"]),
        ("Wait=1", ["?Wait"]),
        ("=1", ["?"]),
        ("status=a&status=b&wait=1&offset=3", ["?status", "?offset"]),
        ("state=a&wait=soon&limit=0", ["?state", "?wait", "?limit"]),
        ("idempotency-key=a", ["?idempotency-key"]),
    ],
)
def test_each_unknown_parameter_is_refused_and_the_known_ones_are_listed(
    query: str, named: list[str]
) -> None:
    answer = client.get(f"/?{query}")
    assert pointers(answer) == named
    assert answer.json()["errors"][0]["detail"] == "unknown parameter; known here: wait, limit"
    assert "known here: wait, limit" in answer.json()["detail"]


def test_a_route_without_parameters_refuses_any_parameter() -> None:
    answer = client.post("/nothing?limit=1")
    assert pointers(answer) == ["?limit"]
    assert answer.json()["errors"][0]["detail"] == "unknown parameter; this route takes none"


@pytest.mark.parametrize("query", ["limit=1&limit=2", "limit=1&limit=1", "limit=1&wait=2&limit="])
def test_a_repeated_parameter_is_refused(query: str) -> None:
    answer = client.get(f"/?{query}")
    assert "?limit" in pointers(answer)
    assert "give it once" in answer.json()["detail"]
