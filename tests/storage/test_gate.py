"""The gate: what is not as expected is never seen, whoever writes at once or dies at any step."""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.storage.conftest import Attempt, datasets_over
from tests.storage.disks import CutDisk, Killed
from tests.storage.flights import flights

from fourfold import wiring
from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.delta.disk import Disk
from fourfold.adapters.delta.local import LocalPlace
from fourfold.catalog.database import Catalog
from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.datasets import Definition
from fourfold.core.decide.branching import HIDDEN
from fourfold.core.errors import Conflict, NotFound, Refused
from fourfold.core.expectations import Expectation, Expected
from fourfold.core.ports.tables import Mark
from fourfold.foundation.storage import expect
from fourfold.foundation.storage.checks import gate, kept
from fourfold.foundation.storage.checks.rows import WHY
from fourfold.foundation.storage.checks.tables import KEPT_REFUSALS
from fourfold.foundation.storage.datasets.service import Datasets
from fourfold.foundation.storage.service import Storage
from fourfold.testing.blobs import MemoryBlobs
from fourfold.testing.clock import MovableClock
from fourfold.testing.tables import MemoryTables

pytestmark = pytest.mark.slow


@dataclass
class House:
    storage: Storage
    datasets: Datasets
    tables: MemoryTables
    clock: MovableClock

    def ids(self, name: str = "flights") -> list[int | None]:
        found = self.storage.read(name, columns=("id",))["id"].to_pylist()
        return sorted(found, key=lambda each: (each is None, each))

    def expect(self, *expectations: Expectation, on_failure: str = "refuse") -> None:
        self.datasets.expect("flights", expect.expected(*expectations, on_failure=on_failure), why="test")

    def hidden(self) -> list[str]:
        return [branch for branch in self.tables.branches("flights") if branch.startswith(HIDDEN)]


@pytest.fixture
def house(sqlite_catalog: Catalog, clock: MovableClock) -> House:
    """A table of flights 1 and 2, of which nothing is expected yet."""
    tables, blobs = MemoryTables(), MemoryBlobs()
    storage = Storage(sqlite_catalog, blobs, tables, clock)
    storage.append("flights", flights(1, 2))
    return House(storage, datasets_over(sqlite_catalog, storage, blobs, clock), tables, clock)


def stream(data: pa.Table, size: int = 2) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(data.schema, iter(data.to_batches(max_chunksize=size)))


def test_what_is_not_as_expected_is_refused_with_its_rows_kept(house: House) -> None:
    house.expect(expect.not_null("id"), expect.one_of("tail", ["N1"]))
    with pytest.raises(Refused) as refused:
        house.storage.append("flights", flights(3, None, 5, tail=["N1", "x", "y"]))
    assert house.ids() == [1, 2]
    assert [v.version for v in house.storage.history("flights")] == [0]
    told = str(refused.value)
    assert "id is not null: not so for 1 of 3 rows" in told
    assert "tail is one of N1: not so for 2 of 3 rows" in told
    (rejection,) = house.datasets.rejections("flights")
    assert f"fourfold table rejected flights {rejection.id}" in told
    assert (rejection.rows, rejection.kept_rows, rejection.operation) == (2, 2, "append")
    rows = house.datasets.rejected_rows("flights", rejection.id).to_pylist()
    assert [(row["id"], row[WHY]) for row in rows] == [
        (None, "id is not null; tail is one of N1"),
        (5, "tail is one of N1"),
    ]
    house.datasets.discard("flights", rejection.id)
    house.datasets.discard("flights", rejection.id)
    with pytest.raises(NotFound, match="no rejection"):
        house.datasets.rejected_rows("flights", rejection.id)


def test_what_is_as_expected_is_one_version_with_its_check_and_figures(house: House) -> None:
    house.expect(expect.not_null("id"), expect.between("delay", 0, 1, severity="warn"))
    made = house.storage.append("flights", flights(3, delay=[7.0]))
    assert (made.version, made.operation, house.ids()) == (1, "append", [1, 2, 3])
    (check,) = house.datasets.checks("flights")
    assert (check.version, check.passed, [v.passed for v in check.verdicts]) == (1, False, [True, False])
    house.storage.overwrite("flights", flights(8, 9))
    house.storage.append("flights", flights(10))
    told = house.datasets.statistics("flights")
    assert (told.version, told.rows, told.column("id").least) == (3, 3, 8)


@pytest.mark.parametrize("data", [flights, lambda *ids: stream(flights(*ids))], ids=["table", "stream"])
def test_no_two_rows_have_a_unique_key_neither_new_nor_old(house: House, data: Any) -> None:
    house.expect(expect.unique("id"))
    for wrong, count in (((2, 3), 1), ((3, 3), 2), ((1, 2, 3, 3), 4)):
        with pytest.raises(Refused, match=f"id is unique: not so for {count} of {len(wrong)} rows"):
            house.storage.append("flights", data(*wrong))
        rows = house.datasets.rejected_rows("flights", house.datasets.rejections("flights")[0].id)
        assert Counter(rows["id"].to_pylist()) == {i: wrong.count(i) for i in wrong if i != 3 or count != 1}
    assert house.storage.append("flights", data(3, 4)).version == 1
    assert house.ids() == [1, 2, 3, 4]
    with pytest.raises(Refused, match="not so for 2 of 2"):
        house.storage.overwrite("flights", data(7, 7))
    house.storage.overwrite("flights", data(7, 8))
    house.storage.append("flights", flights(None, None))
    assert house.ids() == [7, 8, None, None]
    assert house.hidden() == []


def test_a_stream_too_large_for_memory_is_checked_before_it_is_seen(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MOST_IN_MEMORY", 1)
    house.expect(expect.not_null("id"), expect.unique("id"))
    with pytest.raises(Refused, match="1 of 3 rows"):
        house.storage.append("flights", stream(flights(3, 4, None), 1))
    with pytest.raises(Refused, match="id is unique"):
        house.storage.append("flights", stream(flights(3, 4, 1), 1))
    assert house.ids() == [1, 2]
    assert house.storage.append("flights", stream(flights(3, 4, 5), 1)).rows_added == 3
    assert (house.ids(), house.hidden()) == ([1, 2, 3, 4, 5], [])
    assert [v.version for v in house.storage.history("flights")] == [1, 0]


def test_bad_rows_are_set_aside_and_the_rest_is_written(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.expect(expect.not_null("id"), expect.between("delay", 0, 1), on_failure="quarantine")
    made = house.storage.append("flights", flights(3, None, 5, 6, delay=[0.5, 0.5, 7.0, None]))
    assert (made.rows_added, house.ids()) == (2, [1, 2, 3, 6])
    (rejection,) = house.datasets.rejections("flights")
    assert (rejection.is_quarantined, rejection.version, rejection.kept_rows) == (True, 1, 2)
    monkeypatch.setattr(gate, "MOST_IN_MEMORY", 1)
    house.storage.append("flights", stream(flights(7, None, None)))
    assert house.ids() == [1, 2, 3, 6, 7]
    assert house.datasets.rejections("flights")[0].kept_rows == 2
    monkeypatch.setattr(kept, "MOST_SET_ASIDE", 1)
    with pytest.raises(Refused, match="too many to be set aside"):
        house.storage.append("flights", stream(flights(8, None, None)))
    assert (house.ids(), house.hidden()) == ([1, 2, 3, 6, 7], [])


def test_what_concerns_the_whole_table_refuses_also_where_rows_are_set_aside(house: House) -> None:
    house.expect(expect.not_null("id"), expect.unique("id"), on_failure="quarantine")
    with pytest.raises(Refused, match="id is unique"):
        house.storage.append("flights", flights(2, None))
    assert house.ids() == [1, 2]
    house.storage.append("flights", flights(3, None))
    assert house.ids() == [1, 2, 3]


def test_age_and_size_are_asked_of_the_table_as_it_would_be(house: House) -> None:
    house.expect(expect.fresh("at", within="1d"), expect.row_count_change(at_most="100%"))
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    with pytest.raises(Refused, match="the newest at is at most 1d old: it is 2025-12-30T00:00:00Z, 2d old"):
        house.storage.append("flights", flights(3, at=[now - dt.timedelta(days=2)]))
    house.storage.append("flights", flights(3, at=[now]))
    house.storage.append("flights", flights(4, at=[now - dt.timedelta(days=2)]))
    with pytest.raises(Refused, match="from 4 to 9, by 125%"):
        house.storage.append("flights", flights(5, 6, 7, 8, 9))
    with pytest.raises(Refused, match="there is none"):
        house.storage.overwrite("flights", flights(1, 2, 3, 4))
    assert house.ids() == [1, 2, 3, 4]


def test_an_upsert_is_checked_on_what_it_would_make(house: House) -> None:
    house.expect(expect.unique("tail"), expect.not_null("id"))
    house.storage.upsert("flights", flights(1, 3, tail=["a", "b"]), key=("id",))
    with pytest.raises(Refused, match="tail is unique: not so for 2 of 3 rows"):
        house.storage.upsert("flights", flights(3, tail=["a"]), key=("id",))
    with pytest.raises(Refused, match="table 'flights'"):
        house.storage.upsert("flights", flights(4, 4, tail=["c", "d"]), key=("id",))
    house.storage.upsert("flights", flights(1, tail=["c"]), key=("id",))
    assert sorted(house.storage.read("flights")["tail"].drop_null().to_pylist()) == ["b", "c"]
    assert house.hidden() == []


def test_a_branch_takes_anything_and_is_checked_when_it_is_published(house: House) -> None:
    house.expect(expect.not_null("id"), expect.unique("id"))
    house.storage.fork("flights", "dev")
    house.storage.append("flights@dev", flights(3, None))
    with pytest.raises(Refused, match="id is not null: not so for 1 of 4 rows"):
        house.storage.publish("flights", "dev")
    assert house.ids() == [1, 2]
    house.storage.overwrite("flights@dev", flights(1, 2, 3))
    assert house.storage.publish("flights", "dev").version == 1
    house.storage.append("flights@dev", flights(4))
    house.storage.append("flights", flights(4))
    with pytest.raises(Conflict, match="its rows are looked at together"):
        house.storage.publish("flights", "dev")
    assert house.ids() == [1, 2, 3, 4]
    house.expect(expect.not_null("id"))
    house.storage.publish("flights", "dev")
    assert house.ids() == [1, 2, 3, 4, 4]


def test_hidden_branches_are_nobodys_to_see(house: House) -> None:
    house.tables.fork("flights", HIDDEN + "x", version=0)
    house.storage.fork("flights", "dev")
    assert [branch.name for branch in house.storage.branches("flights")] == ["dev"]


def test_what_a_killed_writer_left_is_swept_a_day_later(house: House) -> None:
    house.expect(expect.unique("id"))
    house.tables.fork("flights", HIDDEN + "x", version=0, mark=Mark(at=house.clock.now()))
    house.storage.append("flights", flights(3))
    assert house.hidden() == [HIDDEN + "x"]
    house.clock.advance(gate.STALE_S + 1)
    house.storage.append("flights", flights(4))
    assert house.hidden() == []


def test_a_repeated_attempt_is_done_once_although_its_rows_are_there(house: House) -> None:
    house.expect(expect.unique("id"))
    versions = []
    for number in (1, 2):
        with context.within(Attempt(number=number)):
            versions.append(house.storage.append("flights", flights(3)).version)
    assert (versions, house.ids()) == ([1, 1], [1, 2, 3])


def test_of_two_writers_with_the_same_key_one_is_refused(house: House) -> None:
    house.expect(expect.unique("id"))
    start, outcomes = threading.Barrier(4), []

    def write(own: int) -> None:
        start.wait()
        try:
            house.storage.append("flights", flights(3, own))
            outcomes.append("written")
        except Refused as error:
            outcomes.append("refused" if "id is unique" in str(error) else str(error))

    threads = [threading.Thread(target=write, args=(own,)) for own in (10, 11, 12, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(outcomes) == {"written": 1, "refused": 3}
    assert house.ids().count(3) == 1


def test_writers_whose_rows_go_together_all_get_in(house: House) -> None:
    house.expect(expect.unique("id"))
    threads = [
        threading.Thread(target=house.storage.append, args=("flights", flights(own))) for own in range(10, 18)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert house.ids() == [1, 2, *range(10, 18)]
    assert house.hidden() == []


def test_rows_that_were_there_before_are_looked_at_when_asked(house: House) -> None:
    house.storage.append("flights", flights(2, None, delay=[5.0, 0.0]))
    house.expect(expect.unique("id"), expect.not_null("id"), expect.between("delay", 0, 1))
    house.storage.append("flights", flights(3))
    check = house.datasets.check("flights")
    assert [(v.passed, v.failing) for v in check.verdicts] == [(False, 1), (False, 1), (False, 2)]
    assert house.datasets.check("flights", version=0).passed
    assert house.datasets.expectations("flights").expectations[0].columns == ("id",)


def test_expectations_need_a_table_and_columns_that_stay(house: House) -> None:
    with pytest.raises(NotFound, match="nosuch"):
        house.datasets.expect("nosuch", Expected())
    with pytest.raises(Refused, match="is a branch"):
        house.datasets.expect("flights@dev", Expected())
    house.expect(expect.not_null("id"))
    with pytest.raises(Refused, match="no column 'id'"):
        house.storage.overwrite("flights", pa.table({"ident": [1]}))
    assert house.ids() == [1, 2]


def test_data_that_do_not_fit_are_refused_as_ever(house: House) -> None:
    house.expect(expect.not_null("id"))
    with pytest.raises(Refused, match="does not have the columns"):
        house.storage.append("flights", pa.table({"id": [1]}))
    house.storage.append("flights", flights(3).set_column(0, "id", pa.array([3], pa.int8())))
    assert house.ids() == [1, 2, 3]


def test_only_so_many_refusals_are_kept_but_all_that_was_set_aside(house: House) -> None:
    house.expect(expect.not_null("id"), on_failure="quarantine")
    house.storage.append("flights", flights(None))
    house.expect(expect.not_null("id"))
    for _ in range(KEPT_REFUSALS + 2):
        house.clock.advance(1)
        with pytest.raises(Refused):
            house.storage.append("flights", flights(None))
    told = house.datasets.rejections("flights", limit=100)
    assert [each.is_quarantined for each in told] == [False] * KEPT_REFUSALS + [True]


def test_a_table_that_keeps_changing_is_given_up_in_words(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.expect(expect.unique("id"))
    publish = house.tables.publish
    ids: Iterator[int] = iter(range(100, 10_000))

    def late(*args: Any, **named: Any) -> Any:
        house.tables.append("flights", flights(next(ids)))
        return publish(*args, **named)

    monkeypatch.setattr(house.tables, "publish", late)
    monkeypatch.setattr(gate, "TRIES", 3)
    with pytest.raises(Conflict, match="changed while new rows for it were checked"):
        house.storage.append("flights", flights(3))
    assert 3 not in house.ids()
    assert house.hidden() == []


def test_a_format_without_branches_checks_what_rows_alone_can_show(
    sqlite_catalog: Catalog, clock: MovableClock
) -> None:
    tables, blobs = MemoryTables(abilities=()), MemoryBlobs()
    storage = Storage(sqlite_catalog, blobs, tables, clock)
    datasets = datasets_over(sqlite_catalog, storage, blobs, clock, tables.abilities)
    storage.append("flights", flights(1))
    kept = expect.expected(expect.not_null("id"))
    datasets.expect("flights", kept)
    storage.append("flights", stream(flights(2)))
    with pytest.raises(Refused, match="id is not null"):
        storage.append("flights", flights(None))
    for rule in (
        expect.unique("id"),
        expect.unique("id", severity="warn"),
        expect.fresh("at", within="1d"),
        expect.row_count_change(at_most="20%"),
    ):
        with pytest.raises(Refused, match=f"{rule.rule}: it looks at the table as a whole") as refused:
            datasets.expect("flights", expect.expected(expect.not_null("id"), rule))
        assert refused.value.facts["ability"] == "branch"
        assert "expect what single rows can show: between, matches, not_null, one_of, sql" in str(
            refused.value
        )
    assert datasets.expectations("flights") == kept
    storage.append("flights", flights(3))
    assert storage.describe("flights").rows == 3


def test_a_project_whose_tables_are_iceberg_says_so_when_a_rule_is_said(home: Path) -> None:
    (home.parent / "fourfold.toml").write_text('tables = "iceberg+sqlite:///iceberg.db"\n')
    with closing(wiring.open_project()) as project:
        project.storage.append("flights", flights(1))
        with pytest.raises(Refused, match="unique: it looks at the table as a whole"):
            project.datasets.expect("flights", expect.expected(expect.unique("id")))
        project.datasets.expect("flights", expect.expected(expect.not_null("id")))
        assert project.storage.append("flights", flights(2)).rows == 2


def test_what_a_format_lost_the_ability_to_check_is_refused_at_the_write(
    sqlite_catalog: Catalog, clock: MovableClock
) -> None:
    tables, blobs = MemoryTables(), MemoryBlobs()
    storage = Storage(sqlite_catalog, blobs, tables, clock)
    datasets = datasets_over(sqlite_catalog, storage, blobs, clock, tables.abilities)
    storage.append("flights", flights(1))
    datasets.expect("flights", expect.expected(expect.unique("id")))
    tables._abilities = frozenset()
    with pytest.raises(Refused, match="looked at as a whole, and its format has no branches"):
        storage.append("flights", flights(3))
    assert storage.describe("flights").rows == 1


def test_what_is_kept_of_tables_and_datasets_is_kept_on_both_databases(
    catalog: Catalog, clock: MovableClock
) -> None:
    tables, blobs = MemoryTables(), MemoryBlobs()
    storage = Storage(catalog, blobs, tables, clock)
    datasets = datasets_over(catalog, storage, blobs, clock)
    storage.append("flights", flights(1))
    for rules in ((expect.not_null("id"),), (expect.not_null("id"), expect.unique("id"))):
        datasets.expect("flights", expect.expected(*rules), why="keys")
    for _ in range(KEPT_REFUSALS + 1):
        with pytest.raises(Refused):
            storage.append("flights", flights(None))
    storage.append("flights", flights(2))
    assert len(datasets.rejections("flights", limit=100)) == KEPT_REFUSALS
    assert datasets.checks("flights")[0].version == 1
    datasets.discard("flights", datasets.rejections("flights")[0].id)
    definition = Definition({"flights": Ref("table", "flights")}, owner="ada")
    assert datasets.define("training", definition).newest is None
    with context.within(Attempt()):
        made = datasets.release("training", why="first")
    with context.within(Attempt(number=2)):
        assert datasets.release("training") == made
    assert datasets.tag_release("training", "gold").version == 0
    assert datasets.released("training", tag="gold") == made
    assert datasets.list_datasets()[0].newest == made
    assert datasets.diff_releases("training", before=0).changes == ()
    storage.drop("flights")
    assert datasets.releases("training") == (made,)


# What is left when a process dies, at any step


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["in memory", "a stream", "set aside", "refused"])
def test_a_writer_killed_at_any_step_leaves_the_table_as_it_was_or_the_new_version_whole(
    tmp_path: Path, sqlite_catalog: Catalog, clock: MovableClock, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "in memory":
        monkeypatch.setattr(gate, "MOST_IN_MEMORY", 1)
    rules = [expect.unique("id"), expect.not_null("id")]
    expected = expect.expected(*rules, on_failure="quarantine" if kind == "set aside" else "refuse")
    data = flights(3, 4, *([None] if kind == "set aside" else [4] if kind == "refused" else []))
    blobs, disk = MemoryBlobs(), CutDisk()

    def opened(on: Disk) -> Storage:
        return Storage(sqlite_catalog, blobs, DeltaTables(LocalPlace(tmp_path, on)), clock)

    for number in range(500):
        name = f"t{number}"
        disk.arm(None)
        storage = opened(disk)
        storage.append(name, flights(1, 2))
        datasets_over(sqlite_catalog, storage, blobs, clock).expect(name, expected)
        disk.arm(number)
        outcome = "killed"
        try:
            storage.append(name, data if kind == "in memory" else stream(data, 1))
            outcome = "written"
        except Killed:
            pass
        except Refused:
            outcome = "refused"
        was_cut = disk.was_cut
        again = opened(Disk())
        ids = sorted(again.read(name)["id"].to_pylist())
        version = again.describe(name).version
        assert (ids, version) in (([1, 2], 0), ([1, 2, 3, 4], 1))
        assert outcome != "written" or version == 1
        assert kind != "refused" or version == 0
        kept_aside = datasets_over(sqlite_catalog, again, blobs, clock).rejections(name)
        if kind == "set aside" and version == 1:
            assert [each.kept_rows for each in kept_aside] == [1]
        again.append(name, flights(9))
        assert 9 in again.read(name)["id"].to_pylist()
        if not was_cut:
            assert outcome == ("refused" if kind == "refused" else "written")
            return
    raise AssertionError("the write has no end")
