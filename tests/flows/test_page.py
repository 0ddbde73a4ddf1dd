"""The page of the flows room says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from fourfold.core.decide.transitions import TRANSITIONS

PAGE = Path(__file__).parents[2] / "docs" / "internals" / "flows.md"


def test_the_page_and_the_code_have_the_same_table_of_moves() -> None:
    section = PAGE.read_text().partition("## States of a call")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (\w+) \|$", section, flags=re.MULTILINE)
    in_code = [(str(begin), str(move), str(end)) for (begin, move), end in TRANSITIONS.items()]
    assert sorted(rows) == sorted(in_code)


def test_every_file_that_the_page_names_is_there() -> None:
    page = PAGE.read_text().partition("## Parts")[2].partition("\n## ")[0]
    source = PAGE.parents[2] / "src" / "fourfold"
    for cell in re.findall(r"^\| (.*?) \|", page, flags=re.MULTILINE):
        folder = ""
        for name in re.findall(r"`([^`]+)`", cell):
            folder = name.rpartition("/")[0] or folder
            assert (source / folder / name.rpartition("/")[2]).is_file(), name
