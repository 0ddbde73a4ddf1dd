"""Tables in Delta format on a local disk, through `deltalake`.

We write the data files ourselves and let `deltalake` commit them, because it never syncs: a version is
acknowledged once its files, its log entry and their folders are on the disk. What a power cut leaves of a
version that was not acknowledged is put aside when the table is next opened.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from fourfold.adapters.delta.disk import readable, sync, translated
from fourfold.adapters.delta.log import Log
from fourfold.adapters.delta.read import dataset
from fourfold.adapters.delta.write import Shape, Write, arrow_schema
from fourfold.core.decide import schemas
from fourfold.core.errors import Conflict, NotFound
from fourfold.core.ports.tables import UNMARKED, Commit, Mark, Snapshot
from fourfold.core.storage import Condition, Scalar

COMMIT_TRIES = 50
"""How often a write is put to the log again after others were quicker."""
CHECKPOINT_EVERY = 100
OLD_HANDLES = 16
"""Handles on older versions kept open."""


@dataclass(slots=True)
class _Handle:
    """A table kept open, and how far its log is known to be on the disk."""

    table: DeltaTable
    synced: int
    is_rooted: bool = False
    """Whether the names of its own folders are on the disk too."""


class DeltaTables:
    """Keeps each table in a folder of its own under `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handles: dict[str, _Handle] = {}
        self._old: OrderedDict[tuple[str, int], DeltaTable] = OrderedDict()
        self._locks: dict[str, threading.RLock] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for half_dropped in folder.glob(".dropped-*"):
            shutil.rmtree(half_dropped, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<DeltaTables {self._folder}>"

    # Writing

    def append(
        self, name: str, data: pa.Table, *, partition_by: tuple[str, ...] = (), mark: Mark = UNMARKED
    ) -> Commit:
        return self._write(name, data, "append", {}, partition_by, mark)

    def overwrite(
        self,
        name: str,
        data: pa.Table,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
        mark: Mark = UNMARKED,
    ) -> Commit:
        return self._write(name, data, "overwrite", dict(where or {}), partition_by, mark)

    def _write(
        self,
        name: str,
        data: pa.Table,
        operation: str,
        where: dict[str, Scalar],
        partition_by: tuple[str, ...],
        mark: Mark,
    ) -> Commit:
        write = Write(self._folder / name, data, operation, where, partition_by, mark)
        with write.discarded_unless_committed():
            for _ in range(COMMIT_TRIES):
                with self._lock_of(name):
                    handle = self._open(name)
                    if handle is not None and mark.key and (first := self._find(name, handle, mark.key)):
                        write.discard()
                        return first
                    shape = None if handle is None else Shape.of(handle.table)
                    if write.is_prepared_for(shape):
                        base = -1 if handle is None else handle.table.version()
                        if self._commit(name, write, handle):
                            return self._acknowledge(name, write, base)
                        continue  # somebody was quicker: look again at what the table is now
                write.prepare(shape)  # without the lock: readers and other writers go on meanwhile
        raise Conflict(
            f"table '{name}' was changed by others {COMMIT_TRIES} times while this write tried to",
            ways_on=["try again", "let fewer writers overwrite it at once"],
            table=name,
        )

    def _commit(self, name: str, write: Write, handle: _Handle | None) -> bool:
        """Put the write to the log; false when somebody else's commit came first."""
        base = -1 if handle is None else handle.table.version()
        try:
            write.commit(None if handle is None else handle.table)
        except (DeltaError, OSError) as error:
            if self._log(name).find(write.token, after=base) is not None:
                return True  # what failed came after the commit
            write.is_in_doubt = False
            if isinstance(error, CommitFailedError) or "already exists" in str(error):
                return False
            raise translated(error, name) from error
        return True

    def _acknowledge(self, name: str, write: Write, base: int) -> Commit:
        """Make the commit survive a power cut, and say which version it became."""
        log = self._log(name)
        version = log.find(write.token, after=base)
        handle = self._open(name)
        assert version is not None, "the commit went well"
        assert handle is not None, "a table that was committed to is there"
        for number in range(handle.synced + 1, version + 1):  # others' entries too: ours stands on them
            with suppress(FileNotFoundError):
                sync(log.path(number))
        sync(log.folder)
        if not handle.is_rooted:
            sync(log.folder.parent)
            sync(self._folder)
            handle.is_rooted = True
        handle.synced = max(handle.synced, version)
        if version and version % CHECKPOINT_EVERY == 0:
            self._checkpoint(handle, log)
        return self._commit_at(name, version)

    def _checkpoint(self, handle: _Handle, log: Log) -> None:
        """Spare the next opening a hundred entries. The log is whole without it, so failing is no matter."""
        with suppress(DeltaError, OSError):
            handle.table.create_checkpoint()
            for path in log.folder.glob("*checkpoint*"):
                sync(path)
            sync(log.folder)

    def _find(self, name: str, handle: _Handle, key: str) -> Commit | None:
        """The commit that carries a write key. Its Delta transaction holds the version to look from."""
        version = handle.table.transaction_version(key)
        if version is None:
            return None
        log, newest = self._log(name), handle.table.version()
        while version < newest and key not in log.entry(version).keys:
            version += 1
        return self._commit_at(name, version)

    # Reading

    def snapshot(self, name: str, *, version: int | None = None) -> Snapshot:
        with self._at(name, version) as table:
            files = pa.table(table.get_add_actions())
            return Snapshot(
                version=table.version(),
                at=self._log(name).entry(table.version()).at,
                schema=arrow_schema(table),
                partition_by=tuple(table.metadata().partition_columns),
                rows=pc.sum(files["num_records"]).as_py() or 0,
                size_bytes=pc.sum(files["size_bytes"]).as_py() or 0,
            )

    def scan(
        self,
        name: str,
        *,
        version: int,
        columns: tuple[str, ...] | None = None,
        where: tuple[Condition, ...] = (),
    ) -> pa.RecordBatchReader:
        with self._at(name, version) as table, readable(name, version):
            schema = arrow_schema(table)
            wanted = list(schema.names if columns is None else columns)
            schemas.check_columns(name, wanted, schema)
            condition = schemas.expression(name, where, schema)
            files = dataset(table, self._folder / name, schema, [column for column, _, _ in where])
        kept = pa.schema([schema.field(column) for column in wanted])

        def batches() -> Iterator[pa.RecordBatch]:
            with readable(name, version):
                for batch in files.scanner(columns=wanted, filter=condition).to_batches():
                    if batch.num_rows:
                        yield batch.cast(kept)

        return pa.RecordBatchReader.from_batches(kept, batches())

    def history(self, name: str, *, after: int = -1, limit: int = 1000) -> tuple[Commit, ...]:
        with self._at(name, None) as table:
            newest = table.version()
        return tuple(reversed(self._commits(name, max(after, newest - limit), newest)))

    def names(self) -> tuple[str, ...]:
        logs = self._folder.glob("[!.]*/_delta_log")
        return tuple(sorted(log.parent.name for log in logs if any(log.glob("*.json"))))

    def drop(self, name: str) -> None:
        gone = self._folder / f".dropped-{name}-{secrets.token_hex(4)}"
        with self._lock_of(name):
            self._handles.pop(name, None)
            with self._lock:
                for key in [key for key in self._old if key[0] == name]:
                    del self._old[key]
            with suppress(FileNotFoundError):
                (self._folder / name).rename(gone)
                sync(self._folder)
        shutil.rmtree(gone, ignore_errors=True)

    # Handles

    def _log(self, name: str) -> Log:
        return Log(self._folder / name)

    def _lock_of(self, name: str) -> threading.RLock:
        with self._lock:
            return self._locks.setdefault(name, threading.RLock())

    def _open(self, name: str) -> _Handle | None:
        """The table as it is now, for the holder of its lock; `None` when there is none."""
        log = self._log(name)
        handle = self._handles.get(name)
        try:
            if handle is None or not log.has(handle.table.version()):  # dropped, and perhaps made anew
                log.mend()
                table = DeltaTable(str(self._folder / name))
                handle = _Handle(table, synced=max(-1, table.version() - CHECKPOINT_EVERY))
                self._handles[name] = handle
            elif log.has(handle.table.version() + 1):
                handle.table.update_incremental()
        except TableNotFoundError:
            self._handles.pop(name, None)
            return None
        except DeltaError as error:
            raise translated(error, name) from error
        return handle

    @contextmanager
    def _at(self, name: str, version: int | None) -> Iterator[DeltaTable]:
        """A handle that stays on this version (or the newest) while the block lasts."""
        with self._lock_of(name):
            handle = self._open(name)
            if handle is None:
                raise NotFound(
                    f"table '{name}' does not exist", ways_on=["see: fourfold table ls"], table=name
                )
            newest = handle.table.version()
            if version is None or version == newest:
                yield handle.table
                return
        if not 0 <= version <= newest:
            raise NotFound(
                f"table '{name}' has no version {version}",
                ways_on=[f"its versions: 0 to {newest}"],
                table=name,
                version=version,
            )
        yield self._open_old(name, version)

    def _open_old(self, name: str, version: int) -> DeltaTable:
        """A handle on an older version, which nobody moves."""
        with self._lock:
            table = self._old.get((name, version))
            if table is None:
                try:
                    table = DeltaTable(str(self._folder / name), version=version)
                except DeltaError as error:
                    raise translated(error, name) from error
                self._old[name, version] = table
            self._old.move_to_end((name, version))
            while len(self._old) > OLD_HANDLES:
                self._old.popitem(last=False)
            return table

    def _commit_at(self, name: str, version: int) -> Commit:
        with self._at(name, version) as table:
            rows = table.count()
        return self._log(name).entry(version).commit(rows)

    def _commits(self, name: str, after: int, upto: int) -> list[Commit]:
        """Commits with `after` < version <= `upto`, oldest first; where entries are gone, what is left."""
        log = self._log(name)
        while after < upto and not log.has(after + 1):
            after += 1  # another program cleaned the log
        rows_of: dict[str, int] = {}
        if after >= 0:
            with self._at(name, after) as table:
                files = pa.table(table.get_add_actions().select(["path", "num_records"]))
            paths = (unquote(path) for path in files["path"].to_pylist())
            rows_of = dict(zip(paths, (n or 0 for n in files["num_records"].to_pylist()), strict=True))
        total = sum(rows_of.values())
        found: list[Commit] = []
        for version in range(after + 1, upto + 1):
            entry = log.entry(version)
            total -= sum(rows_of.pop(path, 0) for path in entry.removed)
            total += sum(entry.added.values())
            rows_of.update(entry.added)
            found.append(entry.commit(total))
        return found
