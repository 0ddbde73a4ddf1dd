"""A backup is a whole state of the project, whatever goes on meanwhile; a restore brings back all of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from tests.conftest import fresh_postgres
from tests.features.conftest import definitions, flights, service
from tests.storage.backups import Dying, back_up, bring_back, content, content_of, fill, opened

from fourfold import wiring
from fourfold.core.errors import NotFound, Refused
from fourfold.core.lineage import Direction
from fourfold.core.ports.online import Space
from fourfold.core.settings import Settings
from fourfold.core.storage import BlobEntry, Digest
from fourfold.foundation.storage.backup import chosen
from fourfold.foundation.storage.restore import verify

pytestmark = pytest.mark.slow


@pytest.fixture
def project(home: Path) -> Iterator[wiring.Project]:
    with opened(home) as project:
        fill(project)
        yield project


# Whole


def test_what_is_brought_back_is_what_was_there(project: wiring.Project, tmp_path: Path) -> None:
    def asked(of: wiring.Project) -> list[object]:
        return [
            of.storage.read("flights").to_pylist(),
            of.storage.read("flights", tag="good").to_pylist(),
            of.storage.history("flights"),
            of.storage.read("flights@dev/try-1").to_pylist(),
            of.storage.history("flights@dev/try-1"),
            of.storage.branches("flights"),
            of.storage.list_tables(),
            of.catalog.lineage("table", "flights", version="0", direction=Direction.downstream),
            of.catalog.audit(limit=1000),
            of.catalog.grants(),
            of.catalog.project(),
            list(of.blobs.digests()),
        ]

    before = asked(project)
    backup = back_up(project, tmp_path / "backups")
    bring_back(tmp_path / "backups", tmp_path / "new" / ".fourfold")
    with opened(tmp_path / "new" / ".fourfold") as restored:
        assert asked(restored) == before
        with restored.online.read() as reader:
            assert dict(reader.scan(Space.buffer)) == {b"k%d" % n: bytes(range(256)) for n in range(3)}
        with pytest.raises(NotFound, match="was dropped"):
            restored.storage.read("gone")
        assert content(back_up(restored, tmp_path / "again")) == content(backup)
        assert restored.storage.append("flights", pa.table({"n": [4], "name": ["d"]})).version == 2


def test_rows_that_wait_in_the_buffer_are_brought_into_a_version_and_into_the_backup(
    catalog_url: str, tmp_path: Path
) -> None:
    with opened(tmp_path / "old" / ".fourfold", catalog=catalog_url) as project:
        project.storage.insert("events", pa.table({"n": [1]}))
        backup = back_up(project, tmp_path / "backups")
        project.storage.insert("events", pa.table({"n": [2]}))
    assert not [part for part in backup.catalog if part.table.startswith("buffered")]
    bring_back(tmp_path / "backups", tmp_path / "new" / ".fourfold")
    with opened(tmp_path / "new" / ".fourfold") as restored:
        assert restored.storage.read("events")["n"].to_pylist() == [1]
        restored.storage.insert("events", pa.table({"n": [3]}))  # numbered above what came with the table
        assert restored.storage.read("events")["n"].to_pylist() == [1, 3]


def test_an_insert_that_was_acknowledged_before_the_moment_is_in_the_backup(
    catalog_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that comes between the flush of what waits and the moment."""
    with opened(tmp_path / "old" / ".fourfold", catalog=catalog_url) as project:
        project.storage.insert("events", pa.table({"n": [1]}))
        flushed = project.storage.catch_up

        def and_then_somebody_inserts() -> None:
            flushed()
            project.storage.insert("events", pa.table({"n": [2]}))
            project.storage.insert("late", pa.table({"n": [9]}))

        monkeypatch.setattr(project.storage, "catch_up", and_then_somebody_inserts)
        backup = back_up(project, tmp_path / "backups")
        assert backup.inserted is not None
        assert backup.inserted.count == 2
        project.storage.flush("events")  # goes on, and the backup stays what it was
    with closing(wiring.open_archive(tmp_path / "backups")) as archive:
        verify(archive)
    bring_back(tmp_path / "backups", tmp_path / "new" / ".fourfold")
    with opened(tmp_path / "new" / ".fourfold") as restored:
        assert sorted(restored.storage.read("events")["n"].to_pylist()) == [1, 2]
        assert restored.storage.describe("events").waiting_rows == 1
        assert restored.storage.read("late")["n"].to_pylist() == [9]
        restored.storage.insert("events", pa.table({"n": [3]}))
        restored.storage.flush("events")
        assert sorted(restored.storage.read("events")["n"].to_pylist()) == [1, 2, 3]


def test_each_backup_of_a_project_that_is_inserted_into_has_what_was_acknowledged_before_it(
    catalog_url: str, tmp_path: Path
) -> None:
    """Each insert is followed by a fact that says so: no backup has the fact without the row."""
    is_over = threading.Event()
    with opened(tmp_path / "old" / ".fourfold", catalog=catalog_url) as project:
        project.storage.insert("events", pa.table({"n": [0]}))
        project.catalog.set_project("inserted", "0")

        def insert() -> None:
            number = 0
            while not is_over.is_set():
                number += 1
                project.storage.insert("events", pa.table({"n": [number]}))
                project.catalog.set_project("inserted", str(number))
                if number % 7 == 0:
                    project.storage.flush("events")

        thread = threading.Thread(target=insert)
        thread.start()
        try:
            for _ in range(4):
                back_up(project, tmp_path / "backups")
        finally:
            is_over.set()
            thread.join()
    for number in range(1, 5):
        home = tmp_path / f"new-{number}" / ".fourfold"
        bring_back(tmp_path / "backups", home, number=number)
        with opened(home) as restored:
            told = int(restored.catalog.project()["inserted"])
            found = sorted(restored.storage.read("events")["n"].to_pylist())
            assert found in (list(range(told + 1)), list(range(told + 2)))


@pytest.mark.service
@pytest.mark.slow
@pytest.mark.parametrize("form", ["backups", "file.zip"])
@pytest.mark.parametrize("is_afar", [False, True], ids=["files", "s3"])
def test_a_project_moves_to_postgresql_and_back_without_losing_a_row(
    project: wiring.Project, tmp_path: Path, s3: str, form: str, is_afar: bool
) -> None:
    there, back = tmp_path / "team" / ".fourfold", tmp_path / "laptop" / ".fourfold"
    storage = s3 if is_afar else ""
    first = content(back_up(project, tmp_path / form))
    with fresh_postgres() as url:
        bring_back(tmp_path / form, there, catalog=url, storage=storage)
        assert content_of(there, tmp_path / "b", catalog=url, storage=storage) == first
        with opened(there, catalog=url, storage=storage) as team:  # its counting keys go on
            newest = team.catalog.audit(limit=1)[0].sequence
            team.catalog.set_project("moved", "yes")
            assert team.catalog.audit(limit=1)[0].sequence == newest + 1
            assert team.storage.append("flights", pa.table({"n": [4], "name": ["d"]})).version == 2
            third = back_up(team, tmp_path / "c.zip")
    assert bool(list(there.rglob("*.parquet"))) is not is_afar
    bring_back(tmp_path / "c.zip", back)
    assert content_of(back, tmp_path / "d") == content(third)
    with opened(back) as laptop:
        assert laptop.storage.read("flights").num_rows == 4
        below = laptop.catalog.lineage("table", "flights", version="0", direction=Direction.downstream)
        assert len(below.nodes) > 1


@pytest.mark.parametrize("place", ["backups", "one.zip"])
def test_no_secret_is_copied(project: wiring.Project, tmp_path: Path, place: str) -> None:
    token = project.token.encode()
    back_up(project, tmp_path / place)
    if place == "backups":
        held = [path.read_bytes() for path in (tmp_path / place).rglob("*") if path.is_file()]
    else:
        with zipfile.ZipFile(tmp_path / place) as archive:
            held = [archive.read(name) for name in archive.namelist()]
    assert held
    assert not any(token in each for each in held)


@pytest.mark.slow
def test_a_place_belongs_to_one_project(project: wiring.Project, tmp_path: Path) -> None:
    back_up(project, tmp_path / "b")
    other = wiring.Project(tmp_path / "other", Settings(project="other"))
    with (
        closing(other),
        pytest.raises(Refused, match="this one is 'other'"),
    ):
        back_up(other, tmp_path / "b")


# While it is in use


def at(what: str, do: Callable[[], object]) -> Callable[[str, int, int], None]:
    """Progress that does something once, when the backup comes to `what`."""
    todo = [do]

    def progress(now: str, done: int, of: int) -> None:
        if now == what and todo:
            todo.pop()()

    return progress


def test_what_came_after_its_moment_is_not_in_it(project: wiring.Project, tmp_path: Path) -> None:
    def meanwhile() -> None:
        project.storage.append("flights", pa.table({"n": [9], "name": ["later"]}))
        project.catalog.set_project("later", "yes")

    with closing(wiring.new_archive(tmp_path / "b")) as archive:
        project.backups.write(archive, progress=at("tables", meanwhile))
    bring_back(tmp_path / "b", tmp_path / "new" / ".fourfold")
    with opened(tmp_path / "new" / ".fourfold") as restored:
        assert restored.storage.describe("flights").version == 1
        assert "later" not in restored.catalog.project()
        assert restored.storage.append("flights", pa.table({"n": [5], "name": ["e"]})).version == 2


@pytest.mark.slow
def test_a_version_that_the_catalog_has_not_heard_of_is_in_it(
    project: wiring.Project, tmp_path: Path
) -> None:
    project.tables.append("flights", pa.table({"n": [7], "name": ["g"]}))  # as a crash leaves it
    back_up(project, tmp_path / "b")
    bring_back(tmp_path / "b", tmp_path / "new" / ".fourfold")
    with opened(tmp_path / "new" / ".fourfold") as restored:
        assert restored.storage.describe("flights").version == 2


@pytest.mark.slow
def test_a_table_that_is_dropped_meanwhile_lets_it_begin_again(
    project: wiring.Project, tmp_path: Path
) -> None:
    with closing(wiring.new_archive(tmp_path / "b")) as archive:
        _, backup = project.backups.write(
            archive, progress=at("tables", lambda: project.storage.drop("parts"))
        )
    assert [table.name for table in backup.tables] == ["flights", "flights@dev/try-1"]


@pytest.mark.slow
def test_a_blob_that_is_collected_meanwhile_is_left_out(project: wiring.Project, tmp_path: Path) -> None:
    orphan = project.storage.put_blob(b"an orphan")
    others = [digest for digest in project.blobs.digests() if digest != orphan]
    found = project.blobs.entries

    def entries() -> Iterator[BlobEntry]:
        for entry in list(found()):
            project.blobs.delete(orphan)
            yield entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(project.blobs, "entries", entries)
        backup = back_up(project, tmp_path / "b")
    assert backup.blobs.count == len(others)


WRITER = """
import sys
import pyarrow as pa
from fourfold import wiring
project = wiring.open_project()
number = 0
while True:
    if number == 1:
        print("ready", flush=True)
    digest = project.storage.put_blob(b"blob %d" % number)
    project.storage.append("busy", pa.table({"n": [number], "blob": [digest]}))
    project.catalog.set_project("last", str(number))
    number += 1
"""


@pytest.mark.slow
def test_each_backup_of_a_busy_project_is_a_state_that_was(project: wiring.Project, tmp_path: Path) -> None:
    environment = {**os.environ, "FOURFOLD_HOME": str(project.home)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        noted = []
        for _ in range(3):
            noted.append(project.catalog.project().get("last", "-1"))
            back_up(project, tmp_path / "b")
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    for number in range(1, 4):
        home = tmp_path / f"new-{number}" / ".fourfold"
        bring_back(tmp_path / "b", home, number=number)
        with opened(home) as restored:
            known = restored.storage.history("busy", limit=10_000)
            assert restored.storage.describe("busy").version == known[0].version
            for version in known[:: max(1, len(known) // 8)]:
                rows = restored.storage.read("busy", version=version.version)
                assert rows.num_rows == version.rows
            for digest in rows["blob"].to_pylist():
                restored.storage.get_blob(Digest(digest))
            newest = restored.storage.read("busy")
            assert int(noted[number - 1]) <= max(newest["n"].to_pylist(), default=-1)
            entries = restored.catalog.audit(name="busy", limit=10_000)
            assert len(entries) == len(known)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["the catalog", "tables", "blobs"])
def test_pushed_events_that_move_to_their_table_meanwhile_are_there_once(
    project: wiring.Project, tmp_path: Path, moment: str
) -> None:
    """The way from the online store to a table is: plan, append under the plan's key, remove."""
    project.storage.append("departures", flights().schema.empty_table())
    project.features.apply(definitions(service))
    for number in range(4):
        project.features.push("departures", flights((number, "JFK", number, 5, 1.0, 1)))

    def meanwhile() -> None:
        project.features.flush("departures")
        project.features.push("departures", flights((9, "JFK", 9, 5, 1.0, 1)))
        project.features.flush("departures")

    with closing(wiring.new_archive(tmp_path / "b")) as archive:
        project.backups.write(archive, progress=at(moment, meanwhile))
    bring_back(tmp_path / "b", tmp_path / "new" / ".fourfold")
    with opened(tmp_path / "new" / ".fourfold") as restored:
        restored.features.flush("departures")
        assert sorted(restored.storage.read("departures")["flight"].to_pylist()) == [0, 1, 2, 3]


# Cut off


@pytest.mark.slow
def test_a_backup_that_is_cut_off_anywhere_is_none_and_the_next_goes_on(
    project: wiring.Project, tmp_path: Path
) -> None:
    place = tmp_path / "b"
    calls = 0
    while True:
        with closing(wiring.new_archive(place)) as archive:
            try:
                project.backups.write(Dying(archive, calls))  # type: ignore[arg-type]
                break
            except KeyboardInterrupt:
                calls += 7
        with closing(wiring.open_archive(place)) as cut_off, pytest.raises(Refused, match="no backup"):
            chosen(cut_off)
    assert calls > 20, "it was cut off at many places"
    with closing(wiring.open_archive(place)) as archive:
        verify(archive)
    bring_back(place, tmp_path / "new" / ".fourfold")
    assert project.storage.read("flights").num_rows == 3


@pytest.mark.slow
def test_a_backup_that_is_killed_leaves_the_project_as_it_is(project: wiring.Project, tmp_path: Path) -> None:
    for number in range(40):
        project.storage.put_blob(b"%d" % number * 10_000)
    code = (
        "import os, signal, sys\n"
        "from fourfold.adapters.local_blobs import LocalBlobs\n"
        "inner = LocalBlobs.put\n"
        "left = [20]\n"
        "def put(self, data):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return inner(self, data)\n"
        "LocalBlobs.put = put\n"
        "from fourfold.cli.main import run; sys.exit(run(['backup', sys.argv[1]]))"
    )
    environment = {**os.environ, "FOURFOLD_HOME": str(project.home)}
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], env=environment, check=False)
    assert killed.returncode == -9
    assert project.storage.append("flights", pa.table({"n": [4], "name": ["d"]})).version == 2
    kept = sum(1 for path in (tmp_path / "b").rglob("*") if path.is_file())
    assert kept > 10
    back_up(project, tmp_path / "b")
    with closing(wiring.open_archive(tmp_path / "b")) as archive:
        assert verify(archive).blobs.count == 42


@pytest.mark.slow
def test_the_next_backup_sends_only_what_is_new(project: wiring.Project, tmp_path: Path) -> None:
    back_up(project, tmp_path / "b")
    project.storage.append("flights", pa.table({"n": [4], "name": ["d"]}))
    new = project.storage.put_blob(b"new")
    sent: list[Digest] = []

    class Counting(Dying):
        def put(self, read: Callable[[], object]) -> Digest:
            before = set(pieces(tmp_path / "b"))
            digest = super().put(read)
            if digest not in before:
                sent.append(digest)
            return digest

    with closing(wiring.new_archive(tmp_path / "b")) as archive:
        project.backups.write(Counting(archive, 10_000))  # type: ignore[arg-type]
    # The blob and the list of blobs; a data file, a log entry and the list of files; four catalog tables.
    assert new in sent
    assert len(sent) <= 10


def pieces(place: Path) -> list[Digest]:
    return [Digest(f"blake3:{path.name}") for path in (place / "pieces").glob("??/??/*")]


@pytest.mark.slow
def test_data_files_that_are_there_are_not_read_again(
    project: wiring.Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(project, tmp_path / "b")
    read = project.copies.read
    paths: list[str] = []

    def watched(name: str, path: str) -> Iterator[bytes]:
        paths.append(path)
        return read(name, path)

    monkeypatch.setattr(project.copies, "read", watched)
    back_up(project, tmp_path / "b")
    assert paths
    assert not [path for path in paths if path.endswith(".parquet")]


@pytest.mark.slow
def test_two_backups_at_once_are_two(project: wiring.Project, tmp_path: Path) -> None:
    threads = [threading.Thread(target=back_up, args=(project, tmp_path / "b")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with closing(wiring.open_archive(tmp_path / "b")) as archive:
        assert archive.manifests() == (1, 2)
        for number in archive.manifests():
            verify(archive, number=number)
