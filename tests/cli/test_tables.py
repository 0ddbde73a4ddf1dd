"""What is done with tables by commands: versions compared, restored, compacted, vacuumed, branched, asked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from fourfold import wiring

from .conftest import Fourfold

pytestmark = pytest.mark.slow


@pytest.fixture
def planes(empty: Path) -> Path:
    """A project with a table of three versions, the first of them tagged."""
    with closing(
        wiring.Project(empty / ".fourfold", wiring.read_settings(empty / ".fourfold", {}))
    ) as project:
        storage = project.storage
        storage.append("planes", pa.table({"id": [1, 2], "change": ["a", "b"]}))
        storage.tag("planes", "first")
        storage.append("planes", pa.table({"id": [3], "change": ["c"]}))
        storage.upsert("planes", pa.table({"id": [2, 4], "change": ["B", "d"]}), key=("id",))
    return empty


def test_versions_are_compared_by_number_and_by_tag(fourfold: Fourfold, planes: Path) -> None:
    told = fourfold("table", "diff", "planes", "first", "--key", "id")
    assert "planes: version 0 to 2: 2 added, 0 removed, 1 changed" in told.err
    assert [line.split() for line in told.lines] == [
        ["CHANGE", "id", "change"], ["added", "3", "c"], ["added", "4", "d"],
        ["before", "2", "b"], ["after", "2", "B"],
    ]  # fmt: skip
    found = fourfold("table", "diff", "planes", "v0", "1", "-o", "json").json
    assert (found["added"], found["added_rows"]) == (1, [{"id": 3, "change": "c"}])
    assert "nothing differs" in fourfold("table", "diff", "planes", "1", "1").err
    assert "has no tag 'frist'" in fourfold("table", "diff", "planes", "frist").err


def test_a_table_is_restored_compacted_and_vacuumed(fourfold: Fourfold, planes: Path) -> None:
    assert "planes is at version 3: 2 rows" in fourfold("table", "restore", "planes@tag:first").err
    assert "planes is at version 4: 4 rows" in fourfold("table", "restore", "planes", "--version", "2").err
    assert "files became 1" in fourfold("table", "compact", "planes").err
    assert "nothing to gain: 1 files" in fourfold("table", "compact", "planes").err
    assert fourfold("table", "compact", "planes", "--cluster-by", "id").code == 0
    would = fourfold("table", "vacuum", "planes", "--older-than", "1h", "--dry-run")
    assert would.lines[0].startswith("would be removed")
    assert fourfold("table", "vacuum", "planes", "-o", "json").json["is_dry_run"] is False
    assert "a write may be under way" in fourfold("table", "vacuum", "planes", "--older-than", "1s").err
    assert fourfold("table", "restore", "planes").code == 1


def test_a_person_is_forgotten_once_it_is_confirmed(fourfold: Fourfold, planes: Path) -> None:
    would = fourfold("table", "forget", "planes", "--key", "change=b", "--dry-run")
    assert [line.split() for line in would.lines[1:3]] == [
        ["planes,", "version", "0", "1", "rows"],
        ["planes,", "version", "1", "1", "rows"],
    ]
    assert fourfold("table", "forget", "planes", "--key", "change=b", answers="n\n").code == 130
    assert "nothing of planes was forgotten" in fourfold("table", "forgotten", "planes").err
    asked = fourfold("table", "forget", "planes", "--key", "change=b", "--why", "request 7", answers="y\n")
    assert "planes: 2 versions with such rows, 1 files" in asked.err
    assert "forget these rows of planes for good?" in asked.err
    [told] = fourfold("table", "forgotten", "planes", "-o", "json").json
    assert (told["why"], told["is_done"], told["columns"]) == ("request 7", True, [["change"]])
    assert "done" in fourfold("table", "forgotten", "planes").lines[1]
    assert fourfold("table", "history", "planes").lines[0].split()[:7] == [
        "VERSION",
        "AT",
        "WHAT",
        "ROWS",
        "ADDED",
        "REMOVED",
        "FORGOTTEN",
    ]
    assert "b" not in {row["change"] for row in fourfold("table", "head", "planes@v1", "-o", "json").json}


def test_an_older_backup_says_that_somebody_is_to_be_forgotten_again(
    fourfold: Fourfold, planes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, second = str(planes / "backups"), planes / "second"
    assert fourfold("backup", place).code == 0
    assert fourfold("table", "forget", "planes", "--key", "id=2", "--yes").code == 0
    assert fourfold("backup", place).code == 0
    second.mkdir()
    monkeypatch.setenv("FOURFOLD_HOME", str(second / ".fourfold"))
    told = fourfold("restore", place, "--number", "1")
    assert (told.code, "forgotten 1 times, and they are here again" in told.err) == (0, True)
    assert "not finished" in fourfold("table", "forgotten").out
    assert "version 2" in fourfold("table", "forget", "planes", "--again", "--dry-run").out
    assert fourfold("table", "forget", "planes", "--again", answers="y\n").code == 0
    assert {row["id"] for row in fourfold("table", "head", "planes", "-o", "json").json} == {1, 3, 4}
    assert "holds nobody's rows" in fourfold("table", "forget", "planes", "--again").err
    assert fourfold("table", "forget", "planes", "--again", "--key", "id=2").code == 1


def test_keys_come_from_a_file_or_from_standard_input(fourfold: Fourfold, planes: Path) -> None:
    (planes / "keys.csv").write_text("id,change\n1,a\n3,c\n7,x\n")
    told = fourfold("table", "forget", "planes", "--keys", "keys.csv", "--yes", "-o", "json").json
    assert {each["version"]: each["rows"] for each in told["versions"]} == {0: 1, 1: 2, 2: 2}
    again = fourfold(
        "table", "forget", "planes", "--keys", "-", "--yes", "-o", "json", answers="id\n4\n"
    ).json
    assert [each["version"] for each in again["versions"]] == [2, 3]
    for arguments, why in [
        ((), "whose rows"),
        (("--key", "id"), "--key person=p-17"),
        (("--key", "idd=1"), "did you mean 'id'"),
        (("--keys", "nowhere.csv"), "cannot be read"),
    ]:
        wrong = fourfold("table", "forget", "planes", *arguments, "--yes")
        assert (wrong.code, why in wrong.err) == (1, True), wrong.err
    (planes / "ragged.csv").write_text("id,change\n1\n")
    assert "line 2" in fourfold("table", "forget", "planes", "--keys", "ragged.csv", "--yes").err


def test_a_branch_is_made_merged_and_dropped(fourfold: Fourfold, planes: Path) -> None:
    assert "no branches yet" in fourfold("table", "branch", "ls", "planes").err
    assert (
        "planes@dev/try-1 begins with 4 rows" in fourfold("table", "branch", "new", "planes", "dev/try-1").err
    )
    assert fourfold("table", "restore", "planes@dev/try-1@v0").code == 0
    assert fourfold("lineage", "table:planes@dev/try-1").lines[0] == "table:planes@dev/try-1@1"
    (listed,) = fourfold("table", "branch", "ls", "planes", "-o", "json").json
    assert (listed["name"], listed["version"], listed["rows"]) == ("dev/try-1", 1, 4)
    assert fourfold("table", "show", "planes@dev/try-1", "-o", "json").json["version"] == 1
    assert (
        "planes is at version 3"
        in fourfold("table", "branch", "merge", "planes", "dev/try-1", "--why", "ok").err
    )
    assert fourfold("table", "branch", "drop", "planes", "dev/try-1").code == 0
    assert fourfold("table", "branch", "ls", "planes", "-o", "jsonl").out == ""
    assert "cannot name a branch" in fourfold("table", "branch", "new", "planes", "v3").err


def test_a_name_with_a_version_is_taken_where_rows_are_shown(fourfold: Fourfold, planes: Path) -> None:
    for name, count in {"planes@v1": 3, "planes@tag:first": 2, "planes": 4}.items():
        assert len(fourfold("table", "head", name, "-o", "json").json) == count
    assert fourfold("table", "show", "planes@tag:first", "-o", "json").json["version"] == 0
    assert "names no version" in fourfold("table", "head", "planes@dev@oops").err
    assert "did not exist" in fourfold("table", "head", "planes@2013-06-01T00:00Z").err
    history = fourfold("table", "history", "planes", "-o", "json").json
    assert [version["rows_removed"] for version in history] == [1, 0, 0]


def test_a_query_names_versions_of_its_tables(fourfold: Fourfold, planes: Path) -> None:
    sql = 'select n.id from planes n left join "planes@tag:first" o using (id) where o.id is null order by 1'
    assert fourfold("table", "query", sql, "-o", "json").json == [{"id": 3}, {"id": 4}]
    assert (
        'quote a name with dots: "raw.planes"' in fourfold("table", "query", "select * from raw.planes").err
    )
    assert "has no version 9" in fourfold("table", "query", 'select * from "planes@v9"').err


def test_a_table_is_dropped_when_that_is_meant(fourfold: Fourfold, planes: Path) -> None:
    assert fourfold("table", "drop", "planes").code != 0  # nobody there to say yes
    assert fourfold("table", "ls", "-o", "json").json != []
    assert fourfold("table", "drop", "planes", "--yes", "--why", "wrong").code == 0
    assert fourfold("table", "ls", "-o", "json").json == []


def test_files_are_appended_and_upserted_as_one_version(fourfold: Fourfold, empty: Path) -> None:
    (empty / "1.csv").write_text("id,word\n1,a\n2,b\n")
    (empty / "2.jsonl").write_text('{"id":3,"word":"c"}\n')
    done = fourfold("table", "append", "words", str(empty / "[12].*"), "--type", "id=int32")
    assert done.err == "words is at version 0: 3 rows written\n"
    done = fourfold("table", "upsert", "words", str(empty / "2.jsonl"), "--key", "id")
    assert done.err == "words is at version 1: 1 rows written, 1 replaced\n"
    (empty / "3.csv").write_text("id,word\n4,d\nx,e\n")
    bad = fourfold("table", "append", "words", str(empty / "1.csv"), str(empty / "3.csv"))
    assert bad.code == 1
    assert "3.csv, row 3, column 'id'" in bad.err
    assert fourfold("table", "show", "words", "-o", "json").json["version"] == 1
    assert fourfold("table", "append", "words").code == 2
    assert "no file is named like" in fourfold("table", "append", "words", str(empty / "*.parquet")).err


def test_a_table_of_10_000_columns_is_shown_and_compared(fourfold: Fourfold, empty: Path) -> None:
    home = empty / ".fourfold"
    with closing(wiring.Project(home, wiring.read_settings(home, {}))) as project:
        data = pa.table({"id": [1], **{f"c{index}": [index] for index in range(1, 10_000)}})
        project.storage.append("wide", data)
        project.storage.append("wide", data)
    assert len(fourfold("table", "show", "wide", "-o", "json").json["columns"]) == 10_000
    assert "c9999" in fourfold("table", "show", "wide").out
    assert "1 added, 0 removed" in fourfold("table", "diff", "wide", "0").err
