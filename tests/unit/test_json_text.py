"""The text of JSON as the ledger stores it."""

from __future__ import annotations

import json

import pytest

from backend.json_text import compact


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ('{"content": "Hello World"}', '{"content":"Hello World"}'),
        ('[ 1 ,\n\t2, {"a" : null} ]', '[1,2,{"a":null}]'),
        ('{"a": 1.10, "b": "c : d"}', '{"a":1.10,"b":"c : d"}'),
        ('{"a": "\\u00e4"}', '{"a":"\u00e4"}'),
        ('{"a": "\\u00e4 \\\\u00e4 : ", "c": 1e5}', '{"a":"\u00e4 \\\\u00e4 : ","c":1e5}'),
        ('"\\ud83d\\ude00 1.5"', '"\U0001f600 1.5"'),
        ('"\\u0000 \\n"', '"\\u0000 \\n"'),
        ('"\\ud800 \\u00e4"', '"\\ud800 \\u00e4"'),
        (" 12345678901234567890 ", "12345678901234567890"),
    ],
)
def test_arguments_are_stored_without_space_and_escapes_and_mean_the_same(
    given: str, stored: str
) -> None:
    assert compact(given) == stored
    assert json.loads(compact(given)) == json.loads(given)


def test_deeply_nested_arguments_are_stored_too() -> None:
    assert compact("[ " * 500 + "]" * 500) == "[" * 500 + "]" * 500
