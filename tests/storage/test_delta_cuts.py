"""Every write path, cut at every step: the table is what it was or what it was to become, whole."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests.storage.cutting import Operation, Told, cuts, leftovers, told
from tests.storage.disks import FULL, CutDisk, ForgetfulDisk, QuickDisk

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.delta.disk import Disk
from fourfold.adapters.delta.local import LocalPlace
from fourfold.core.ports.tables import Evolution
from fourfold.core.times import Instant
from fourfold.testing.table_kit.given import DAY_1, DAY_2, rows, stream

LATER = Instant(2**60)

NARROW = pa.schema([("n", pa.int32()), ("day", pa.date32())])


def few(*numbers: int, day: date = DAY_1) -> pa.Table:
    return rows(*numbers, day=day).cast(NARROW)


OPERATIONS: dict[str, Operation] = {
    "append": lambda s: s.append("t", few(9)),
    "append to a new table": lambda s: s.append("new", few(9)),
    "append a stream": lambda s: s.append("t", stream(few(7), few(8, day=DAY_2))),
    "overwrite": lambda s: s.overwrite("t", few(9)),
    "overwrite a partition": lambda s: s.overwrite("t", few(9), where={"day": "2013-01-01"}),
    "upsert": lambda s: s.upsert("t", few(2, 9), key=("n",)),
    "delete": lambda s: s.delete("t", where=(("n", "==", 2),)),
    "add a column": lambda s: s.evolve("t", Evolution(add=(pa.field("x", pa.int64()),))),
    "widen a column": lambda s: s.evolve("t", Evolution(widen={"n": pa.int64()})),
    "restore": lambda s: s.restore("t", version=0),
    "compact": lambda s: s.compact("t"),
    "lay anew": lambda s: s.compact("t", cluster_by=("n",)),
    "fork": lambda s: s.fork("t", "dev/2", version=1),
    "append to a branch": lambda s: s.append("t@dev", few(9)),
    "publish": lambda s: s.publish("t", "dev"),
    "vacuum": lambda s: s.vacuum("t", keep=(0,), before=LATER),
    "drop": lambda s: s.drop("t"),
    "drop a branch": lambda s: s.drop("t@dev"),
}


def begun(folder: Path, disk: Disk) -> DeltaTables:
    """A store with a table of three versions and a branch that has something new."""
    store = DeltaTables(LocalPlace(folder, disk))
    store.append("t", few(1, 2), partition_by=("day",))
    store.append("t", few(3))
    store.append("t", few(4, day=DAY_2))
    store.fork("t", "dev", version=2)
    store.append("t@dev", few(5))
    return store


def check(folder: Path, before: Told, after: Told, *, is_done: bool) -> None:
    """The folder, opened anew, is what it was or what it was to become; and it can go on."""
    store = DeltaTables(LocalPlace(folder, QuickDisk()))
    found = told(store)
    if is_done:
        assert found == after
    else:
        assert all(
            found.get(name) in (before.get(name), after.get(name)) for name in {*before, *after, *found}
        )
    for name in found:
        table, _, branch = name.partition("@")
        path = folder / table / "_branches" / branch.replace("/", "~") if branch else folder / table
        assert DeltaTable(str(path)).version() == len(found[name]) - 1
        newest = store.snapshot(name)
        data = rows(50).cast(pa.schema([newest.schema.field("n"), newest.schema.field("day")]))
        if "x" in newest.schema.names:
            data = data.append_column("x", pa.nulls(1, pa.int64()))
        assert store.append(name, data).rows == newest.rows + 1
    for name in store.names():
        store.vacuum(name, keep=range(100), before=LATER)
        assert leftovers(store, folder, name) == []
    assert told(store) == {name: [*found[name], now[-1]] for name, now in told(store).items()}


def uncut(tmp_path: Path, name: str) -> tuple[Path, Told, Told]:
    """A folder as it is before the operation, and what it holds before and after."""
    base, done = tmp_path / "base", tmp_path / "done"
    before = told(begun(base, QuickDisk()))
    shutil.copytree(base, done)
    OPERATIONS[name](DeltaTables(LocalPlace(done, QuickDisk())))
    return base, before, told(DeltaTables(done))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_process_killed_at_any_step_leaves_the_old_or_the_new(tmp_path: Path, name: str) -> None:
    base, before, after = uncut(tmp_path, name)
    for folder, is_done in cuts(base, OPERATIONS[name], CutDisk()):
        check(folder, before, after, is_done=is_done)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_power_cut_at_any_step_leaves_what_was_acknowledged(tmp_path: Path, name: str) -> None:
    base, before, after = uncut(tmp_path, name)
    durable = ForgetfulDisk()
    for folder, is_done in cuts(base, OPERATIONS[name], CutDisk(durable), durable=durable):
        for names_last in (False, True):
            again = tmp_path / "again"
            durable.after_a_cut(folder, again, names_last=names_last)
            check(again, before, after, is_done=is_done)
            shutil.rmtree(again)
        durable.forget()


TAKING_ROOM = [name for name in OPERATIONS if name not in {"vacuum", "drop", "drop a branch"}]


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKING_ROOM)
def test_a_disk_that_is_full_at_any_step_leaves_the_table_as_it_was(tmp_path: Path, name: str) -> None:
    base, before, after = uncut(tmp_path, name)
    for folder, is_done in cuts(base, OPERATIONS[name], CutDisk(), error=FULL):
        if not is_done:
            store = DeltaTables(folder)
            assert told(store) == before
            assert [leftovers(store, folder, table) for table in store.names()] == [[]]
        check(folder, before, after, is_done=is_done)
