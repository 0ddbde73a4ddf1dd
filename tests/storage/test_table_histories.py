"""Whatever is done to a table, in whatever order, a store keeps and tells what the one in memory does."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fourfold.adapters.delta import DeltaTables
from fourfold.core.errors import Conflict, NotFound, Refused
from fourfold.core.ports.tables import Commit, Evolution, Mark, RowKey, TableStore
from fourfold.core.storage import Condition
from fourfold.core.times import Instant
from fourfold.testing.table_kit.given import held, tuples
from fourfold.testing.tables import MemoryTables

pytestmark = pytest.mark.property

KINDS: tuple[pa.DataType, ...] = (pa.int16(), pa.int32(), pa.int64())
ADDRESSES = ("t", "t@dev", "t@a/b")
row = st.tuples(
    st.integers(0, 4), st.sampled_from(["EWR", "JFK", None]), st.sampled_from([None, -1.5, 0.0, float("nan")])
)
batch = st.lists(row, max_size=4)
unique = st.lists(row, max_size=3, unique_by=lambda each: each[0])
address = st.sampled_from(ADDRESSES)
condition: st.SearchStrategy[Condition] = st.one_of(
    st.tuples(st.just("n"), st.sampled_from(["==", "!=", "<", ">="]), st.integers(0, 4)),
    st.tuples(st.just("origin"), st.sampled_from(["==", "!="]), st.sampled_from(["EWR", None])),
    st.tuples(st.just("x"), st.sampled_from(["<", ">", "!="]), st.just(0.0)),
)


class Histories(RuleBasedStateMachine):
    """Two stores get the same writes; their answers and all their versions are compared."""

    @staticmethod
    def make(folder: Path) -> TableStore:
        """The store that is held against the one in memory; here another of them, to try the machine."""
        return MemoryTables()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.stores: tuple[TableStore, TableStore] = (MemoryTables(), type(self).make(self.folder))
        self.seconds = 0
        self.added = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # What is done

    @rule(batch=batch, where=address, repeats=st.booleans(), cut=st.booleans())
    def append(self, batch: list[Any], where: str, repeats: bool, cut: bool) -> None:
        self._append(batch, where, ("origin",) if cut and not self._versions("t") else (), repeats=repeats)

    def _append(
        self, batch: list[Any], where: str, partition_by: tuple[str, ...] = (), *, repeats: bool = False
    ) -> None:
        def write(store: TableStore, mark: Mark) -> Commit:
            return store.append(where, self._data(store, where, batch), partition_by=partition_by, mark=mark)

        self._both(write, repeats=repeats)

    @rule(batch=batch, where=address, kind=st.sampled_from(KINDS))
    def overwrite(self, batch: list[Any], where: str, kind: pa.DataType) -> None:
        self._both(lambda store, mark: store.overwrite(where, self._fresh(batch, kind), mark=mark))

    @rule(batch=batch, where=address)
    def overwrite_part(self, batch: list[Any], where: str) -> None:
        inside = [(n, "EWR", x) for n, _, x in batch]
        self._both(
            lambda store, mark: store.overwrite(
                where, self._data(store, where, inside), where={"origin": "EWR"}, mark=mark
            )
        )

    @rule(batch=unique, where=address, repeats=st.booleans())
    def upsert(self, batch: list[Any], where: str, repeats: bool) -> None:
        self._both(
            lambda store, mark: store.upsert(where, self._data(store, where, batch), key=("n",), mark=mark),
            repeats=repeats,
        )

    @rule(batch=batch, where=address)
    def upsert_by_two_columns(self, batch: list[Any], where: str) -> None:
        self._both(
            lambda store, mark: store.upsert(
                where, self._data(store, where, batch), key=("origin", "n"), mark=mark
            )
        )

    @rule(conditions=st.lists(condition, max_size=2), where=address, repeats=st.booleans())
    def delete(self, conditions: list[Condition], where: str, repeats: bool) -> None:
        self._both(
            lambda store, mark: store.delete(where, where=tuple(conditions), mark=mark), repeats=repeats
        )

    @rule(where=address)
    def add_a_column(self, where: str) -> None:
        self.added += 1
        change = Evolution(add=(pa.field(f"new{self.added}", pa.string()),))
        self._both(lambda store, mark: store.evolve(where, change, mark=mark))

    @rule(where=address, kind=st.sampled_from(KINDS))
    def widen(self, where: str, kind: pa.DataType) -> None:
        self._both(lambda store, mark: store.evolve(where, Evolution(widen={"n": kind}), mark=mark))

    @rule(where=address, back=st.integers(0, 4))
    def restore(self, where: str, back: int) -> None:
        version = max(0, self._versions(where) - 1 - back)
        self._both(lambda store, mark: store.restore(where, version=version, mark=mark))

    @rule(where=address, columns=st.sampled_from([(), ("n",), ("n", "origin")]))
    def compact(self, where: str, columns: tuple[str, ...]) -> None:
        for _ in range(2):  # so that each store has something to gain
            self._append([(1, "EWR", 0.0)], where)
        before = [self._newest(store, where) for store in self.stores]

        def write(store: TableStore, mark: Mark) -> Commit:
            commit = store.compact(where, cluster_by=columns, mark=mark)
            assert commit is not None
            return commit

        self._both(write)
        assert [self._newest(store, where) for store in self.stores] == before

    @rule(branch=st.sampled_from(["dev", "a/b"]), back=st.integers(0, 2))
    def fork(self, branch: str, back: int) -> None:
        version = max(0, self._versions("t") - 1 - back)
        self._both(lambda store, mark: store.fork("t", branch, version=version, mark=mark))

    @rule(branch=st.sampled_from(["dev", "a/b"]), repeats=st.booleans())
    def publish(self, branch: str, repeats: bool) -> None:
        self._both(lambda store, mark: store.publish("t", branch, mark=mark), repeats=repeats)

    @rule(where=st.sampled_from(["t@dev", "t@a/b"]))
    def drop_a_branch(self, where: str) -> None:
        for store in self.stores:
            store.drop(where)

    @precondition(lambda self: self._versions("t") > 0)
    @rule(back=st.integers(0, 3), kept=st.integers(0, 3), dry_run=st.booleans())
    def vacuum(self, back: int, kept: int, dry_run: bool) -> None:
        before = Instant((self.seconds - back) * 1_000_000)
        for store in self.stores:
            readable = self._readable(store)
            told = store.vacuum("t", keep=(kept,), before=before, dry_run=dry_run)
            # Files are each store's own matter, so what can go differs. What was promised to stay is there.
            lost = set() if dry_run else {("t", version) for version in told.versions}
            assert self._readable(store) == readable - lost
            assert ("t", kept) not in lost
            assert ("t", store.snapshot("t").version) not in lost
            assert all(store.history("t")[-1 - version].at < before for _, version in lost)

    @precondition(lambda self: self._versions("t") > 0 and not self._is_vacuumed())
    @rule(n=st.integers(0, 4), origin=st.sampled_from(["EWR", "JFK", ""]), dry_run=st.booleans())
    def erase(self, n: int, origin: str, dry_run: bool) -> None:
        self.seconds += 1
        key: RowKey = {"n": n, "origin": origin} if origin else {"n": n}
        mark = Mark(at=Instant(self.seconds * 1_000_000), by="ada", step="s")
        told = [
            store.erase("t", keys=[key], before=Instant(2**60), mark=mark, dry_run=dry_run)
            for store in self.stores
        ]
        assert told[0].rows == told[1].rows
        assert told[0].commits.keys() == told[1].commits.keys()
        asked: list[Condition] = [(column, "==", value) for column, value in key.items()]
        for where, version in sorted(self._readable(self.stores[1]) if not dry_run else ()):
            assert not tuples(self.stores[1].scan(where, version=version, where=tuple(asked)))

    def _is_vacuumed(self) -> bool:
        """Whether one of the stores has lost versions, which need not be those that the other has lost."""
        everything = {(where, v) for where in ADDRESSES for v in range(self._versions(where))}
        return any(self._readable(store) != everything for store in self.stores)

    # What is always so

    @invariant()
    def both_hold_the_same(self) -> None:
        memory, other = self.stores
        assert memory.names() == other.names()
        if not memory.names():
            return
        assert memory.branches("t") == other.branches("t")
        readable = self._readable(memory) & self._readable(other)
        for where in ADDRESSES:
            if self._newest(memory, where) is None:
                assert self._newest(other, where) is None
                continue
            assert [_facts(c) for c in memory.history(where)] == [_facts(c) for c in other.history(where)]
            versions = [version for name, version in readable if name == where]
            for version in versions:
                assert _shown(memory, where, version) == _shown(other, where, version)
                ours, theirs = (s.snapshot(where, version=version) for s in self.stores)
                assert (ours.schema, ours.partition_by) == (theirs.schema, theirs.partition_by)
            if len(versions) > 1:
                self._differ_alike(where, min(versions), max(versions))

    def _differ_alike(self, where: str, before: int, after: int) -> None:
        net: list[dict[str, int]] = []
        for store in self.stores:
            found = store.difference(where, before=before, after=after)
            turned = Counter(map(repr, tuples(found.added)))
            turned.subtract(map(repr, tuples(found.removed)))
            net.append({key: count for key, count in turned.items() if count})
        assert net[0] == net[1]

    # How

    def _both(self, write: Callable[[TableStore, Mark], Commit], *, repeats: bool = False) -> None:
        self.seconds += 1
        key = f"k{self.seconds}" if repeats else ""
        mark = Mark(key=key, at=Instant(self.seconds * 1_000_000), by="ada", step="s")
        told: list[object] = []
        for store in self.stores:
            try:
                commit = write(store, mark)
                told.append(_facts(commit))
                if repeats:
                    assert write(store, mark) == commit
            except (Refused, NotFound, Conflict) as error:
                told.append(type(error))
        assert told[0] == told[1]

    def _data(self, store: TableStore, where: str, batch: list[Any]) -> pa.Table:
        """The rows in the table's present columns."""
        try:
            schema = store.snapshot(where).schema
        except NotFound:
            return self._fresh(batch, pa.int32())
        known = [dict(zip(("n", "origin", "x"), each, strict=True)) for each in batch]
        return pa.Table.from_pylist(known, schema=schema)

    def _fresh(self, batch: list[Any], kind: pa.DataType) -> pa.Table:
        schema = pa.schema([("n", kind), ("origin", pa.string()), ("x", pa.float64())])
        return pa.Table.from_pylist(
            [dict(zip(schema.names, each, strict=True)) for each in batch], schema=schema
        )

    def _versions(self, where: str) -> int:
        return self._count(self.stores[0], where)

    @staticmethod
    def _count(store: TableStore, where: str) -> int:
        try:
            return store.snapshot(where).version + 1
        except NotFound:
            return 0

    def _newest(self, store: TableStore, where: str) -> str | None:
        count = self._count(store, where)
        return _shown(store, where, count - 1) if count else None

    def _readable(self, store: TableStore) -> set[tuple[str, int]]:
        found = set()
        for where in ADDRESSES:
            for version in range(self._count(store, where)):
                try:
                    store.scan(where, version=version).read_all()
                except NotFound:
                    continue
                found.add((where, version))
        return found


def _shown(store: TableStore, where: str, version: int) -> str:
    """All rows as text: NaN is not equal to itself."""
    return repr(held(store, name=where, version=version))


def _facts(commit: Commit) -> tuple[object, ...]:
    """What two stores must tell alike. What a restore or a publish brings may be counted by whole files."""
    exact = (commit.rows_added, commit.rows_removed)
    if commit.operation in {"restore", "publish"}:
        exact = (commit.rows_added - commit.rows_removed, 0)
    return (
        commit.version,
        commit.at,
        commit.operation,
        commit.rows,
        *exact,
        commit.key,
        commit.by,
        commit.step,
    )


class OnDisk(Histories):
    @staticmethod
    def make(folder: Path) -> TableStore:
        return DeltaTables(folder)


TestInMemory = Histories.TestCase
TestInMemory.settings = settings(stateful_step_count=20)
TestOnDisk = OnDisk.TestCase
TestOnDisk.settings = settings(max_examples=settings().max_examples // 3, stateful_step_count=20)
