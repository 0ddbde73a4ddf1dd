"""Forgetting a person: nothing of the rows is left in the project's folder, and what saw them is told."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.storage.backups import back_up, bring_back, opened
from tests.storage.test_erasing import NUMBER, PERSON, people
from tests.storage.traces import traces

import fourfold as ff
from fourfold.core.context import Ref
from fourfold.core.errors import NotFound, OutOfSpace, Refused
from fourfold.core.expectations import Expected, OnFailure
from fourfold.core.forgetting import PersonKey, Saw
from fourfold.core.lineage import Edge
from fourfold.core.settings import Settings
from fourfold.core.times import Instant
from fourfold.foundation.storage.service import Storage
from fourfold.wiring import Project

pytestmark = pytest.mark.slow

KEYS: tuple[PersonKey, ...] = ({"name": PERSON},)
CLI = "import sys; from fourfold.cli.main import run; sys.exit(run(sys.argv[1:]))"
BY_NUMBER: tuple[PersonKey, ...] = ({"id": str(NUMBER)},)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with closing(Project(tmp_path / ".fourfold", Settings())) as opened:
        yield opened


def lived(project: Project) -> Storage:
    """The person everywhere that a table's rows can be: versions, branches, figures, aside, waiting."""
    storage, datasets = project.storage, project.datasets
    storage.append("t", people("ada", "bob"))
    quarantine = OnFailure.quarantine
    expected = Expected((ff.expect.sql("name <> 'bad'"), ff.expect.not_null("about")), on_failure=quarantine)
    datasets.expect("t", expected)
    wrong = pa.table(
        {"name": [PERSON, "eve"], "id": [NUMBER, 5], "about": pa.array([None, None], pa.string())}
    )
    storage.append("t", pa.concat_tables([people("kim", PERSON), wrong]))
    datasets.statistics("t", version=0)
    datasets.statistics("t")
    storage.tag("t", "report", why="as sent")
    storage.fork("t", "dev")
    storage.append("t@dev", people(PERSON, "flo"))
    storage.upsert("t", people("kim", start=40), key=("name",))
    storage.evolve("t", rename={"about": "told"})
    storage.evolve("t", rename={"told": "about"})
    for number in range(3):
        storage.insert("t", people(PERSON, "gus", start=50 + number))
    return storage


def names(storage: Storage, **pin: Any) -> list[str]:
    return sorted(storage.read("t", columns=("name",), **pin)["name"].to_pylist())


@pytest.mark.parametrize("keys", [KEYS, BY_NUMBER])
def test_no_file_of_the_project_holds_the_person_afterwards(
    project: Project, tmp_path: Path, keys: tuple[PersonKey, ...]
) -> None:
    storage = lived(project)
    assert len(traces(tmp_path, PERSON, NUMBER)) > 6
    told = storage.forget("t", keys=keys, why="request 7")
    assert traces(tmp_path, PERSON, NUMBER) == []
    assert told.notes == ()
    assert (told.kept_rows, told.waiting_rows) == (1, 0)
    assert told.figures > 1
    assert names(storage) == ["ada", "bob", "gus", "gus", "gus", "kim"]
    assert names(storage, tag="report") == ["ada", "bob", "kim"]
    assert sorted(storage.read("t@dev")["name"].to_pylist()) == ["ada", "bob", "flo", "kim"]
    [rejection] = project.datasets.rejections("t")
    assert project.datasets.rejected_rows("t", rejection.id)["name"].to_pylist() == ["eve"]
    assert (rejection.rows, rejection.kept_rows) == (2, 1)
    assert project.datasets.statistics("t", version=1).rows == 3
    project.close()
    assert traces(tmp_path, PERSON, NUMBER) == []


def test_a_dry_run_says_it_all_and_changes_nothing(project: Project, tmp_path: Path) -> None:
    storage = lived(project)
    before = names(storage), names(storage, version=1), storage.history("t")
    would = storage.forget("t", keys=KEYS, dry_run=True)
    assert (names(storage), names(storage, version=1), storage.history("t")) == before
    assert (would.is_dry_run, would.id, would.waiting_rows, would.kept_rows) == (True, "", 3, 1)
    assert storage.forgotten("t") == ()
    did = storage.forget("t", keys=KEYS)
    there = {(each.name, each.version): each.rows for each in would.versions}
    flushed = {(each.name, each.version): each.rows for each in did.versions}
    assert there.items() <= flushed.items()
    assert PERSON in " ".join(before[1])


def test_what_saw_the_rows_is_told_by_lineage(project: Project) -> None:
    storage = project.storage
    storage.append("t", people("ada"))
    storage.append("t", people(PERSON))
    storage.overwrite("t", people("bob"))
    storage.append("derived", people("x"))
    storage.append("predictions.delays", people("y"))
    step, train = Ref("step", "run_1/build", "1"), Ref("training_set", "ts_1")
    edges = [
        (Ref("table", "t", "0"), Ref("run", "before")),
        (Ref("table", "t", "1"), step),
        (step, Ref("table", "derived", "0")),
        (step, train),
        (train, Ref("run", "run_9")),
        (Ref("run", "run_9"), Ref("model", "delays", "3")),
        (Ref("model", "delays", "3"), Ref("endpoint", "delays")),
        (Ref("table", "t", "2"), Ref("run", "after")),
    ]
    project.catalog.record_edges([Edge(source, target, None, Instant(0)) for source, target in edges])
    saw = storage.forget("t", keys=KEYS, dry_run=True).saw
    things = [Ref("endpoint", "delays"), Ref("model", "delays", "3"), Ref("run", "run_9")]
    things += [Ref("table", "derived", "0"), train]
    assert [each for each in saw if each.thing.name != "predictions.delays"] == [
        Saw(thing, Ref("table", "t", "1")) for thing in things
    ]
    told = storage.forget("t", keys=KEYS)
    assert told.saw == saw
    assert storage.forgotten("t")[0].told.saw == saw


def test_versions_that_are_cited_or_tagged_are_forgotten_from_too(project: Project) -> None:
    """A pin keeps a version from a vacuum, not a person's rows in it."""
    storage = project.storage
    storage.append("t", people("ada", PERSON))
    storage.tag("t", "gold")
    project.catalog.record_edges([Edge(Ref("table", "t", "0"), Ref("model", "m", "1"), None, Instant(0))])
    storage.overwrite("t", people("bob"))
    storage.forget("t", keys=KEYS)
    assert names(storage, tag="gold") == ["ada"]


def test_it_is_kept_that_rows_were_forgotten_and_never_whose(project: Project, tmp_path: Path) -> None:
    storage = project.storage
    storage.append("t", people("ada", PERSON))
    storage.append("t", people("bob"))
    told = storage.forget("t", keys=KEYS, why="request 7")
    [tombstone] = storage.forgotten("t")
    assert (tombstone.id, tombstone.why, tombstone.is_done) == (told.id, "request 7", True)
    assert (tombstone.columns, len(tombstone.digests)) == ((("name",),), 1)
    assert [(v.version, v.operation, v.rows, v.rows_forgotten) for v in storage.history("t")] == [
        (2, "erase", 2, 0),
        (1, "append", 2, 1),
        (0, "create", 1, 1),
    ]
    actions = [entry.action for entry in project.catalog.audit(kind="table", name="t")]
    assert actions[:3] == ["table.forgotten", "table.erase", "table.forget"]
    assert PERSON not in repr(project.catalog.audit()) + repr(tombstone)
    assert storage.forget("t", keys=KEYS).id == "", "there is nothing more to forget"
    assert len(storage.forgotten("t")) == 1


def test_one_that_was_cut_off_is_finished_by_doing_it_again(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the rows are gone already: what saw them was kept before."""
    storage = lived(project)
    project.catalog.record_edges([Edge(Ref("table", "t", "1"), Ref("model", "m", "1"), None, Instant(0))])
    kept = "fourfold.foundation.storage.checks.kept.Kept.without"

    def full(*_: object) -> None:
        raise OutOfSpace("no room")

    with monkeypatch.context() as patched:
        patched.setattr(kept, full)
        with pytest.raises(OutOfSpace):
            storage.forget("t", keys=KEYS)
    [begun] = storage.forgotten("t")
    assert not begun.is_done
    told = storage.forget("t", keys=KEYS)
    assert told.id == begun.id
    assert [saw.thing for saw in told.saw] == [Ref("model", "m", "1")]
    assert {(each.name, each.version) for each in told.versions} >= {("t", 1), ("t@dev", 0), ("t@dev", 1)}
    [done] = storage.forgotten("t")
    assert done.is_done
    assert traces(tmp_path, PERSON, NUMBER) == []


def test_an_insert_that_fitted_no_more_is_forgotten_where_it_was_kept(
    project: Project, tmp_path: Path
) -> None:
    storage = project.storage
    storage.append("t", people("ada"))
    storage.insert("t", people(PERSON, "eve"))
    project.tables.overwrite("t", pa.table({"x": ["1"]}))  # by somebody who does not flush before
    told = storage.forget("t", keys=KEYS)
    assert told.kept_rows == 1
    [rejection] = project.datasets.rejections("t")
    assert project.datasets.rejected_rows("t", rejection.id)["name"].to_pylist() == ["eve"]
    assert traces(tmp_path, PERSON, NUMBER) == []


def test_a_name_means_the_columns_that_ever_had_it(project: Project) -> None:
    storage = project.storage
    storage.append("t", people("ada", PERSON))
    storage.evolve("t", rename={"name": "old_name"})
    storage.evolve("t", add={"name": "string"})
    rows = pa.table({"old_name": ["kim", "eve"], "id": [1, 2], "about": ["", ""], "name": [PERSON, "eve"]})
    storage.append("t", rows)
    storage.forget("t", keys=KEYS)
    assert names(storage, version=0) == ["ada"]
    assert sorted(storage.read("t")["old_name"].to_pylist()) == ["ada", "eve"]


def test_who_reads_at_that_moment_holds_up_the_cleaning_and_is_told(project: Project, tmp_path: Path) -> None:
    storage = project.storage
    storage.append("t", people("ada", PERSON))
    project.datasets.statistics("t")
    path = project.database.path
    assert path is not None
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM storage_table").fetchone()
    import fourfold.catalog.database as database

    project.database._engine.dispose()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(database, "BUSY_TIMEOUT_S", 0.2)
        told = storage.forget("t", keys=KEYS)
    assert any("in use" in each for each in told.notes)
    assert not storage.forgotten("t")[0].is_done
    reader.close()
    project.database._engine.dispose()
    assert storage.forget_again("t") == (), "nobody's rows are there any more, and the files are clean now"
    assert storage.forgotten("t")[0].is_done
    assert traces(tmp_path, PERSON, NUMBER) == []


def test_a_table_that_is_not_there_or_no_table_is_refused(project: Project) -> None:
    storage = project.storage
    storage.append("t", people("ada"))
    storage.fork("t", "dev")
    with pytest.raises(Refused, match="is a branch"):
        storage.forget("t@dev", keys=KEYS)
    with pytest.raises(NotFound, match="does not exist"):
        storage.forget("u", keys=KEYS)
    with pytest.raises(Refused, match="no column 'nmae'") as caught:
        storage.forget("t", keys=({"nmae": PERSON},))
    assert PERSON not in str(caught.value)
    storage.drop("t")
    with pytest.raises(Refused, match="was dropped"):
        storage.forget("t", keys=KEYS)


def test_it_is_kept_on_either_database(records: Storage) -> None:
    records.append("t", people("ada", PERSON))
    records.append("t", people(PERSON, "bob"))
    told = records.forget("t", keys=KEYS, why="request 7")
    assert [(each.version, each.rows) for each in told.versions] == [(0, 1), (1, 2)]
    assert [(v.rows, v.rows_added, v.rows_forgotten) for v in records.history("t")] == [
        (2, 0, 0), (2, 1, 2), (1, 1, 1),
    ]  # fmt: skip
    assert records.forgotten("t")[0].told == told


def test_the_handle_takes_one_key_or_several(project: Project) -> None:
    storage = project.storage
    storage.append("t", people("ada", PERSON, "bob", "eve"))
    table = ff.table("t").__class__("t", storage=storage)
    assert table.forget({"name": ["ada", "bob"]}, dry_run=True).versions[0].rows == 2
    assert table.forget([{"name": "ada"}, {"id": NUMBER}], dry_run=True).versions[0].rows == 2
    with pytest.raises(Refused, match="an older version"):
        table.version(0).forget({"name": "ada"})
    table.forget({"name": "ada"})
    assert [each.is_done for each in table.forgotten()] == [True]


@pytest.mark.parametrize("keys", [KEYS, BY_NUMBER, ({"name": PERSON, "id": NUMBER},)])
def test_an_older_backup_that_is_brought_back_knows_whom_to_forget_again(
    tmp_path: Path, keys: tuple[PersonKey, ...]
) -> None:
    """Nobody has to remember the person: the newer backup beside it tells by digests alone."""
    place, home = tmp_path / "backups", tmp_path / "second" / ".fourfold"
    with opened(tmp_path / "first" / ".fourfold") as project:
        lived(project)
        back_up(project, place)
        project.storage.forget("t", keys=keys, why="request 7")
        project.storage.forget("t", keys=({"name": "nobody"},))
        back_up(project, place)
    bring_back(place, home, number=1)
    with opened(home) as project:
        storage = project.storage
        assert PERSON in names(storage, version=1)
        [tombstone] = storage.forgotten("t")
        assert (tombstone.why, tombstone.is_done) == ("request 7", False)
        [would] = storage.forget_again("t", dry_run=True)
        assert would.is_dry_run
        assert PERSON in names(storage, version=1)
        [told] = storage.forget_again("t")
        assert told.id == tombstone.id
        assert told.kept_rows == 1
        assert storage.forgotten("t")[0].is_done
        assert storage.forget_again("t") == ()
    assert traces(tmp_path / "second", PERSON, NUMBER) == []


def test_the_newest_backup_has_nothing_to_forget_again(tmp_path: Path) -> None:
    place, home = tmp_path / "backups", tmp_path / "second" / ".fourfold"
    with opened(tmp_path / "first" / ".fourfold") as project:
        lived(project)
        project.storage.forget("t", keys=KEYS)
        back_up(project, place)
    bring_back(place, home)
    with opened(home) as project:
        assert [each.is_done for each in project.storage.forgotten("t")] == [True]
        assert project.storage.forget_again("t") == ()


def test_a_forgetting_that_is_killed_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    """A real process, killed after longer and longer times, until one is quick enough to end."""
    base = tmp_path / "base"
    with closing(Project(base / ".fourfold", Settings())) as project:
        lived(project)
    command = [sys.executable, "-c", CLI, "table", "forget", "t", "--yes", "--key", f"name={PERSON}"]
    begun_s = time.monotonic()
    _forget(shutil.copytree(base, tmp_path / "whole"), command, after_s=None)
    whole_s = time.monotonic() - begun_s
    cut = 0
    for number in range(8):
        folder = shutil.copytree(base, tmp_path / f"cut-{number}")
        cut += _forget(folder, command, after_s=whole_s * (0.4 + 0.075 * number))
        with closing(Project(folder / ".fourfold", Settings())) as project:
            project.storage.forget("t", keys=KEYS)
            assert names(project.storage) == ["ada", "bob", "gus", "gus", "gus", "kim"]
            assert [each.is_done for each in project.storage.forgotten("t")] in ([True], [True, True])
        assert traces(folder, PERSON, NUMBER) == []
        shutil.rmtree(folder)
    assert cut


def _forget(folder: Path, command: list[str], *, after_s: float | None) -> bool:
    """Forget in a process of its own; whether it was killed before it ended."""
    environment = {**os.environ, "FOURFOLD_HOME": str(folder / ".fourfold"), "FOURFOLD_URL": ""}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            assert process.wait(after_s) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return True
    return False
