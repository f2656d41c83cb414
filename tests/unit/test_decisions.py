"""The pages about decisions: they are short and listed, and their links resolve."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.stack import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "docs" / "decisions"
PAGES = sorted(FOLDER.glob("[0-9]*.md"))
MAX_LINES = 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_and_has_the_number_of_its_file(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert lines[0].startswith(f"# {page.stem.split('-')[0]}. ")


def test_each_page_is_listed_with_its_title() -> None:
    listed = re.findall(
        r"^(\d+)\. \[(.+)\]\((.+)\)$", (FOLDER / "README.md").read_text(), re.MULTILINE
    )
    titles = {page.name: page.read_text().splitlines()[0] for page in PAGES}
    assert {name: f"# {number}. {title}" for number, title, name in listed} == titles


def test_each_file_of_ours_that_a_page_names_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"`(backend/[\w/.]+)`", page.read_text()):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
