"""An erasure cut at every step: every version is whole, and doing it again finishes it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pytest
from deltalake import DeltaTable
from tests.storage.cutting import Told, cuts, leftovers, told
from tests.storage.disks import FULL, CutDisk, ForgetfulDisk, QuickDisk
from tests.storage.test_erasing import KEYS, LATER, NEVER, NUMBER, PERSON, people
from tests.storage.traces import traces

from fourfold.adapters.delta import DeltaTables
from fourfold.adapters.delta.local import LocalPlace
from fourfold.adapters.delta.objects import ObjectPlace
from fourfold.adapters.object_store import filesystem
from fourfold.core.errors import Unavailable
from fourfold.core.objects import Key
from fourfold.testing.objects import MemoryObjects
from fourfold.testing.table_kit.given import held

pytestmark = pytest.mark.slow
Answer = TypeVar("Answer")


def begun(store: DeltaTables) -> DeltaTables:
    """The person in a table, a branch, a version that was left behind, and one that was brought back."""
    store.append("t", people("ada", PERSON))
    store.append("t", people(PERSON, "eve", start=10))
    store.fork("t", "dev", version=1)
    store.append("t@dev", people("kim", start=20))
    store.upsert("t", people("ada", start=30), key=("name",))
    store.restore("t", version=0)
    return store


def erase(store: DeltaTables) -> object:
    return store.erase("t", keys=KEYS, before=NEVER)


def uncut(tmp_path: Path) -> tuple[Path, Told, Told]:
    base, done = tmp_path / "base", tmp_path / "done"
    before = told(begun(DeltaTables(LocalPlace(base, QuickDisk()))))
    shutil.copytree(base, done)
    erase(DeltaTables(LocalPlace(done, QuickDisk())))
    after = told(DeltaTables(done))
    assert before != after
    assert traces(done, PERSON, NUMBER) == []
    return base, before, after


def check(folder: Path, before: Told, after: Told, *, is_done: bool, number: int) -> None:
    """Each version is what it was, or is without the rows; and the next erasure leaves nothing."""
    store = DeltaTables(LocalPlace(folder, QuickDisk()))
    found = told(store)
    if is_done:
        assert found == after
        assert traces(folder, PERSON, NUMBER) == []
    for name, versions in found.items():
        assert len(before[name]) <= len(versions) <= len(after[name])
        for rows, old, new in zip(versions, [*before[name], [], []], after[name], strict=False):
            assert rows is not None
            assert new == [row for row in rows if row[0] != PERSON], "nobody else's row is ever missing"
            assert not Counter(rows) - Counter(old or new or []), "and none is there twice"
    assert DeltaTable(str(folder / "t")).version() == len(found["t"]) - 1
    match number % 4:  # others go on before somebody finishes it
        case 1:
            store.restore("t", version=1)
        case 2:
            store.fork("t", "late", version=1)
            store.compact("t@late")
        case 3:
            store.vacuum("t", keep=range(100), before=LATER)
    erase(DeltaTables(LocalPlace(folder, QuickDisk())))
    assert traces(folder, PERSON, NUMBER) == []
    fresh = DeltaTables(folder)
    finished = told(fresh)
    for name, versions in after.items():
        assert finished[name][: len(found[name])] == versions[: len(found[name])]
    assert DeltaTable(str(folder / "t")).to_pyarrow_table().num_rows == len(held(fresh))
    fresh.vacuum("t", keep=range(100), before=LATER)
    assert leftovers(fresh, folder, "t") == []
    assert told(fresh) == finished


def test_a_process_killed_at_any_step_leaves_whole_versions(tmp_path: Path) -> None:
    base, before, after = uncut(tmp_path)
    for number, (folder, is_done) in enumerate(cuts(base, erase, CutDisk())):
        check(folder, before, after, is_done=is_done, number=number)
    assert number > 60


def test_a_power_cut_at_any_step_leaves_whole_versions(tmp_path: Path) -> None:
    base, before, after = uncut(tmp_path)
    durable = ForgetfulDisk()
    for number, (folder, is_done) in enumerate(cuts(base, erase, CutDisk(durable), durable=durable)):
        again = tmp_path / "again"
        durable.after_a_cut(folder, again, names_last=bool(number % 2))
        check(again, before, after, is_done=is_done, number=number // 2)
        shutil.rmtree(again)
        durable.forget()


def test_a_disk_that_is_full_at_any_step_leaves_whole_versions(tmp_path: Path) -> None:
    base, before, after = uncut(tmp_path)
    for number, (folder, is_done) in enumerate(cuts(base, erase, CutDisk(), error=FULL)):
        check(folder, before, after, is_done=is_done, number=number)


def test_an_erasure_cut_twice_is_finished_by_the_third(tmp_path: Path) -> None:
    """What a second one finds is neither as before nor as planned."""
    base, before, after = uncut(tmp_path)
    for number, (folder, _) in enumerate(cuts(base, erase, CutDisk())):
        if number % 20 == 7:
            second = tmp_path / f"second-{number}" / "base"
            shutil.copytree(folder, second)
            for again, is_done in cuts(second, erase, CutDisk()):
                check(again, before, after, is_done=is_done, number=0)


class Stopping(MemoryObjects):
    """An object store that stops answering at one of the requests that change it, before or after it did."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.is_done_first = False

    def create(self, key: Key, data: bytes) -> bool:
        return self._stopping(lambda: super(Stopping, self).create(key, data))

    def put(self, key: Key, data: bytes | Iterable[bytes], *, size_hint: int = 0) -> None:
        whole = data if isinstance(data, bytes) else b"".join(data)
        self._stopping(lambda: super(Stopping, self).put(key, whole, size_hint=size_hint))

    def delete(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._stopping(lambda key=key: super(Stopping, self).delete([key]))  # type: ignore[misc]

    def _stopping(self, ask: Callable[[], Answer]) -> Answer:
        if self.left is None or self.left > 0:
            self.left = None if self.left is None else self.left - 1
            return ask()
        if self.left == 0 and self.is_done_first:
            self.left = -1
            ask()
        self.left = -1
        raise Unavailable("nobody answers")


@pytest.mark.parametrize("is_done_first", [False, True])
def test_an_object_store_that_stops_at_any_request_is_finished_later(
    tmp_path: Path, is_done_first: bool
) -> None:
    for number in range(500):
        objects = Stopping()
        store = DeltaTables(ObjectPlace(objects, filesystem(objects)))
        begun(store)
        before = told(store)
        objects.left, objects.is_done_first = number, is_done_first
        try:
            erase(store)
            is_done = True
        except Unavailable:
            is_done = False
        objects.left = None
        fresh = DeltaTables(ObjectPlace(objects, filesystem(objects)))
        for name, versions in told(fresh).items():
            for rows, old in zip(versions, before[name], strict=False):
                assert [row for row in rows or () if row[0] != PERSON] == [
                    row for row in old or () if row[0] != PERSON
                ]
        if number % 2:
            fresh.restore("t", version=1)
        # What a request left that did not come to be goes as well, once it is old.
        DeltaTables(ObjectPlace(objects, filesystem(objects))).erase("t", keys=KEYS, before=LATER)
        folder = tmp_path / str(number)
        for each in objects.listing(""):
            path = folder / each.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(objects.get(each.key))
        assert traces(folder, PERSON, NUMBER) == []
        shutil.rmtree(folder)
        if is_done:
            assert number > 20
            return
    raise AssertionError("the operation has no end")
