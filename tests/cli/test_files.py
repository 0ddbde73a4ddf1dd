"""`fourfold files`: folders in and out, and what changed between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Fourfold


@pytest.mark.slow
def test_folders_go_in_and_out_by_version_and_tag(fourfold: Fourfold, empty: Path) -> None:
    (empty / "in" / "deep").mkdir(parents=True)
    (empty / "in" / "a").write_bytes(b"first")
    (empty / "in" / "deep" / "b").write_bytes(b"same")
    assert fourfold("files", "ls").err.startswith("no files yet")
    made = fourfold("files", "put", "images", "in", "-m", "two files", "-o", "json").json
    assert (made["version"], made["file_count"], made["added_bytes"]) == (0, 2, 9)
    (empty / "in" / "a").write_bytes(b"second")
    (empty / "in" / "c").write_bytes(b"new")
    assert "9 B of 13 B" in fourfold("files", "put", "images", "in").out
    assert fourfold("files", "tag", "images", "gold", "--version", "0").code == 0
    assert [row["name"] for row in fourfold("files", "ls", "-o", "json").json] == ["images"]
    listed = fourfold("files", "ls", "images", "--tag", "gold", "-o", "json").json
    assert [row["path"] for row in listed] == ["a", "deep/b"]
    assert [line.split()[0] for line in fourfold("files", "diff", "images", "0").lines[1:]] == ["~", "+"]
    assert fourfold("files", "diff", "images", "1").err.strip() == "nothing changed"
    assert [row["version"] for row in fourfold("files", "history", "images", "-o", "json").json] == [1, 0]
    assert fourfold("files", "get", "images", "out", "--tag", "gold").code == 0
    assert (empty / "out" / "a").read_bytes() == b"first"
    assert fourfold("files", "show", "images", "--version", "0", "-o", "json").json["message"] == "two files"
    refused = fourfold("files", "get", "images", "out")
    assert (refused.code, "there already" in refused.err) == (1, True)
    assert "nothing is recorded" in fourfold("lineage", "files:images").err
    assert fourfold("files", "drop", "images").code == 0
    assert "were dropped" in fourfold("files", "show", "images").err
