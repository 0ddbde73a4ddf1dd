"""Iceberg as second table format."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from tests.conftest import fresh_postgres
from tests.iceberg_rest import rest_catalog
from tests.s3 import Answer, Ask, Asked, Proxy, fresh_bucket
from tests.storage.test_table_histories import Histories

from fourfold.adapters.iceberg import IcebergTables
from fourfold.adapters.object_store import ObstoreObjects, filesystem
from fourfold.core.errors import NotFound, Refused, Unavailable
from fourfold.core.objects import ObjectAddress
from fourfold.core.ports.tables import Mark, TableStore
from fourfold.testing.raising import raising
from fourfold.testing.table_kit import TableStoreKit
from fourfold.testing.table_kit.given import held, numbers, rows, stream
from fourfold.testing.tables import MemoryTables

pytestmark = pytest.mark.slow


def on_disk(folder: Path) -> IcebergTables:
    return IcebergTables(f"sqlite:///{folder}/iceberg.db", f"file://{folder}/warehouse")


@pytest.mark.slow
class TestIcebergOnDisk(TableStoreKit):
    @pytest.fixture
    def store(self, tmp_path: Path) -> TableStore:
        return on_disk(tmp_path)


@pytest.mark.slow
class TestIcebergOnS3(TableStoreKit):
    @pytest.fixture
    def store(self, tmp_path: Path, s3: str) -> TableStore:
        objects = ObstoreObjects(ObjectAddress.parse(s3))
        return IcebergTables(f"sqlite:///{tmp_path}/iceberg.db", s3, filesystem(objects))


@pytest.mark.slow
@pytest.mark.service
class TestIcebergOnPostgres(TableStoreKit):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TableStore]:
        with fresh_postgres() as url:
            yield IcebergTables(
                url.replace("postgresql+psycopg", "postgresql"), f"file://{tmp_path}/warehouse"
            )


@pytest.mark.slow
class TestIcebergByRest(TableStoreKit):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TableStore]:
        with rest_catalog(tmp_path) as address:
            yield IcebergTables(address, f"file://{tmp_path}/rest")


class IcebergHistories(Histories):
    """The same writes as to a store in memory that can do as much."""

    def __init__(self) -> None:
        super().__init__()
        memory = MemoryTables(abilities=on_disk(self.folder).abilities)
        self.stores = (memory, on_disk(self.folder))

    def vacuum(self) -> None: ...

    def compact(self) -> None: ...

    def erase(self) -> None: ...


TestIcebergHistories = IcebergHistories.TestCase
TestIcebergHistories.settings = settings(max_examples=settings().max_examples // 3, stateful_step_count=12)
TestIcebergHistories.pytestmark = [pytest.mark.property, pytest.mark.slow]  # type: ignore[attr-defined]


# What is acknowledged


def test_every_file_is_on_the_disk_before_the_catalog_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", fsync)
    catalog = SqlCatalog("fourfold", uri=f"sqlite:///{tmp_path}/iceberg.db")
    store = on_disk(tmp_path)
    with monkeypatch.context() as patched:
        committing = type(store._catalog.catalog).commit_table
        named: list[set[str]] = []

        def commit_table(self, table, requirements, updates):  # type: ignore[no-untyped-def]
            done = committing(self, table, requirements, updates)
            warehouse = tmp_path / "warehouse"
            named.append({str(path) for path in warehouse.rglob("*")} - synced)
            return done

        patched.setattr(type(store._catalog.catalog), "commit_table", commit_table)
        store.append("t", rows(1, 2), partition_by=("day",))
        store.append("t", stream(rows(3), rows(4)))
        store.delete("t", where=(("n", "==", 2),))
        store.upsert("t", rows(1), key=("n",))
    assert named == [set()] * 4
    with catalog.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_a_write_that_fails_leaves_no_data_file(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    store.append("t", rows(1))
    before = sorted(tmp_path.rglob("*.parquet"))

    def breaking() -> Iterator[pa.RecordBatch]:
        yield from rows(*range(100_000)).to_batches()
        raise Refused("line 3 is no row")

    with raising(Refused, naming="line 3"):
        store.append("t", pa.RecordBatchReader.from_batches(rows().schema, breaking()))
    assert sorted(tmp_path.rglob("*.parquet")) == before
    store.drop("t")
    assert list((tmp_path / "warehouse").rglob("*.parquet")) == []


@pytest.mark.parametrize("said", [KeyboardInterrupt, CommitFailedException, OSError])
def test_a_commit_whose_answer_is_lost_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: type[BaseException]
) -> None:
    store = on_disk(tmp_path)
    store.append("t", rows(1))
    kind = type(store._catalog.catalog)
    real = kind.commit_table

    def commit_table(self, table, requirements, updates):  # type: ignore[no-untyped-def]
        real(self, table, requirements, updates)
        raise said("lost")

    with monkeypatch.context() as patched:
        patched.setattr(kind, "commit_table", commit_table)
        if said is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                store.append("t", rows(2))
        else:
            assert store.append("t", rows(2)).version == 1
    assert numbers(store) == [1, 2]


DYING = """
import os, sys
from fourfold.adapters.iceberg import IcebergTables, files
from fourfold.testing.table_kit.given import rows
address, root, left = sys.argv[1], sys.argv[2], int(sys.argv[3])
closed = files._SyncedStream.close
def step():
    global left
    left -= 1
    if left == 0:
        os._exit(9)
def close(self):
    if not self.closed:
        step()
        closed(self)
        step()
files._SyncedStream.close = close
IcebergTables(address, root).upsert("t", rows(2, 3), key=("n",))
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_step_leaves_the_table_as_it_was_or_as_it_will_be(tmp_path: Path) -> None:
    address, root = f"sqlite:///{tmp_path}/iceberg.db", f"file://{tmp_path}/warehouse"
    store = on_disk(tmp_path)
    store.append("t", rows(1, 2))
    for step in range(1, 100):
        command = [sys.executable, "-c", DYING, address, root, str(step)]
        code = subprocess.run(command, timeout=100, check=False).returncode
        versions = store.snapshot("t").version + 1
        assert (code, versions) in {(9, 1), (0, 2)}
        assert numbers(store) == ([1, 2] if versions == 1 else [1, 2, 3])
        if code == 0:
            break
    assert step > 8  # data, manifests, their list, the metadata: before and after each


WRITER = """
import sys
from fourfold.adapters.iceberg import IcebergTables
from fourfold.testing.table_kit.given import rows
store = IcebergTables(sys.argv[1], sys.argv[2])
sys.stdin.readline()
for n in range(10):
    store.append("t", rows(int(sys.argv[3]) * 100 + n))
"""


@pytest.mark.slow
def test_four_writers_at_once_lose_nothing_and_fail_nothing(tmp_path: Path) -> None:
    address, root = f"sqlite:///{tmp_path}/iceberg.db", f"file://{tmp_path}/warehouse"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, address, root, str(n)], stdin=subprocess.PIPE)
        for n in range(4)
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    assert [writer.wait(200) for writer in writers] == [0] * 4
    store = on_disk(tmp_path)
    assert numbers(store) == [writer * 100 + n for writer in range(4) for n in range(10)]
    assert store.snapshot("t").version == 39


@pytest.mark.slow
def test_a_store_that_vanishes_in_mid_write_leaves_the_table_as_it_was(
    tmp_path: Path, moto: str, aws: pytest.MonkeyPatch
) -> None:
    bucket = fresh_bucket(moto)
    catalog = f"sqlite:///{tmp_path}/iceberg.db"
    for vanishing in (".parquet", "-m0.avro", "snap-", "metadata.json"):
        with Proxy(moto) as proxy:
            address = ObjectAddress.parse(f"s3://{bucket}?endpoint={proxy.endpoint}&patience_s=0.2")
            store = IcebergTables(catalog, str(address), filesystem(ObstoreObjects(address)))
            store.append("t", rows(1))

            def plan(asked: Asked, ask: Ask) -> Answer | None:
                if asked.method == "PUT" and vanishing in asked.path:  # noqa: B023
                    proxy.vanish()
                    return None
                return ask(asked)

            proxy.plan = plan
            with raising(Unavailable, naming=proxy.endpoint):
                store.append("t", rows(99))
        back = ObjectAddress.parse(f"s3://{bucket}?endpoint={moto}")
        store = IcebergTables(catalog, str(back), filesystem(ObstoreObjects(back)))
        assert set(numbers(store)) == {1}


# Other programs


def foreign(folder: Path) -> SqlCatalog:
    """The same catalog as other programs open it."""
    return SqlCatalog(
        "fourfold", uri=f"sqlite:///{folder}/iceberg.db", warehouse=f"file://{folder}/warehouse"
    )


def test_other_programs_read_what_we_write(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    store.append("t", rows(1, 2), partition_by=("day",))
    store.delete("t", where=(("n", "==", 1),))
    found = foreign(tmp_path).load_table("fourfold.t").scan().to_arrow()
    assert found.to_pylist() == rows(2).to_pylist()


def test_what_other_programs_write_becomes_versions(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    store.append("t", rows(1), mark=Mark(key="k", watermark=5))
    table = foreign(tmp_path).load_table("fourfold.t")
    table.append(rows(2))
    table.delete("n == 1")
    store.append("t", rows(3))
    assert [numbers(store, version=version) for version in range(4)] == [[1], [1, 2], [2], [2, 3]]
    told = [(each.version, each.rows, each.rows_added, each.rows_removed) for each in store.history("t")]
    assert told == [(3, 2, 1, 0), (2, 1, 0, 1), (1, 2, 1, 0), (0, 1, 1, 0)]
    assert store.snapshot("t").watermark == 5
    assert store.append("t", rows(1), mark=Mark(key="k")).version == 0


def test_a_table_of_another_program_is_read_and_gone_on_with(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    table = foreign(tmp_path).create_table("fourfold.theirs", schema=rows().schema)
    with raising(NotFound, naming="'theirs' does not exist"):  # it holds nothing yet
        store.snapshot("theirs")
    table.append(rows(1))
    assert numbers(store, name="theirs") == [1]
    store.append("theirs", rows(2))
    store.upsert("theirs", rows(1, 3), key=("n",))
    assert numbers(store, name="theirs") == [1, 2, 3]
    assert table.refresh().scan().to_arrow().num_rows == 3


def test_a_version_that_another_program_expired_is_not_found(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    for n in range(3):
        store.append("t", rows(n))
    table = foreign(tmp_path).load_table("fourfold.t")
    table.maintenance.expire_snapshots().by_id(table.metadata.snapshots[0].snapshot_id).commit()
    with raising(NotFound, naming="expired"):
        store.scan("t", version=0)
    assert store.append("t", rows(3)).version == 3
    assert numbers(store, version=1) == [0, 1]


def test_a_wrong_token_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rest_catalog(tmp_path, token="right") as address:
        monkeypatch.setenv("ICEBERG_TOKEN", "wrong")
        with raising(Refused, naming="ICEBERG_TOKEN"):
            IcebergTables(address, f"file://{tmp_path}/rest")
        monkeypatch.setenv("ICEBERG_TOKEN", "right")
        store = IcebergTables(address, f"file://{tmp_path}/rest")
        store.append("t", rows(1))
        assert held(store) == [(1, rows(1)["day"][0].as_py())]


def test_a_catalog_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    for address in ("http://127.0.0.1:1", "postgresql://nobody@127.0.0.1:1/none"):
        with raising(Unavailable, naming="catalog"):
            IcebergTables(address, f"file://{tmp_path}")
