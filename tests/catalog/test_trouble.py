"""The catalog in trouble: full disks, damaged files, killed upgrades, lost servers, clocks that jump back."""

from __future__ import annotations

import itertools
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import fresh_postgres, import_all_tables
from tests.features.conftest import definitions, flights, service

from fourfold import wiring
from fourfold.catalog import ids, portable, upgrade
from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.catalog.tables import project as project_table
from fourfold.catalog.turns import Turns
from fourfold.core.context import Ref
from fourfold.core.errors import Corrupted, FourfoldError, OutOfSpace, Unavailable
from fourfold.core.lineage import Edge
from fourfold.core.models import Metric, NewRun
from fourfold.core.routes import Role
from fourfold.core.settings import Settings
from fourfold.core.times import Instant
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import MovableClock

from .test_old_data import old_sqlite

# Full disks


def _edges(project: wiring.Project) -> None:
    name = "x" * 2000
    things = [Ref("table", f"{name}{index}", "0") for index in range(20)]
    project.catalog.record_edges([Edge(a, b, None, Instant(1)) for a, b in itertools.pairwise(things)])


def _run(project: wiring.Project) -> None:
    project.models.create_run(NewRun(name="r", params={"p": "x" * 5000}))


def _metrics(project: wiring.Project) -> None:
    (run,) = project.models.search_runs(limit=1)
    now = project.clock.now()
    project.models.log(run.id, metrics=tuple(Metric(f"m{n}", 1.0, at=now, step=n) for n in range(500)))


WRITES: dict[str, Callable[[wiring.Project], object]] = {
    "a fact": lambda p: p.catalog.set_project("fact", "x" * 10_000),
    "an audit entry": lambda p: p.catalog.record("did", Ref("table", "t" * 10_000, "")),
    "edges": _edges,
    "a grant": lambda p: p.catalog.grant("g" * 256, Role.admin),
    "a token": lambda p: p.catalog.issue_token("ada", Role.viewer, purpose="x" * 10_000),
    "a tag": lambda p: p.storage.tag("t", "tag", why="x" * 10_000),
    "a dropped table": lambda p: p.storage.drop("gone", why="x" * 10_000),
    "a run": _run,
    "metrics": _metrics,
    "features": lambda p: p.features.apply(definitions(service)),
}


@pytest.fixture
def full(small_disk: Path, tmp_path: Path) -> Iterator[tuple[wiring.Project, Callable[[], None]]]:
    """A project whose catalog lies on a disk without any space, and what frees some."""
    settings = Settings(
        catalog=f"sqlite:///{small_disk}/catalog.db",
        storage=f"file://{tmp_path}/store",
        online=f"lmdb://{tmp_path}/online",
    )
    with closing(wiring.Project(tmp_path / "home", settings)) as project:
        project.catalog.grant("ada", Role.admin)
        for name, rows in (
            ("t", pa.table({"n": [1]})),
            ("gone", pa.table({"n": [1]})),
            ("departures", flights()),
        ):
            project.storage.append(name, rows)
        project.models.create_run(NewRun(name="first"))
        with closing(sqlite3.connect(small_disk / "catalog.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 1024)
            except OSError:
                pass
        yield project, lambda: ballast.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("write", sorted(WRITES))
def test_a_write_on_a_full_disk_is_refused_whole_and_done_once_there_is_space(
    full: tuple[wiring.Project, Callable[[], None]], write: str
) -> None:
    project, free = full
    before = _content(project.database)
    with pytest.raises(OutOfSpace):
        WRITES[write](project)
    assert _content(project.database) == before
    free()
    WRITES[write](project)
    after = _content(project.database)
    assert after != before
    with project.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"


def _content(catalog: Catalog) -> dict[str, bytes]:
    with catalog.snapshot() as connection:
        return {
            str(table.name): b"".join(portable.give(connection, table))
            for table in portable.tables(connection)
        }


# Damaged files


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_file_is_an_error_in_words_or_no_matter(tmp_path: Path, seed: int) -> None:
    path = old_sqlite("0001", tmp_path / "catalog.db")
    Catalog.open(f"sqlite:///{path}").close()
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    for _ in range(20):
        start = chance.randrange(100, len(data) - 600)
        data[start : start + 500] = chance.randbytes(500)
    path.write_bytes(data)
    with closing(wiring.Project(tmp_path / "home", Settings(catalog=f"sqlite:///{path}"))) as project:
        errors = []
        for ask in (
            lambda: project.catalog.project(),
            lambda: project.catalog.audit(limit=1000),
            lambda: project.catalog.lineage("table", "raw", version="1"),
            lambda: project.models.search_runs(),
            lambda: project.compute.jobs(),
            lambda: project.catalog.set_project("a", "b"),
            lambda: _content(project.database),
        ):
            try:
                ask()
            except (FourfoldError, ValueError) as error:  # a row whose bytes are no JSON any more
                errors.append(error)
        assert errors


def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path) -> None:
    path = old_sqlite("0001", tmp_path / "catalog.db")
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(Corrupted, match=r"damaged.*\n.*backup"):
        _content(Catalog(f"sqlite:///{path}"))


# Upgrades


KILLED = """
import os, signal, sys
from fourfold.catalog import upgrade
from fourfold.catalog.database import Catalog
inner = upgrade.migrate
def migrate(*args):
    inner(*args)
    os.kill(os.getpid(), signal.SIGKILL)
upgrade.migrate = migrate
Catalog.open(sys.argv[1])
"""
OPENED = """
import sys
from fourfold.catalog.database import Catalog
print("ready", flush=True)
sys.stdin.readline()
Catalog.open(sys.argv[1]).close()
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def old_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A catalog that an earlier release made."""
    path = old_sqlite("0001", tmp_path / "catalog.db")
    if request.param == "sqlite":
        yield f"sqlite:///{path}"
        return
    parts = _content(Catalog(f"sqlite:///{path}"))
    with fresh_postgres() as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(upgrade, "HEAD", "0001")
        with closing(Catalog(url)) as catalog:
            portable.take(catalog, "0001", [part.splitlines(keepends=True) for part in parts.values()])
        patch.undo()
        yield url


@pytest.mark.slow
def test_an_upgrade_that_is_killed_changes_nothing_and_the_next_one_goes_through(old_url: str) -> None:
    with closing(Catalog(old_url)) as old:
        before = _content(old)
        killed = subprocess.run([sys.executable, "-c", KILLED, old_url], check=False)
        assert killed.returncode == -signal.SIGKILL
        with old.read() as connection:
            assert upgrade.revision(connection) == "0001"
        assert _content(old) == before
    with closing(Catalog.open(old_url)) as catalog:
        after = _content(catalog)
    assert before["catalog_audit"] == after["catalog_audit"]
    assert {name: part.count(b"\n") for name, part in before.items()}.items() <= {
        name: part.count(b"\n") for name, part in after.items()
    }.items()


@pytest.mark.slow
def test_processes_that_upgrade_at_once_upgrade_once(old_url: str) -> None:
    with closing(Catalog(old_url)) as old:
        before = _content(old)["catalog_audit"]
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPENED, old_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        opener.communicate("go\n", timeout=120)
    assert [opener.returncode for opener in openers] == [0, 0, 0]
    with closing(Catalog.open(old_url)) as catalog:
        assert _content(catalog)["catalog_audit"] == before


# Servers that go


@pytest.mark.service
@pytest.mark.parametrize("is_durable", [False, True])
def test_a_server_that_drops_its_connections_is_unavailable_and_then_works_again(
    is_durable: bool, clock: MovableClock
) -> None:
    with fresh_postgres() as url, closing(Catalog.open(url)) as catalog:
        service = CatalogService(catalog, clock)
        service.set_project("before", "x")
        other = sa.create_engine(url)

        def terminate(process: int) -> None:
            with other.connect() as connection:
                connection.execute(sa.select(sa.func.pg_terminate_backend(process)))

        def cut_off() -> None:
            with catalog.write(durable=is_durable) as connection:
                process = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
                connection.execute(project_table.insert().values(key="gone", value="", at_us=1, by="me"))
                terminate(process)
                connection.execute(project_table.insert().values(key="gone too", value="", at_us=1, by="me"))

        with pytest.raises(Unavailable, match="PostgreSQL does not answer"):
            cut_off()
        assert service.project() == {"before": "x"}
        with catalog.read() as connection:  # and one that goes while nobody uses it
            process = connection.execute(sa.select(sa.func.pg_backend_pid())).scalar_one()
        terminate(process)
        service.set_project("after", "x")
        assert service.project() == {"after": "x", "before": "x"}
        other.dispose()


# Clocks that jump back


def test_a_clock_that_jumps_back_changes_no_order(storage: Storage, clock: MovableClock) -> None:
    storage.append("t", pa.table({"n": [1]}))
    storage.tag("t", "a")
    clock.advance(3600)
    storage.append("t", pa.table({"n": [2]}))
    later = clock.now()
    clock.advance(-1800)
    storage.append("t", pa.table({"n": [3]}))
    storage.tag("t", "a")
    assert storage.describe("t").version == 2
    assert [version.version for version in storage.history("t")] == [2, 1, 0]
    assert storage.read("t").num_rows == 3
    assert storage.read("t", at=clock.now()).num_rows == 3
    assert storage.read("t", at=later).num_rows == 3
    assert storage.describe("t").tags == {"a": 2}


def test_the_audit_is_in_the_order_of_deeds_whatever_the_clock_says(
    sqlite_catalog: Catalog, clock: MovableClock
) -> None:
    catalog = CatalogService(sqlite_catalog, clock)
    for number in range(5):
        clock.advance(-60)
        catalog.set_project("n", str(number))
    entries = catalog.audit()
    assert [entry.facts["value"] for entry in entries] == ["4", "3", "2", "1", "0"]


def test_identifiers_made_later_sort_later_though_the_clock_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time_ns() + 10**15
    made = []
    monkeypatch.setattr(ids, "_last", 0)
    for step_ns in (0, 10**9, -(10**12), 5 * 10**6):
        monkeypatch.setattr(time, "time_ns", lambda at=now + step_ns: at)
        made += [ids.new_id("run") for _ in range(50)]
    assert made == sorted(set(made))


# Turns


HOG = """
import sys
from fourfold.catalog.database import Catalog
catalog = Catalog(sys.argv[1])
number = 0
while True:
    with catalog.write() as connection:
        connection.exec_driver_sql("UPDATE catalog_project SET value = ? WHERE key = 'hog'", (str(number),))
    number += 1
    if number == 1:
        print("ready", flush=True)
"""


@pytest.mark.slow
def test_who_waits_is_not_passed_for_ever(sqlite_catalog: Catalog, clock: MovableClock) -> None:
    service = CatalogService(sqlite_catalog, clock)
    service.set_project("hog", "")
    hogs = [
        subprocess.Popen([sys.executable, "-c", HOG, sqlite_catalog.url], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    try:
        for hog in hogs:
            assert hog.stdout is not None
            assert hog.stdout.readline() == b"ready\n"
        for number in range(100):
            service.set_project("mine", str(number))
    finally:
        for hog in hogs:
            hog.kill()
            hog.communicate()
    assert service.project()["mine"] == "99"


def test_nobody_begins_past_the_sign_of_one_who_waited(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    held, waiting, coming = (sqlite3.connect(path, isolation_level=None, timeout=0) for _ in range(3))
    held.execute("CREATE TABLE t (n)")
    held.execute("BEGIN IMMEDIATE")
    his, mine = Turns(path), Turns(path)
    assert not his.begin(waiting, timeout_s=0.05), "it is held, and he gives up in time"
    held.execute("COMMIT")
    assert his._hold(2)  # LOCK_EX: the sign of one who waited for long
    assert not mine.begin(coming, timeout_s=0.0005)
    assert not coming.in_transaction
    his._let_go()
    assert mine.begin(coming, timeout_s=10)
    for each in (his, mine):
        each.close()
    for connection in (held, waiting, coming):
        connection.close()


# Rows as lines


@pytest.mark.slow
def test_tables_of_others_in_the_same_database_are_neither_copied_nor_touched(
    catalog_url: str, tmp_path: Path
) -> None:
    parts = _content(Catalog(f"sqlite:///{old_sqlite('0001', tmp_path / 'old.db')}"))
    with closing(Catalog.open(catalog_url)) as catalog:
        with catalog.write() as connection:
            connection.exec_driver_sql("CREATE TABLE theirs (n INTEGER)")
        assert "theirs" not in _content(catalog)
        portable.take(catalog, "0001", [part.splitlines(keepends=True) for part in parts.values()])
        with catalog.read() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM theirs").scalar() == 0


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
ROWS = st.lists(
    st.tuples(TEXT, st.binary(max_size=30), st.integers(-(2**62), 2**62), st.floats(allow_nan=False)),
    max_size=40,
    unique_by=lambda row: row[0],
)


@pytest.mark.slow
@pytest.mark.service
@settings(max_examples=3, deadline=None)  # each makes three databases
@given(rows=ROWS)
def test_rows_go_to_the_other_database_and_back_unchanged(rows: list[tuple[str, bytes, int, float]]) -> None:
    """Texts, bytes, numbers and floats of any kind, through lines of JSON."""
    import_all_tables()
    import tempfile

    with tempfile.TemporaryDirectory() as folder, closing(Catalog.open(f"sqlite:///{folder}/a.db")) as first:
        with first.write() as connection:
            for number, (text, data, whole, real) in enumerate(rows):
                connection.exec_driver_sql(
                    "INSERT INTO catalog_audit (at_us, principal, action, kind, name, version, facts)"
                    " VALUES (?, ?, 'a', 'b', ?, '', ?)",
                    (whole, text, text, data),
                )
                connection.exec_driver_sql(
                    "INSERT INTO catalog_project (key, value, at_us, by) VALUES (?, ?, ?, ?)",
                    (text, text, whole, text),
                )
                connection.exec_driver_sql(
                    "INSERT INTO compute_job VALUES (?, 1, 'k', '', 'f', '', '', '', 1, 1, '', '', NULL, ?,"
                    " NULL, NULL, ?, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, 0, 0, 0, '', '')",
                    (f"{number}{text}", real, number % 2),
                )
        expected = _content(first)
        content = expected
        with fresh_postgres() as url:
            for address in (url, f"sqlite:///{folder}/b.db"):
                with closing(Catalog(address)) as catalog:
                    parts = [part.splitlines(keepends=True) for part in content.values()]
                    portable.take(catalog, upgrade.HEAD, parts)
                    content = _content(catalog)
                assert content == expected
