"""The text of arguments in the ledger: JSON in one form, so that it can be searched."""

from __future__ import annotations

import json
import re

from pydantic_core import from_json, to_json

# Start of a number with a fraction or an exponent. A number that is read and written again may look
# different, such as 1.10.
FRACTION = re.compile(r"[0-9][.eE]")
# A string, or space outside of strings.
_PARTS = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\n\r]+')
_SURROGATE = re.compile("[\ud800-\udfff]")


def compact(text: str) -> str:
    """Return JSON text without space between its parts; only what JSON requires is escaped.

    Numbers and the order of keys stay as they are.
    """
    if not FRACTION.search(text):
        try:
            return to_json(from_json(text)).decode()
        except ValueError:  # a lone surrogate, or nested too deeply for Pydantic
            pass
    return _PARTS.sub(_with_letters, text)


def _with_letters(part: re.Match[str]) -> str:
    string = part[1] or ""
    if "\\" not in string:
        return string
    letters = json.dumps(json.loads(string), ensure_ascii=False)
    return string if _SURROGATE.search(letters) else letters
