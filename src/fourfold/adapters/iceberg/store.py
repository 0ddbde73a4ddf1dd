"""`IcebergTables`: tables in Iceberg format, their newest version told by a catalog."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice

import pyarrow as pa
import pyarrow.fs as pafs
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import FileScanTask

from fourfold.adapters.iceberg import catalogs, columns, reading
from fourfold.adapters.iceberg.errors import cannot, translating
from fourfold.adapters.iceberg.files import Place, PlacedIO
from fourfold.adapters.iceberg.versions import State, Version, no_table, state_of
from fourfold.adapters.iceberg.writing import Draft, Late, Source, Try
from fourfold.core.decide import evolving, keys, partitions, schemas
from fourfold.core.errors import Conflict, FourfoldError, NotFound, Refused, Unavailable
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
from fourfold.core.storage import MAIN, Condition, Scalar, table_address
from fourfold.core.times import Instant

COMMIT_TRIES = 50
"""How often a write is put to the catalog again after others were quicker."""
LONGEST_PAUSE_S = 1.0

ABILITIES = frozenset({
    Ability.upsert, Ability.delete, Ability.evolve, Ability.restore, Ability.overwrite_part,
    Ability.write_keys,
})  # fmt: skip


class IcebergTables:
    """Keeps tables in Iceberg format (version 2). Fulfils `core.ports.tables.TableStore`.

    `address` names the catalog, `root` where tables lie; `filesystem` reads and writes there. On a local disk
    each file is synced before the catalog may name it; how safe the catalog's own word is, is the catalog's
    affair (SQLite syncs each commit).

    A version is a snapshot, numbered from the first. What Iceberg has no word for (number, time, write key,
    watermark, counts, columns in Arrow's words) is kept in the snapshot's summary and the table's properties.
    """

    def __init__(self, address: str, root: str, filesystem: pafs.FileSystem | None = None) -> None:
        place = Place(root, filesystem or pafs.LocalFileSystem())
        self._address = address.partition("?")[0]
        with translating("(all)"):
            self._catalog = catalogs.opened(address, place)
            self._catalog.catalog.create_namespace_if_not_exists((self._catalog.namespace,))

    def __repr__(self) -> str:
        return f"<IcebergTables {self._address}>"

    @property
    def abilities(self) -> frozenset[Ability]:
        return ABILITIES

    # Writing

    def append(
        self, name: str, data: Rows, *, partition_by: tuple[str, ...] = (), mark: Mark = UNMARKED
    ) -> Commit:
        source = Source(data)

        def change(attempt: Try) -> Draft:
            return _add(attempt, source, attempt.schema, partition_by, "append")

        return self._write(name, mark, change, source)

    def overwrite(
        self,
        name: str,
        data: Rows,
        *,
        where: Mapping[str, Scalar] | None = None,
        partition_by: tuple[str, ...] = (),
        mark: Mark = UNMARKED,
    ) -> Commit:
        source, part = Source(data), dict(where or {})

        def change(attempt: Try) -> Draft:
            draft = _add(attempt, source, attempt.schema if part else None, partition_by, "overwrite", part)
            state, newest = attempt.state, attempt.newest
            if state is None or newest is None:
                return draft
            tasks = reading.files(state, newest)
            if part:
                assert attempt.schema is not None, "it has a version"
                values = partitions.values(name, attempt.schema, part)
                tasks = [task for task in tasks if _lies_in(task, state, values)]
            _check_plain(name, tasks)
            attempt.removed = [task.file for task in tasks]
            return Draft("overwrite", draft.rows_added, sum(task.file.record_count for task in tasks))

        return self._write(name, mark, change, source)

    def upsert(self, name: str, data: Rows, *, key: tuple[str, ...], mark: Mark = UNMARKED) -> Commit:
        # All keys must be known before the first row is judged, so the data is held in memory.
        whole = data.read_all() if isinstance(data, pa.RecordBatchReader) else data

        def change(attempt: Try) -> Draft:
            fitted = schemas.fit(name, whole, attempt.schema)
            keys.check_columns(name, fitted.schema, key)
            keys.check_nulls(name, fitted, key)
            keys.check_unique(name, fitted.select(key))
            new = fitted.select(key)
            source = Source(fitted)
            draft = _add(attempt, source, attempt.schema, (), "upsert")
            attempt.own(source)
            removed = _rewrite(attempt, (), lambda rows: _without(rows, new, key)) if len(fitted) else 0
            return Draft("upsert", draft.rows_added, removed)

        return self._write(name, mark, change)

    def delete(self, name: str, *, where: tuple[Condition, ...], mark: Mark = UNMARKED) -> Commit:
        def change(attempt: Try) -> Draft:
            schema = _there(name, attempt)
            condition = schemas.expression(name, where, schema)
            attempt.begin(schema, attempt.partition_by or ())
            stay = None if condition is None else reading.keeping(condition)
            removed = _rewrite(
                attempt, where, lambda rows: rows.slice(0, 0) if stay is None else rows.filter(stay)
            )
            return Draft("delete", 0, removed)

        return self._write(name, mark, change)

    def evolve(self, name: str, change: Evolution, *, mark: Mark = UNMARKED) -> Commit:
        def changed(attempt: Try) -> Draft:
            schema = _there(name, attempt)
            after = evolving.evolved(name, schema, change)
            for column in change.widen:
                before, kind = (columns.numbered(pa.schema([s.field(column)])) for s in (schema, after))
                old, new = before.fields[0].field_type, kind.fields[0].field_type
                if old != new and not columns.widens(old, new):
                    raise Refused(
                        f"table '{name}': Iceberg cannot make column '{column}' {new} of {old}: it adds "
                        "digits before a decimal's point, never after it",
                        ways_on=["read the table, cast the column, and overwrite the table"],
                        table=name,
                        column=column,
                    )
            attempt.begin(after, attempt.partition_by or ())
            return Draft("evolve")

        return self._write(name, mark, changed)

    def restore(self, name: str, *, version: int, mark: Mark = UNMARKED) -> Commit:
        def change(attempt: Try) -> Draft:
            _there(name, attempt)
            state, newest = attempt.state, attempt.newest
            assert state is not None, "it is there"
            assert newest is not None, "it is there"
            old = state.at(version)
            now, then = reading.files(state, newest), reading.files(state, old)
            gone, back = reading.only(now, then), reading.only(then, now)
            _check_plain(name, [*now, *then])
            attempt.begin(state.schema_at(old), state.partition_by, schema_id=old.snapshot.schema_id)
            attempt.removed = [task.file for task in gone]
            attempt.keep(task.file for task in back)
            added, removed = (sum(task.file.record_count for task in tasks) for tasks in (back, gone))
            return Draft("restore", added, removed)

        return self._write(name, mark, change)

    def compact(
        self,
        name: str,
        *,
        cluster_by: tuple[str, ...] = (),
        target_bytes: int = 128 * 2**20,
        mark: Mark = UNMARKED,
    ) -> Commit | None:
        del cluster_by, target_bytes, mark
        raise cannot(
            Ability.compact,
            f"table '{name}' is in Iceberg format, whose Python library does not compact",
            "let Spark or Trino do it (rewrite_data_files, optimize)",
            "or keep the table in Delta format",
        )

    # Reading

    def snapshot(self, name: str, *, version: int | None = None) -> Snapshot:
        state = self._state(name)
        return state.at(version).shown(state)

    def scan(
        self,
        name: str,
        *,
        version: int,
        columns: tuple[str, ...] | None = None,
        where: tuple[Condition, ...] = (),
    ) -> pa.RecordBatchReader:
        state = self._state(name)
        found = state.at(version)
        schema = state.schema_at(found)
        wanted = list(schema.names if columns is None else columns)
        schemas.check_columns(name, wanted, schema)
        schemas.expression(name, where, schema)
        tasks = reading.files(state, found, where)
        rows = reading.rows(state, found, tasks, columns=wanted, where=where)
        return reading.reader(pa.schema([schema.field(column) for column in wanted]), rows)

    def difference(self, name: str, *, before: int, after: int) -> Difference:
        state = self._state(name)
        old, new = state.at(before), state.at(after)
        schema = evolving.shared(name, state.schema_at(old), state.schema_at(new))
        now, then = reading.files(state, new), reading.files(state, old)

        def stream(version: Version, tasks: list[FileScanTask]) -> pa.RecordBatchReader:
            rows = reading.rows(state, version, tasks, columns=schema.names)
            return reading.reader(schema, (table.cast(schema) for table in rows))

        return Difference(
            removed=stream(old, reading.only(then, now)), added=stream(new, reading.only(now, then))
        )

    def history(self, name: str, *, after: int = -1, limit: int = 1000) -> tuple[Commit, ...]:
        state = self._state(name)
        commits = (each.commit for each in reversed(state.versions) if each.number > after)
        return tuple(islice(commits, limit))

    def names(self) -> tuple[str, ...]:
        with translating("(all)"):
            try:
                found = self._catalog.catalog.list_tables((self._catalog.namespace,))
            except NoSuchNamespaceError:
                return ()
        return tuple(sorted(identifier[-1] for identifier in found))

    # Branches

    def fork(self, name: str, branch: str, *, version: int, mark: Mark = UNMARKED) -> Commit:
        del version, mark
        raise _no_branch(name, branch)

    def publish(
        self,
        name: str,
        branch: str,
        *,
        onto: int | None = None,
        becoming: bool = False,
        mark: Mark = UNMARKED,
    ) -> Commit:
        del onto, becoming, mark
        raise _no_branch(name, branch)

    def branches(self, name: str) -> tuple[str, ...]:
        self._state(name)
        return ()

    # Removing

    def vacuum(self, name: str, *, keep: Collection[int], before: Instant, dry_run: bool = False) -> Vacuumed:
        del keep, before, dry_run
        raise cannot(
            Ability.vacuum,
            f"table '{name}' is in Iceberg format, whose Python library removes no files of old snapshots",
            "let Spark or Trino do it (expire_snapshots, remove_orphan_files)",
            "or keep the table in Delta format",
        )

    def erase(
        self,
        name: str,
        *,
        keys: Sequence[RowKey],
        before: Instant,
        mark: Mark = UNMARKED,
        dry_run: bool = False,
    ) -> Erased:
        del keys, before, mark, dry_run
        raise cannot(
            Ability.erase,
            f"table '{name}' is in Iceberg format, whose Python library changes no snapshot and no manifest "
            "that is there: older ones would keep the rows, and their smallest and largest values",
            "delete the rows, then have Spark or Trino expire_snapshots to now and remove_orphan_files",
            "or keep the table in Delta format",
        )

    def drop(self, name: str) -> None:
        if table_address(name).branch != MAIN:
            return
        identifier = (self._catalog.namespace, name)
        with translating(name):
            try:
                table = self._catalog.catalog.load_table(identifier)
                self._catalog.catalog.drop_table(identifier)
            except NoSuchTableError:
                return
            if isinstance(table.io, PlacedIO):
                table.io.remove_all(table.location())

    # Inside

    def _find(self, name: str) -> State | None:
        """The table as the catalog has it now, also one that holds nothing yet."""
        address = table_address(name)
        if address.branch != MAIN:
            raise NotFound(
                f"table '{address.table}' has no branch '{address.branch}': Iceberg tables are kept without",
                ways_on=["branches are kept of Delta tables only"],
                table=name,
            )
        with translating(name):
            try:
                table = self._catalog.catalog.load_table((self._catalog.namespace, name))
            except NoSuchTableError:
                return None
            return state_of(name, table)

    def _state(self, name: str) -> State:
        state = self._find(name)
        if state is None or state.newest is None:
            raise no_table(name)
        return state

    def _write(
        self, name: str, mark: Mark, change: Callable[[Try], Draft], source: Source | None = None
    ) -> Commit:
        """Do a change on top of what the table is, and again where others came first."""
        attempt: Try | None = None
        try:
            for tries in range(COMMIT_TRIES):
                if tries:
                    _pause(tries, is_locked=self._catalog.lock is not None)
                # The first try waits for nobody; later ones keep the turn while they write.
                with self._catalog.turn() if tries else nullcontext():
                    state = self._find(name)
                    if (done := _answered(name, state, mark)) is not None:
                        if attempt is not None:
                            attempt.discard(source)
                        return done
                    attempt = Try(self._catalog, name, state)
                    with translating(name):
                        draft = change(attempt)
                    try:
                        with nullcontext() if tries else self._catalog.turn():
                            return self._committed(attempt, draft, mark)
                    except Late:
                        attempt.discard()
        except BaseException:
            if attempt is not None:
                attempt.discard(source)
            raise
        if attempt is not None:
            attempt.discard(source)
        raise Conflict(
            f"table '{name}' was changed by others {COMMIT_TRIES} times while this write tried to",
            ways_on=["try again", "let fewer writers change the table at once"],
            table=name,
        )

    def _committed(self, attempt: Try, draft: Draft, mark: Mark) -> Commit:
        """Commit; where the answer was lost, look whether it came to be."""
        with translating(attempt.name):
            told = attempt.stage(draft, mark)
        try:
            attempt.put()
        except Exception as error:
            try:
                state = self._find(attempt.name)
                made = None if state is None else state.by_id(attempt.id)
            except FourfoldError as again:
                raise Unavailable(
                    f"table '{attempt.name}' did not answer while it was written to: whether the write came "
                    "to be is not known",
                    ways_on=["see its history, or repeat the write if it has a key", again.message],
                    table=attempt.name,
                ) from error
            if made is None:
                attempt.failed()
                with translating(attempt.name):
                    raise
        return Commit(
            version=told.version, at=Instant(told.at), operation=told.operation, rows=told.rows,
            rows_added=told.rows_added, rows_removed=told.rows_removed, key=told.key, by=told.by,
            step=told.step,
        )  # fmt: skip


def _answered(name: str, state: State | None, mark: Mark) -> Commit | None:
    """The answer to a write that was done before, or that does not go on from the table's watermark."""
    newest = None if state is None else state.newest
    if state is not None and mark.key and (first := state.keyed(mark.key)) is not None:
        return first.commit
    if mark.watermark >= 0 and mark.since != (-1 if newest is None else newest.watermark):
        if newest is None:
            raise no_table(name)
        return newest.commit
    return None


def _add(
    attempt: Try,
    source: Source,
    schema: pa.Schema | None,
    partition_by: tuple[str, ...],
    operation: str,
    part: Mapping[str, Scalar] | None = None,
) -> Draft:
    """Begin the next version with the data's rows as new files."""
    name = attempt.name
    fitting = schemas.fitting(name, source.schema, schema)
    cut_by = partitions.columns(name, attempt.partition_by, partition_by)

    def fitted() -> Iterator[pa.Table]:
        first_row = 1
        for piece in source.pieces():
            rows = schemas.fit(name, piece, fitting, first_row=first_row)
            first_row += len(rows)
            partitions.check(name, rows, cut_by, part or {})
            yield rows

    partitions.check(name, fitting.empty_table(), cut_by, part or {})
    attempt.begin(fitting, cut_by)
    attempt.write_all(source, fitted())
    return Draft(operation, source.rows)


def _rewrite(attempt: Try, where: tuple[Condition, ...], stay: Callable[[pa.Table], pa.Table]) -> int:
    """Write the files anew of which not all rows stay, one after the other; how many rows went."""
    state, newest = attempt.state, attempt.newest
    if state is None or newest is None:
        return 0
    gone = 0
    for task in reading.files(state, newest, where):
        _check_plain(attempt.name, [task])
        pieces = list(reading.rows(state, newest, [task]))
        kept = [stay(piece) for piece in pieces]
        removed = sum(map(len, pieces)) - sum(map(len, kept))
        if removed:
            attempt.removed.append(task.file)
            attempt.write(pa.concat_tables(kept))
            gone += removed
    return gone


def _without(rows: pa.Table, new: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """The rows whose key is not among the new ones; a null is equal to nothing."""
    numbered = rows.select(key).append_column("\0row", pa.array(range(len(rows)), pa.int64()))
    stay = numbered.join(new, list(key), join_type="left anti")["\0row"].combine_chunks()
    return rows.take(stay.sort())


def _lies_in(task: FileScanTask, state: State, values: Mapping[str, pa.Scalar]) -> bool:
    """Whether a file's partition has these values."""
    spec = state.metadata.specs()[task.file.spec_id]
    held = {field.name: task.file.partition[index] for index, field in enumerate(spec.fields)}
    return all(held.get(column) == columns.partition_value(value) for column, value in values.items())


def _check_plain(name: str, tasks: list[FileScanTask]) -> None:
    if reading.has_deletes(tasks):
        raise Refused(
            f"another program deleted rows of table '{name}' by delete files: these are read, not rewritten",
            ways_on=["compact it there first (rewrite_data_files), or append only"],
            table=name,
        )


def _there(name: str, attempt: Try) -> pa.Schema:
    if attempt.schema is None:
        raise no_table(name)
    return attempt.schema


def _pause(tries: int, *, is_locked: bool) -> None:
    """Let others go first, the longer the more often they did; a lock has an order of its own."""
    if not is_locked:
        time.sleep(random.uniform(0, min(LONGEST_PAUSE_S, 0.02 * 2**tries)))  # noqa: S311


def _no_branch(name: str, branch: str) -> Refused:
    return cannot(
        Ability.branch,
        f"table '{name}' is in Iceberg format, and branches such as '{branch}' are kept of Delta tables only",
        "keep the table in Delta format",
        "or copy the rows to a table of another name",
    )
