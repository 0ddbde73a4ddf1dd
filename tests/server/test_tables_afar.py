"""Tables from afar: all that can be done with one beside the project can be done over HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.storage.conftest import rows

from fourfold.adapters.remote import Remote
from fourfold.catalog.database import Catalog
from fourfold.core.catalog import Identity
from fourfold.core.errors import Conflict, Denied, NotFound, Refused, Unauthenticated
from fourfold.core.routes import Role
from fourfold.core.services.storage import Storage as Protocol
from fourfold.foundation.storage.api import Table
from fourfold.foundation.storage.service import Storage
from fourfold.server.app import Access, Bounds, Mounted, build_app
from fourfold.server.identity import Bearers
from fourfold.server.pages import About
from fourfold.testing.blobs import MemoryBlobs
from fourfold.testing.buffer import MemoryBuffer
from fourfold.testing.clock import MovableClock
from fourfold.testing.table_kit.given import stream
from fourfold.testing.tables import MemoryTables

from .conftest import OWNER, TOKENS, answering

pytestmark = pytest.mark.slow


def _identity(secret: str) -> Identity:
    for role in Role:
        if secret == TOKENS[role.name]:
            return Identity(f"a-{role.name}", role, f"tok_{role.name}")
    raise Unauthenticated("the token is not one of this project's")


@pytest.fixture
def url(sqlite_catalog: Catalog, clock: MovableClock, tmp_path: Path) -> Iterator[str]:
    service = Storage(sqlite_catalog, MemoryBlobs(), MemoryTables(), clock, buffer=MemoryBuffer())
    app = build_app(
        [Mounted("storage", Protocol, service)],
        access=Access(Bearers(OWNER, _identity)),
        about=About("1"),
        bounds=Bounds(body_bytes=10_000),
    )
    with answering(app, tmp_path / "s.sock") as address, closing(service):
        yield address


def _afar(url: str, token: str) -> Any:
    return closing(Remote(url, token))


@pytest.fixture
def afar(url: str) -> Iterator[Table]:
    with closing(Remote(url, OWNER)) as remote:
        yield Table("flights", storage=remote.service("storage", Protocol))


def n(table: Table) -> list[int]:
    return sorted(table.read(columns=["n"])["n"].to_pylist())


def test_a_table_is_changed_in_every_way_from_afar(afar: Table) -> None:
    afar.append(stream(*(rows(number) for number in range(50))))
    made = afar.upsert(stream(rows(1), rows(99)), key="n")
    assert (made.version, made.rows, made.rows_added, made.rows_removed) == (1, 51, 2, 1)
    afar.delete(where=[("n", ">", 2), ("n", "<", 99)])
    afar.evolve(add={"gate": pa.string()}, rename={"n": "number", "day": "dây/1"})
    assert afar.read(where=[("dây/1", ">", "2000-01-01")]).column_names == ["number", "dây/1", "gate"]
    assert afar.version(1).restore().operation == "restore"
    assert n(afar)[-2:] == [49, 99]
    assert afar.compact() is not None
    assert afar.compact() is None
    found = afar.diff(1, 2, key="n", limit=2)
    assert (found.removed, found.removed_rows[0]) == (47, {"n": 3, "day": "2013-01-01"})
    assert afar.changes(1, 2).read_all().num_rows == 47
    assert afar.vacuum(older_than="1d", dry_run=True).is_dry_run
    assert [version.operation for version in afar.history()][:2] == ["compact", "restore"]


def test_a_person_is_forgotten_from_afar(afar: Table) -> None:
    afar.append(rows(1, 2))
    afar.append(rows(3))
    would = afar.forget({"n": [1, 3]}, dry_run=True)
    assert [(each.version, each.rows) for each in would.versions] == [(0, 1), (1, 2)]
    assert n(afar) == [1, 2, 3]
    told = afar.forget({"n": [1, 3]}, why="request 7")
    assert told.versions == would.versions
    assert (n(afar), n(afar.version(0))) == ([2], [2])
    assert [(each.why, each.is_done) for each in afar.forgotten()] == [("request 7", True)]
    assert [version.rows_forgotten for version in afar.history()] == [0, 2, 1]


def test_rows_are_inserted_and_flushed_from_afar(afar: Table) -> None:
    assert afar.insert([{"n": 1}, {"n": 2}]).rows == 2
    assert afar.insert({"n": 3}).number == 1
    assert n(afar) == [1, 2, 3]
    assert afar.read().schema.metadata == {b"fourfold.version": b"0+3", b"fourfold.repeatable": b"false"}
    assert afar.describe().waiting_rows == 3
    assert (afar.flush().version, afar.describe().waiting_rows) == (1, 0)
    assert n(afar) == [1, 2, 3]


def test_a_branch_with_slashes_is_reached_by_its_address(afar: Table) -> None:
    afar.append(rows(1))
    branch = afar.branch("dev/try-1/a")
    branch.begin(why="to try")
    branch.append(rows(2))
    branch.tag("good")
    assert n(branch) == [1, 2]
    assert branch.describe().tags == {"good": 1}
    assert [each.address for each in afar.branches()] == ["flights@dev/try-1/a"]
    assert branch.publish(why="checked").rows == 2
    branch.drop()
    assert afar.branches() == ()
    with pytest.raises(NotFound, match="was dropped"):
        branch.read()
    with pytest.raises(Conflict):
        _both_change(afar)


def _both_change(table: Table) -> None:
    other = table.branch("dev/other")
    other.begin()
    other.delete(where=[])
    table.append(rows(5))
    other.publish()


def test_only_an_admin_removes_for_good_and_only_an_editor_changes(url: str, afar: Table) -> None:
    afar.append(rows(1))
    with _afar(url, TOKENS["editor"]) as remote:
        editor = Table("flights", storage=remote.service("storage", Protocol))
        editor.branch("dev").begin()
        editor.branch("dev").drop()
        for call in (editor.vacuum, editor.drop, editor.forgotten, lambda: editor.forget({"n": 1})):
            with pytest.raises(Denied):
                call()
    with _afar(url, TOKENS["viewer"]) as remote:
        viewer = Table("flights", storage=remote.service("storage", Protocol))
        assert viewer.diff(0).added == 0
        for change in (lambda: viewer.delete(where=[]), lambda: viewer.branch("x").begin(), viewer.compact):
            with pytest.raises(Denied):
                change()
    assert n(afar) == [1]


def test_a_stream_that_breaks_on_its_way_changes_nothing(url: str, afar: Table) -> None:
    afar.append(rows(1))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows().schema) as writer:
        for number in range(100):
            writer.write_table(rows(number))
    whole = bytes(sink.getvalue())
    broken = whole[:5_000] + b"\xff" * 200 + whole[5_200:]
    headers = {"Content-Type": "application/vnd.apache.arrow.stream", "Authorization": f"Bearer {OWNER}"}
    asked = urllib.request.Request(f"{url}/api/v1/tables/flights/append", broken, headers)
    with pytest.raises(urllib.error.HTTPError) as answer, urllib.request.urlopen(asked):
        pass
    assert answer.value.code == 422
    assert "not an Arrow IPC stream" in answer.value.read().decode()
    assert n(afar) == [1]
    with pytest.raises(Refused, match="missing: day"):
        afar.append(stream(pa.table({"n": [1]})))


def test_files_are_read_where_they_are_and_sent_as_they_are_read(afar: Table, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("n,day\n" + "".join(f"{number},2013-01-01\n" for number in range(5000)))
    bad.write_text("n,day\n1,2013-01-01\nx,2013-01-01\n")
    assert afar.append_file(good).rows == 5000
    with pytest.raises(Refused, match=r"bad\.csv, row 3, column 'n'"):
        afar.append_file([good, bad])
    assert afar.describe().version == 0
    assert afar.upsert_file(good, key="n").rows == 5000


def test_a_table_of_10_000_columns_goes_there_and_back(afar: Table) -> None:
    data = pa.table({"id": [1, 2], **{f"c{index}": [index, None] for index in range(1, 10_000)}})
    afar.append(data)
    afar.append(data.slice(1))
    assert (afar.describe().rows, len(afar.describe().columns)) == (3, 10_000)
    assert afar.version(0).read().equals(data)
    assert afar.read(columns=["c9999"], where=[("id", "==", 1)])["c9999"].to_pylist() == [9_999]
    assert afar.diff(0).added_rows[0]["id"] == 2
