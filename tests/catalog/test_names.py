"""Names that people give, on both databases: what may be kept comes back as it was; the rest is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from tests.conftest import fresh_postgres

from fourfold.adapters.delta.store import DeltaTables
from fourfold.adapters.local_blobs import LocalBlobs
from fourfold.catalog import portable, upgrade
from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core.catalog import acting_as
from fourfold.core.context import Ref
from fourfold.core.errors import NotFound, Refused
from fourfold.core.lineage import Direction, Edge
from fourfold.core.routes import Role
from fourfold.core.times import Instant
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import MovableClock

ROW = pa.table({"n": [1]})
STRANGE = [
    "it's",
    'say "hi"',
    "back\\slash",
    "per%cent_",
    "dröp; --",
    "\u2708\ufe0f\U0001f600",
    "名前",
    "a b",
]
"""Texts that no statement, pattern or encoding may trip over."""


@pytest.fixture
def storage(catalog: Catalog, tmp_path: Path, clock: MovableClock) -> Storage:
    return Storage(catalog, LocalBlobs(tmp_path / "blobs"), DeltaTables(tmp_path / "tables"), clock)


def test_a_table_is_named_in_letters_digits_and_few_signs(storage: Storage) -> None:
    for name in (
        *STRANGE,
        "a/b",
        "../a",
        "",
        " ",
        ".hidden",
        "a..b",
        "a.",
        "x" * 129,
        "x" * 300,
        "a\n",
        "a\0",
    ):
        with pytest.raises(Refused, match="cannot name a table") as caught:
            storage.append(name, ROW)
        assert len(str(caught.value)) < 400
    for name in ("x" * 128, "raw.flights", "0", "_", "A-b_c.9"):
        assert storage.append(name, ROW).name == name
    assert len(storage.list_tables()) == 5


def test_names_that_differ_in_case_are_two_tables(storage: Storage) -> None:
    storage.append("Flights", ROW)
    storage.append("flights", pa.table({"m": ["x"]}))
    storage.tag("Flights", "a")
    assert [info.name for info in storage.list_tables()] == ["Flights", "flights"]
    assert storage.read("Flights").column_names == ["n"]
    assert storage.describe("flights").tags == {}
    storage.drop("Flights")
    assert storage.read("flights").column_names == ["m"]
    with pytest.raises(NotFound, match="was dropped"):
        storage.read("Flights")


def test_a_branch_is_named_as_a_path_of_such_names(storage: Storage) -> None:
    storage.append("t", ROW)
    for branch in (
        *STRANGE,
        "a//b",
        "/a",
        "a/",
        "a/../b",
        "a/b/c/d/e",
        "",
        "main",
        "x" * 101,
        "x" * 300,
        "a@b",
        "a~b",
    ):
        with pytest.raises(Refused):
            storage.fork("t", branch)
    for branch in ("dev/try-1", "Dev/try-1", "a/b/c/d", "x" * 100):
        storage.fork("t", branch)
        storage.append(f"t@{branch}", ROW)
    assert [branch.name for branch in storage.branches("t")] == sorted(
        ["dev/try-1", "Dev/try-1", "a/b/c/d", "x" * 100]
    )
    assert storage.read("t@Dev/try-1").num_rows == 2


@pytest.mark.parametrize("tag", [*STRANGE, "Good", "x" * 100])
def test_a_tag_is_nearly_any_text(storage: Storage, tag: str) -> None:
    storage.append("t", ROW)
    storage.tag("t", tag, why=f"because of {tag}")
    storage.append("t", ROW)
    twin = (tag.swapcase() + "2")[-100:]
    storage.tag("t", twin)
    assert storage.describe("t").tags == {tag: 0, twin: 1}
    assert storage.read("t", tag=tag).num_rows == 1
    with pytest.raises(NotFound, match="has no tag"):
        storage.read("t", tag=tag + "?")


@pytest.mark.parametrize("tag", ["", "a/b", "7", "x" * 101, "x" * 300, "a\nb", "a\0b", "\ud800", "\x1b[31m"])
def test_a_tag_that_cannot_be_is_refused_in_words(storage: Storage, tag: str) -> None:
    storage.append("t", ROW)
    with pytest.raises(Refused, match="cannot be a tag") as caught:
        storage.tag("t", tag)
    assert str(caught.value).splitlines()[0].isprintable()


@pytest.mark.parametrize("name", [*STRANGE, "Ada", "x" * 256])
def test_people_things_and_facts_have_any_name(catalog: Catalog, clock: MovableClock, name: str) -> None:
    service = CatalogService(catalog, clock)
    service.grant(name, Role.admin)
    twin = (name.swapcase() + "2")[-256:]
    service.grant(twin, Role.viewer)
    with acting_as(name):
        service.set_project(name[:100], f"{name}\n{name}")
    secret = service.issue_token(name, Role.editor, purpose=name).secret
    assert service.verify_token(secret).principal == name
    assert {grant.principal for grant in service.grants()} == {name, twin}
    assert service.project() == {name[:100]: f"{name}\n{name}"}
    assert service.audit(principal=name)[0].facts == {"value": f"{name}\n{name}"}
    thing, other = Ref("table", name, "1"), Ref("run", name, "")
    service.record_edges([Edge(thing, other, None, Instant(1))])
    assert service.lineage("table", name, version="1", direction=Direction.downstream).nodes == (thing, other)
    assert service.audit(name=name.swapcase() + "?") == ()


@pytest.mark.parametrize("name", ["", " ", "x" * 257])
def test_a_principal_without_a_name_is_refused(catalog: Catalog, clock: MovableClock, name: str) -> None:
    with pytest.raises(Refused, match="1 to 256 characters"):
        CatalogService(catalog, clock).grant(name, Role.viewer)


def test_half_a_character_is_refused_in_words(catalog: Catalog, clock: MovableClock) -> None:
    service = CatalogService(catalog, clock)
    thing = Ref("table", "\ud800", "")
    for write in (
        lambda: service.set_project("\ud800", "x"),
        lambda: service.grant("\ud800", Role.admin),
        lambda: service.record("did", thing),
        lambda: service.record_edges([Edge(thing, Ref("run", "r", ""), None, Instant(1))]),
    ):
        with pytest.raises(Refused, match="half a character"):
            write()
    assert service.project() == {}
    assert service.audit() == ()


@pytest.mark.service
def test_a_text_that_postgresql_does_not_keep_is_refused_by_name_when_it_moves_there(
    sqlite_catalog: Catalog, clock: MovableClock
) -> None:
    CatalogService(sqlite_catalog, clock).set_project("fact", "a\0b")
    with sqlite_catalog.snapshot() as connection:
        lines = [b"".join(portable.give(connection, table)) for table in portable.tables(connection)]
    with fresh_postgres() as url, closing(Catalog(url)) as moved:
        with pytest.raises(Refused, match="rows 0 to 1 of catalog_project: a text holds the character NUL"):
            portable.take(moved, upgrade.HEAD, [part.splitlines(keepends=True) for part in lines])
        assert portable.is_empty(moved)
