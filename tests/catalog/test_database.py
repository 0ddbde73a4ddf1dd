"""The database under the catalog: units of work, what is refused, what is said when it fails."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from fourfold.catalog import database, faults, rows
from fourfold.catalog.database import Catalog
from fourfold.catalog.tables import project
from fourfold.core.errors import Corrupted, OutOfSpace, Refused, Unavailable


def note(connection: sa.Connection, key: str, value: str = "x") -> None:
    connection.execute(project.insert().values(key=key, value=value, at_us=1, by="me"))


def keys(catalog: Catalog) -> list[str]:
    with catalog.read() as connection:
        return list(connection.execute(sa.select(project.c.key).order_by(project.c.key)).scalars())


@pytest.mark.parametrize("durable", [False, True])
def test_a_write_commits_when_its_block_ends_well_and_not_when_it_raises(
    catalog: Catalog, durable: bool
) -> None:
    with catalog.write(durable=durable) as connection:
        note(connection, "kept")

    def fail() -> None:
        with catalog.write(durable=durable) as connection:
            note(connection, "gone")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert keys(catalog) == ["kept"]


def test_a_durable_write_is_synchronous_and_the_next_one_is_not(sqlite_catalog: Catalog) -> None:
    levels = []
    for durable in (True, False):
        with sqlite_catalog.write(durable=durable) as connection:
            levels.append(connection.exec_driver_sql("PRAGMA synchronous").scalar())
    assert levels == [2, 1]  # FULL, NORMAL


def test_readers_do_not_wait_for_a_writer(catalog: Catalog) -> None:
    with catalog.write() as connection:
        note(connection, "a")
        assert keys(catalog) == []
    assert keys(catalog) == ["a"]


def test_threads_that_write_at_once_lose_nothing(catalog: Catalog) -> None:
    def write(number: int) -> None:
        for index in range(10):
            with catalog.write() as connection:
                note(connection, f"{number}-{index}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys(catalog)) == 40


def test_a_full_disk_is_out_of_space_and_rolls_back(sqlite_catalog: Catalog) -> None:
    with sqlite_catalog.write() as connection:
        note(connection, "before")

    def fill() -> None:
        with sqlite_catalog.write() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
            for index in range(100):
                note(connection, f"big-{index}", "x" * 10_000)

    with pytest.raises(OutOfSpace, match="rolled back"):
        fill()
    assert keys(sqlite_catalog) == ["before"]


def test_a_lock_held_too_long_is_unavailable(
    sqlite_catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sqlite_catalog.path is not None
    other = sqlite3.connect(sqlite_catalog.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    with pytest.raises(Unavailable, match="locked"), sqlite_catalog.write():
        pass
    other.close()


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(Corrupted, match="no SQLite database"):
        Catalog.open(f"sqlite:///{tmp_path}/catalog.db")


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    pytest.importorskip("psycopg")
    catalog = Catalog("postgresql+psycopg://nobody@127.0.0.1:1/none?connect_timeout=2")
    with pytest.raises(Unavailable, match="PostgreSQL does not answer"), catalog.read():
        pass


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_catalog_in_memory_is_refused(url: str) -> None:
    with pytest.raises(Refused, match="same file"):
        Catalog(url)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "smb3", "fuse.sshfs"])
def test_a_network_file_system_is_refused(kind: str) -> None:
    mounts = f"/dev/vda / ext4 rw 0 0\nserver:/x /mnt/my\\040share {kind} rw 0 0\n"
    with pytest.raises(Refused, match="network file system"):
        faults.refuse_network_mount(Path("/mnt/my share/project/catalog.db"), mounts)
    faults.refuse_network_mount(Path("/home/me/catalog.db"), mounts)


def _open(url: str, start: object, answers: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        Catalog.open(url).close()
    except BaseException as error:
        answers.put(repr(error))  # type: ignore[attr-defined]
    else:
        answers.put("")  # type: ignore[attr-defined]


@pytest.mark.slow
def test_processes_that_open_a_fresh_project_at_once_all_succeed(catalog_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Event(), spawn.Queue()
    processes = [spawn.Process(target=_open, args=(catalog_url, start, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    assert [answers.get(timeout=60) for _ in processes] == [""] * 3
    for process in processes:
        process.join(timeout=60)
    assert keys(Catalog.open(catalog_url)) == []


def test_rows_whose_key_is_taken_stay_and_are_not_counted(catalog: Catalog) -> None:
    def row(key: str, value: str) -> dict[str, object]:
        return {"key": key, "value": value, "at_us": 1, "by": "me"}

    with catalog.write() as connection:
        assert rows.insert_new(connection, project, [row("a", "1"), row("b", "1")]) == 2
        assert rows.insert_new(connection, project, [row("a", "2"), row("c", "2")]) == 1
        assert rows.insert_new(connection, project, [row("a", "3")]) == 0
        rows.put(connection, project, row("b", "4"))
        found = connection.execute(sa.select(project.c.key, project.c.value).order_by(project.c.key))
        assert [tuple(pair) for pair in found] == [("a", "1"), ("b", "4"), ("c", "2")]
