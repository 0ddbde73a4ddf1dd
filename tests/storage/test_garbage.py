"""What is removed when nothing cites it, and what never is."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import import_all_tables

from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.catalog import cited
from fourfold.catalog.database import Catalog, metadata
from fourfold.core.errors import Corrupted, NotFound, Refused
from fourfold.core.ports.blobs import Digest
from fourfold.core.times import Instant
from fourfold.core.upkeep import GRACE_S, Fault
from fourfold.foundation.storage.marks import Marks
from fourfold.foundation.storage.upkeep import Upkeep, _digests
from fourfold.testing.blobs import MemoryBlobs
from fourfold.testing.clock import MovableClock

pytestmark = pytest.mark.slow

HOUR_S = 3600.0


def digest_of(number: int) -> Digest:
    return Digest(f"blake3:{number:064x}")


class Project:
    """Blobs, a catalog, and a clock that begins as the blobs' own."""

    def __init__(self, folder: Path, catalog: Catalog) -> None:
        self.folder = folder
        self.catalog = catalog
        self.blobs, self.uploads = LocalBlobs(folder / "blobs"), LocalBlobs(folder / "uploads")
        self.clock = MovableClock(Instant(time.time_ns() // 1000))
        self.upkeep = Upkeep(catalog, self.blobs, self.uploads, self.clock, folder=folder)

    def cite(self, digest: Digest, key: str = "fact") -> None:
        """Let a row name a digest."""
        with self.catalog.write() as connection:
            connection.exec_driver_sql(
                f"INSERT INTO catalog_project VALUES ('{key}', 'see {digest}.', 0, 'ada')"
            )

    def file_of(self, digest: Digest) -> Path:
        (path,) = (self.folder / "blobs").glob(f"??/??/{digest.removeprefix('blake3:')}")
        return path

    def spoil(self, digest: Digest) -> None:
        path = self.file_of(digest)
        path.chmod(0o644)
        path.write_bytes(b"wrong")


@pytest.fixture
def project(tmp_path: Path, sqlite_catalog: Catalog) -> Project:
    return Project(tmp_path, sqlite_catalog)


# What is cited


@pytest.mark.slow
def test_every_column_that_can_hold_a_digest_is_looked_at(catalog: Catalog) -> None:
    """A row in every table that any room has, with a digest in each column of text or bytes."""
    import_all_tables()
    expected: dict[Digest, str] = {}
    with catalog.write() as connection:
        loose = {"sqlite": "PRAGMA defer_foreign_keys=ON"}  # until the rollback
        connection.exec_driver_sql(
            loose.get(connection.dialect.name, "SET LOCAL session_replication_role = replica")
        )
        for table in metadata.sorted_tables:
            if table.name not in cited.HISTORY:
                row = filled(table, seed=len(expected))
                for column in table.columns:
                    if can_hold_a_digest(column):
                        digest = digest_of(len(expected) + 1)
                        is_bytes = isinstance(column.type, sa.LargeBinary)
                        row[column.name] = digest.encode() if is_bytes else digest
                        expected[digest] = f"{table.name}.{column.name}"
                connection.execute(table.insert().values(row))
        found = {citation.digest: citation for citation in cited.citations(connection)}
        connection.rollback()
    assert len(expected) > 100
    assert [expected[digest] for digest in set(expected) - set(found)] == []
    manifests = {expected[digest] for digest, citation in found.items() if citation.is_manifest}
    assert "model_version.manifest" in manifests


def can_hold_a_digest(column: sa.Column[Any]) -> bool:
    if isinstance(column.type, sa.String):
        return column.type.length is None or column.type.length >= len(digest_of(0))
    return isinstance(column.type, sa.LargeBinary | sa.JSON)


def filled(table: sa.Table, seed: int) -> dict[str, Any]:
    """A row with something in every column that needs it."""
    row: dict[str, Any] = {}
    for column in table.columns:
        if column.nullable and not column.primary_key:
            continue
        if isinstance(column.type, sa.LargeBinary):
            row[column.name] = b"%d" % seed
        elif isinstance(column.type, sa.String):
            row[column.name] = f"t{seed}"
        elif isinstance(column.type, sa.Boolean):
            row[column.name] = False
        else:
            row[column.name] = 1_000_000 + seed
    return row


def test_what_once_was_keeps_no_blob(project: Project) -> None:
    digest = project.blobs.put(b"told of in the audit")
    with project.catalog.write() as connection:
        connection.exec_driver_sql(
            "INSERT INTO catalog_node (kind, name, version) VALUES ('blob', ?, '')", (digest,)
        )
    project.clock.advance(GRACE_S + HOUR_S)
    assert project.upkeep.collect_garbage().removed_count == 1


def test_a_digest_is_found_wherever_in_a_long_text_it_lies() -> None:
    chance = random.Random(3)
    names = [digest_of(chance.getrandbits(256)) for _ in range(50)]
    text = "".join(name + "x" * chance.randrange(60_000) for name in names)
    text = text.replace(names[7], names[7].replace("blake3", "chunked"))
    blobs = MemoryBlobs()
    found = list(_digests(blobs.open(blobs.put(text.encode()))))
    assert found == [(name, name != names[7]) for name in names]


@given(st.lists(st.integers(0, 2**256 - 1), max_size=40), st.lists(st.integers(0, 2**256 - 1), max_size=10))
@settings(max_examples=20)
def test_marks_hold_what_was_added_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, added: list[int], others: list[int]
) -> None:
    marks = Marks(tmp_path_factory.mktemp("marks") / "cited")
    for number in added:
        marks.add(digest_of(number))
    for number in [*added, *others]:
        assert (digest_of(number) in marks) == (number in added)
    assert list(marks) == sorted(map(digest_of, set(added)))


# What is removed


def test_only_what_nothing_cites_and_is_old_is_removed(project: Project) -> None:
    kept, old = project.blobs.put(b"cited"), project.blobs.put(b"old")
    project.cite(kept)
    project.clock.advance(GRACE_S - HOUR_S)
    early = project.upkeep.collect_garbage()
    assert (early.removed_count, early.young_count, early.cited_count) == (0, 1, 1)
    project.clock.advance(2 * HOUR_S)
    assert project.upkeep.collect_garbage(is_dry_run=True).removed_bytes == len(b"old")
    assert project.blobs.has(old)
    done = project.upkeep.collect_garbage()
    assert (done.removed_count, done.cited_count, done.is_complete) == (1, 1, True)
    assert list(project.blobs.digests()) == [kept]
    with project.catalog.read() as connection:
        told = connection.exec_driver_sql("SELECT action FROM catalog_audit").scalars().all()
    assert told.count("storage.gc") == 2, "a dry run is no deed"


def test_what_a_manifest_cites_is_kept(project: Project) -> None:
    inner = project.blobs.put(b"a model's weights")
    manifest = project.blobs.put(json.dumps({"files": [{"path": "w", "blake3": inner}]}).encode())
    with project.catalog.write() as connection:
        connection.exec_driver_sql("CREATE TABLE of_a_later_room (id TEXT PRIMARY KEY, manifest TEXT)")
        connection.exec_driver_sql("INSERT INTO of_a_later_room VALUES ('a', ?)", (manifest,))
    project.clock.advance(2 * GRACE_S)
    assert project.upkeep.collect_garbage().removed_count == 0
    project.spoil(manifest)
    with pytest.raises(Corrupted, match=r"of_a_later_room id=a cannot be read.*nothing was removed"):
        project.upkeep.collect_garbage()
    with pytest.raises(NotFound, match="cannot be told"):
        project.upkeep.collect_garbage()
    assert project.blobs.has(inner)


def test_a_grace_that_protects_nothing_is_refused(project: Project) -> None:
    for grace_s in (0, -1, 3599, float("nan")):
        with pytest.raises(Refused, match="too short"):
            project.upkeep.collect_garbage(grace_s=grace_s)


def test_what_ran_out_of_time_says_so_and_is_gone_on_with(project: Project) -> None:
    for number in range(5):
        project.blobs.put(b"%d" % number)
    project.clock.advance(2 * GRACE_S)
    assert not project.upkeep.collect_garbage(timeout_s=-1).is_complete
    assert project.upkeep.collect_garbage().removed_count == 5


def test_pieces_of_an_upload_that_nobody_finished_go_after_a_day(project: Project) -> None:
    project.uploads.put(b"piece")
    assert project.upkeep.collect_garbage().pieces_removed_bytes == 0
    project.clock.advance(25 * HOUR_S)
    assert project.upkeep.collect_garbage().pieces_removed_bytes == 5
    assert list(project.uploads.digests()) == []


def test_a_killed_collection_leaves_nothing_that_hinders_the_next(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        project.blobs.put(b"%d" % number)
    project.clock.advance(2 * GRACE_S)
    done: list[Digest] = []
    real = project.blobs.collect

    def collect(digest: Digest, before: Instant) -> bool:
        if len(done) >= 2:  # four come at once
            raise KeyboardInterrupt
        done.append(digest)
        return real(digest, before)

    monkeypatch.setattr(project.blobs, "collect", collect)
    with pytest.raises(KeyboardInterrupt):
        project.upkeep.collect_garbage()
    monkeypatch.undo()
    assert project.upkeep.collect_garbage().is_complete
    assert list(project.blobs.digests()) == []


def test_what_is_put_and_cited_while_it_is_swept_is_never_lost(project: Project) -> None:
    """Old bytes that somebody puts anew are safe from the moment that the put returned."""
    data = [b"contested %d" % number for number in range(40)]
    for each in data:
        project.blobs.put(each)
    # The sweeper's clock runs a grace ahead but for what is put from now on.
    while time.time_ns() // 1000 <= project.clock.now() + 20_000:
        project.blobs.put(b"until the disk's clock has moved on")
    project.clock.advance(0.015 + HOUR_S)
    over = threading.Event()
    swept: list[int] = []

    def sweep() -> None:
        while not over.is_set():
            swept.append(project.upkeep.collect_garbage(grace_s=HOUR_S).removed_count)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    cited_digests = []
    for number, each in enumerate(data):
        digest = project.blobs.put(each)
        project.cite(digest, f"fact {number}")
        cited_digests.append(digest)
    over.set()
    sweeper.join(60)
    assert [project.blobs.get(digest) for digest in cited_digests] == data


# What is checked


def test_a_check_finds_wrong_bytes_and_who_needs_them(project: Project) -> None:
    good, bad = project.blobs.put(b"good"), project.blobs.put(b"bad")
    project.cite(bad)
    project.spoil(bad)
    checked = project.upkeep.check()
    assert (checked.count, checked.size_bytes, checked.next) == (1, 4, None)
    (found,) = checked.bad
    assert (found.digest, found.fault, found.cited_by) == (
        bad,
        Fault.corrupted,
        ("catalog_project key=fact",),
    )
    assert [each.digest for each in project.upkeep.quarantine()] == [bad]
    assert [(each.digest, each.fault) for each in project.upkeep.missing()] == [(bad, Fault.missing)]
    project.blobs.put(b"bad")
    assert project.upkeep.quarantine() == project.upkeep.missing() == project.upkeep.check().bad == ()
    assert project.blobs.has(good)


def test_a_check_goes_on_where_it_stopped(project: Project) -> None:
    expected = sorted(project.blobs.put(b"%d" % number) for number in range(7))
    seen: list[Digest | None] = []
    count, at = 0, None
    while True:
        checked = project.upkeep.check(after=at, timeout_s=-1)
        count += checked.count
        at = checked.next
        if at is None:
            break
        seen.append(at)
    assert count == 7
    assert seen == expected[:-1] or seen == expected


def test_what_was_put_aside_goes_once_it_is_healed_or_nobody_wants_it(project: Project) -> None:
    wanted, healed, unwanted = (project.blobs.put(each) for each in (b"a", b"b", b"c"))
    for digest in (wanted, healed):
        project.cite(digest, digest)
    for digest in (wanted, healed, unwanted):
        project.spoil(digest)
    assert len(project.upkeep.check().bad) == 3
    project.blobs.put(b"b")
    project.clock.advance(2 * GRACE_S)
    assert project.upkeep.collect_garbage().quarantine_removed_bytes == 2 * len(b"wrong")
    assert [each.digest for each in project.blobs.quarantined()] == [wanted]
