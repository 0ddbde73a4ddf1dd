"""Tables in Delta format, with their branches: what the port asks, told from the parts that do it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from fourfold.adapters.delta import history
from fourfold.adapters.delta.branch import Fork, Publish
from fourfold.adapters.delta.compact import Compact
from fourfold.adapters.delta.delete import Delete
from fourfold.adapters.delta.erase import Erasure
from fourfold.adapters.delta.errors import writable
from fourfold.adapters.delta.evolve import Evolve, Restore, whole
from fourfold.adapters.delta.files import FILE_BYTES, Staged
from fourfold.adapters.delta.keyed import Upsert
from fourfold.adapters.delta.local import LocalPlace
from fourfold.adapters.delta.log import BRANCHES, Log, branch_of, folder_of
from fourfold.adapters.delta.metadata import check_readable
from fourfold.adapters.delta.payload import Payload
from fourfold.adapters.delta.place import Place
from fourfold.adapters.delta.plan import plans
from fourfold.adapters.delta.reading import Reader
from fourfold.adapters.delta.skipping import may_meet, tests
from fourfold.adapters.delta.state import State
from fourfold.adapters.delta.transaction import Change, perform
from fourfold.adapters.delta.vacuum import vacuum
from fourfold.adapters.delta.write import Write
from fourfold.core.decide import branching, evolving, schemas
from fourfold.core.errors import Refused
from fourfold.core.ports.tables import (
    UNMARKED,
    Ability,
    Commit,
    Difference,
    Erased,
    Evolution,
    Mark,
    RowKey,
    Rows,
    Snapshot,
    Vacuumed,
)
from fourfold.core.storage import MAIN, Condition, Scalar, TableAddress, table_address
from fourfold.core.times import Instant


class DeltaTables:
    """Keeps each table in a folder of its own, on a local disk or wherever a `Place` is."""

    def __init__(self, place: Place | Path) -> None:
        self._place = LocalPlace(place) if isinstance(place, Path) else place
        self._reader = Reader(self._place)
        self._logs: dict[TableAddress, Log] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<DeltaTables {self._place}>"

    @property
    def abilities(self) -> frozenset[Ability]:
        return frozenset(Ability)

    # Writing

    def append(
        self, name: str, data: Rows, *, partition_by: tuple[str, ...] = (), mark: Mark = UNMARKED
    ) -> Commit:
        return self._write(name, data, "append", {}, partition_by, mark)

    def overwrite(
        self,
        name: str,
        data: Rows,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
        mark: Mark = UNMARKED,
    ) -> Commit:
        return self._write(name, data, "overwrite", dict(where or {}), partition_by, mark)

    def _write(
        self,
        name: str,
        data: Rows,
        operation: str,
        where: dict[str, Scalar],
        partition_by: tuple[str, ...],
        mark: Mark,
    ) -> Commit:
        def change(staged: Staged) -> Change:
            payload = Payload(name, data, staged)
            return Write(name, payload, operation=operation, where=where, partition_by=partition_by)

        return self._done(name, change, mark)

    def upsert(self, name: str, data: Rows, *, key: tuple[str, ...], mark: Mark = UNMARKED) -> Commit:
        return self._done(
            name, lambda staged: Upsert(name, Payload(name, data, staged), staged, key=key), mark
        )

    def delete(self, name: str, *, where: tuple[Condition, ...], mark: Mark = UNMARKED) -> Commit:
        return self._done(name, lambda staged: Delete(name, staged, where=where), mark)

    def evolve(self, name: str, change: Evolution, *, mark: Mark = UNMARKED) -> Commit:
        return self._done(name, lambda staged: Evolve(name, staged, change), mark)

    def restore(self, name: str, *, version: int, mark: Mark = UNMARKED) -> Commit:
        return self._done(name, lambda _: Restore(self._log(name), version=version), mark)

    def compact(
        self,
        name: str,
        *,
        cluster_by: tuple[str, ...] = (),
        target_bytes: int = FILE_BYTES,
        mark: Mark = UNMARKED,
    ) -> Commit | None:
        staged = self._staged(name)
        change = Compact(name, staged, cluster_by=cluster_by, target_bytes=target_bytes)
        return perform(self._log(name), change, staged, mark)

    # Reading

    def snapshot(self, name: str, *, version: int | None = None) -> Snapshot:
        return self._log(name).at(version).snapshot

    def scan(
        self,
        name: str,
        *,
        version: int,
        columns: tuple[str, ...] | None = None,
        where: tuple[Condition, ...] = (),
    ) -> pa.RecordBatchReader:
        state = self._readable(name, version)
        wanted = list(state.schema.names if columns is None else columns)
        schemas.check_columns(name, wanted, state.schema)
        condition = schemas.expression(name, where, state.schema)
        files = may_meet(state.files.values(), tests(name, where, state.schema), state.schema)
        found = self._reader.dataset(table_address(name).table, files, state.schema, state.partition_by)
        kept = pa.schema([state.schema.field(column) for column in wanted])
        return self._reader.scanned(name, version, found, kept, condition)

    def difference(self, name: str, *, before: int, after: int) -> Difference:
        old, new = self._readable(name, before), self._readable(name, after)
        columns = evolving.shared(name, old.schema, new.schema)
        return Difference(
            removed=self._only(name, old, new, columns), added=self._only(name, new, old, columns)
        )

    def history(self, name: str, *, after: int = -1, limit: int = 1000) -> tuple[Commit, ...]:
        log = self._log(name)
        newest = log.there().version
        return tuple(reversed(history.commits(log, after=max(after, newest - limit), upto=newest)))

    def names(self) -> tuple[str, ...]:
        return tuple(
            name for name in self._place.folders("") if _is_name(name) and self._log(name).is_there()
        )

    def _only(self, name: str, state: State, other: State, columns: pa.Schema) -> pa.RecordBatchReader:
        """The rows in the files that only one of two versions has."""
        files = [file for path, file in state.files.items() if path not in other.files]
        found = self._reader.dataset(table_address(name).table, files, state.schema, state.partition_by)
        return self._reader.scanned(name, state.version, found, columns, None)

    def _readable(self, name: str, version: int) -> State:
        """A version whose rows can be read."""
        log = self._log(name)
        state = log.at(version)
        check_readable(name, state.metadata, state.protocol, state.used)
        # Files of the newest version are never vacuumed.
        return state if state is log.at(None) else whole(log, version)

    # Branches

    def fork(self, name: str, branch: str, *, version: int, mark: Mark = UNMARKED) -> Commit:
        table = self._table(name, "be branched")
        begun = self._log(branching.branch_of(name, branch, "be branched"))
        table.there()
        with table.turn():  # so that no vacuum takes the files away meanwhile
            return self._certain(
                perform(begun, Fork(table, begun, version=version), self._staged(begun.name), mark)
            )

    def publish(
        self,
        name: str,
        branch: str,
        *,
        onto: int | None = None,
        becoming: bool = False,
        mark: Mark = UNMARKED,
    ) -> Commit:
        table = self._table(name, "be published into")
        begun = self._log(branching.branch_of(name, branch, "be published into"))
        return self._done(name, lambda _: Publish(table, begun, onto=onto, becoming=becoming), mark)

    def branches(self, name: str) -> tuple[str, ...]:
        table = self._table(name, "have branches")
        table.there()
        return tuple(log.address.branch for log in self._branches(table))

    def _branches(self, table: Log) -> list[Log]:
        found = sorted(map(branch_of, self._place.folders(f"{table.address.table}/{BRANCHES}")))
        logs = [self._log(f"{table.address.table}@{branch}") for branch in found]
        return [log for log in logs if log.is_there()]

    # Removing

    def vacuum(self, name: str, *, keep: Collection[int], before: Instant, dry_run: bool = False) -> Vacuumed:
        table = self._table(name, "be vacuumed")
        table.there()
        with table.turn(), writable(name):
            planned = {path for plan in plans(self._place, name) for path in plan.new_paths}
            branches = self._branches(table)
            if not dry_run:
                self._sweep_unbegun(table, branches)
            return vacuum(table, branches, keep=keep, before=before, planned=planned, dry_run=dry_run)

    def _sweep_unbegun(self, table: Log, branches: Sequence[Log]) -> None:
        """Remove folders of branches whose first entry was never written, because a writer died or had no
        space for it. Nobody begins one meanwhile: who does holds the turn of its table."""
        if self._place.is_far:  # there are no folders, and nothing precedes the first entry
            return
        begun = {log.address.branch for log in branches}
        under = f"{table.address.table}/{BRANCHES}"
        for folder in self._place.folders(under):
            if branch_of(folder) not in begun:
                self._place.remove(f"{under}/{folder}")

    def erase(
        self,
        name: str,
        *,
        keys: Sequence[RowKey],
        before: Instant,
        mark: Mark = UNMARKED,
        dry_run: bool = False,
    ) -> Erased:
        table = self._table(name, "be erased from by itself")
        table.there()
        erasure = Erasure(table, lambda: self._branches(table), keys, before=before, mark=mark)
        return erasure.would() if dry_run else erasure.go()

    def drop(self, name: str) -> None:
        log = self._log(name)
        if log.newest() is None:
            return
        address = log.address
        branch = "" if address.branch == MAIN else f"/{BRANCHES}/{folder_of(address.branch)}"
        with log.turn(), writable(name):
            self._place.remove(f"{address.table}{branch}")
            log.forget()

    # Parts

    def _log(self, name: str) -> Log:
        address = table_address(name)
        with self._lock:
            if (log := self._logs.get(address)) is None:
                log = self._logs[address] = Log(self._place, address)
            return log

    def _table(self, name: str, what: str) -> Log:
        return self._log(branching.only_table(name, what))

    def _staged(self, name: str) -> Staged:
        return Staged(self._place, table_address(name).table)

    def _done(self, name: str, change: Callable[[Staged], Change], mark: Mark) -> Commit:
        staged = self._staged(name)
        return self._certain(perform(self._log(name), change(staged), staged, mark))

    @staticmethod
    def _certain(commit: Commit | None) -> Commit:
        assert commit is not None, "only a compaction may have nothing to do"
        return commit


def _is_name(folder: str) -> bool:
    """Whether a folder may be one of ours: others may lie beside them."""
    try:
        return table_address(folder).branch == MAIN
    except Refused:
        return False
