"""What a vacuum removes, and what nothing may remove: what is new, tagged, cited, or on a branch."""

from __future__ import annotations

import pytest
from tests.storage.conftest import numbers, rows

from fourfold.catalog.database import Catalog
from fourfold.catalog.service import CatalogService
from fourfold.core.context import Ref
from fourfold.core.errors import NotFound, Refused
from fourfold.core.lineage import Edge
from fourfold.foundation.storage.service import Storage
from fourfold.testing.clock import MovableClock

DAY_S = 86_400.0


@pytest.fixture
def old(records: Storage, clock: MovableClock) -> Storage:
    """Six versions that share no file, one a day; the last was written ten days ago."""
    for number in range(6):
        records.overwrite("t", rows(number))
        clock.advance(DAY_S)
    clock.advance(9 * DAY_S)
    return records


def test_what_was_replaced_long_ago_is_removed(old: Storage, catalog: Catalog, clock: MovableClock) -> None:
    done = old.vacuum("t", older_than_s=11.5 * DAY_S)  # 3 was current until eleven days ago
    assert (done.versions, done.file_count, done.is_dry_run) == ((0, 1, 2), 3, False)
    assert done.size_bytes > 0
    with pytest.raises(NotFound, match="vacuumed"):
        old.read("t", version=2)
    assert [numbers(old, version=version) for version in (3, 4, 5)] == [[3], [4], [5]]
    assert len(old.history("t")) == 6
    assert old.describe("t", version=0).rows == 1
    (entry,) = CatalogService(catalog, clock).audit(action="table.vacuum")
    assert entry.facts["versions"] == [0, 1, 2]


def test_a_week_is_kept_where_nothing_is_said(records: Storage, clock: MovableClock) -> None:
    for number in range(3):
        records.overwrite("t", rows(number))
    clock.advance(6.9 * DAY_S)
    assert records.vacuum("t").versions == ()
    clock.advance(0.2 * DAY_S)
    assert records.vacuum("t").versions == (0, 1)


def test_a_dry_run_tells_files_bytes_and_versions_and_removes_nothing(old: Storage, catalog: Catalog) -> None:
    would = old.vacuum("t", dry_run=True)
    assert (would.versions, would.file_count, would.is_dry_run) == ((0, 1, 2, 3, 4), 5, True)
    assert numbers(old, version=0) == [0]
    assert CatalogService(catalog, MovableClock()).audit(action="table.vacuum") == ()
    done = old.vacuum("t")
    assert (done.versions, done.file_count, done.size_bytes) == (would.versions, 5, would.size_bytes)


def test_what_is_tagged_or_cited_stays_readable_and_is_said_with_what_cites_it(
    old: Storage, catalog: Catalog, clock: MovableClock
) -> None:
    old.tag("t", "report", version=0)
    table, step = [Ref("table", "t", str(version)) for version in range(6)], Ref("step", "run/build", "1")
    CatalogService(catalog, clock).record_edges((
        Edge(table[1], Ref("run", "run_1")),
        Edge(table[2], step),
        Edge(step, Ref("model", "delays", "3"), step),
        Edge(table[3], Ref("step", "run/clean", "1")),
        Edge(Ref("step", "run/clean", "1"), Ref("table", "clean", "0")),  # hands on, and cites nothing
        Edge(Ref("model", "delays", "1"), table[4]),  # was made of a model: does not need to stay
    ))  # fmt: skip
    done = old.vacuum("t")
    assert done.versions == (3, 4)
    assert done.kept == {"0": "tag report", "1": "run:run_1", "2": "model:delays@3"}
    assert [numbers(old, version=version) for version in (0, 1, 2, 5)] == [[0], [1], [2], [5]]
    old.tag("t", "report", version=5)
    assert old.vacuum("t").versions == (0,)


def test_what_a_branch_uses_stays_until_it_is_dropped(old: Storage) -> None:
    old.fork("t", "dev", version=1)
    assert 1 not in old.vacuum("t").versions
    assert numbers(old, "t@dev") == [1]
    old.drop_branch("t", "dev")
    assert old.vacuum("t").versions == (1,)


def test_files_that_a_writer_may_still_need_are_not_to_be_had(old: Storage) -> None:
    for seconds in (0.0, 3599.0, -5.0, float("nan")):
        with pytest.raises(Refused, match="a write may be under way"):
            old.vacuum("t", older_than_s=seconds)
    assert numbers(old, version=0) == [0]


def test_a_vacuumed_version_can_be_neither_tagged_nor_restored_nor_branched(old: Storage) -> None:
    old.vacuum("t")
    for call in (
        lambda: old.tag("t", "late", version=0),
        lambda: old.restore("t", version=0),
        lambda: old.fork("t", "dev", version=0),
        lambda: old.diff("t", before=0),
    ):
        with pytest.raises(NotFound, match="vacuumed"):
            call()
    assert old.describe("t").tags == {}
