"""Forgetting: a person's rows go from all versions of a table and from all that is kept beside it.

That it is about to happen is kept first, with what saw the rows, because afterwards nobody could tell. Each
part may be done twice, so one that was cut off is finished by doing all of it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime
from itertools import chain, product

import pyarrow as pa

from fourfold.catalog.database import Catalog
from fourfold.catalog.ids import new_id
from fourfold.catalog.lineage import PASSING
from fourfold.core import forgetting
from fourfold.core.catalog import principal
from fourfold.core.context import Ref
from fourfold.core.decide import erasing
from fourfold.core.errors import NotFound
from fourfold.core.forgetting import PersonKey, Saw, TableForgotten, Tombstone
from fourfold.core.hosting import feedback_table, predictions_table
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Ability, Erased, Mark, TableStore
from fourfold.core.storage import MAIN, Scalar, TableAddress, TableVersion, table_address
from fourfold.core.times import after
from fourfold.foundation.storage.checks.gate import Gate
from fourfold.foundation.storage.forgetting.tables import ForgottenRecords
from fourfold.foundation.storage.inserting import Inserting
from fourfold.foundation.storage.retiring import LEAST_RETENTION_S
from fourfold.foundation.storage.tables import TableRecords
from fourfold.foundation.storage.versions import MOST_HISTORY, Versions

MOST_DEPTH = 100
MOST_SAW = 20_000
"""Things that are told to have seen the rows."""
MOST_TOMBSTONES = 10_000
SCRUBBED = ("storage_statistics", "storage_check", "storage_rejection")
"""Tables of the catalog from which rows with values were removed."""


class Forgetting:
    """Takes a person's rows out of a table, its branches, and what is kept beside it."""

    def __init__(
        self,
        catalog: Catalog,
        records: TableRecords,
        versions: Versions,
        tables: TableStore,
        gate: Gate,
        inserting: Inserting,
        clock: Clock,
    ) -> None:
        self._catalog = catalog
        self._forgotten = ForgottenRecords(catalog)
        self._records = records
        self._versions = versions
        self._tables = tables
        self._gate = gate
        self._inserting = inserting
        self._clock = clock

    def would(self, table: str, keys: Sequence[PersonKey]) -> TableForgotten:
        """What forgetting would take. Nothing is changed."""
        stored = self._stored(table, keys)
        told = self._told(table, keys, stored)
        waiting = self._inserting.buffered.live(table).rows
        mask = erasing.Wanted(stored).mask(waiting)
        return replace(told, waiting_rows=sum(mask.to_pylist()))

    def forget(self, table: str, keys: Sequence[PersonKey], why: str) -> TableForgotten:
        """Forget, whatever cites the versions; done again, it finishes what was cut off."""
        self._versions.snapshot(table)
        stored = self._stored(table, keys)
        self._inserting.settle(table)  # what waits, and what no longer fits, is where it can be found
        told = self._told(table, keys, stored)
        return self._carry_out(table, keys, stored, told, self._begun(table, keys, told, why))

    def _go_on(self, tombstone: Tombstone, keys: Sequence[PersonKey]) -> TableForgotten:
        stored = self._stored(tombstone.table, keys)
        told = self._told(tombstone.table, keys, stored)
        return self._carry_out(tombstone.table, keys, stored, told, tombstone)

    def _carry_out(
        self,
        table: str,
        keys: Sequence[PersonKey],
        stored: Sequence[PersonKey],
        told: TableForgotten,
        tombstone: Tombstone | None,
    ) -> TableForgotten:
        done = self._erase(table, stored, self._versions.mark())
        for address in self._addresses(table):
            if self._records.known(address) is not None:
                self._recount(address)
        wanted = erasing.Wanted([*keys, *stored])
        kept_rows, unread = self._gate.kept.without(table, wanted)
        figures = self._gate.statistics.forget(table)
        is_clean = self._scrubbed() if tombstone is not None or figures else True
        told = replace(
            told,
            is_dry_run=False,
            kept_rows=max(kept_rows, told.kept_rows),
            figures=max(figures, told.figures),
            unsure_files=done.unsure_files,
            notes=tuple(_notes(table, done, unread, is_clean=is_clean)),
        )
        if tombstone is not None:
            told = replace(forgetting.together(tombstone.told, told), id=tombstone.id)
            is_done = not done.unsure_files and is_clean
            self._forgotten.finish(replace(tombstone, told=told, is_done=is_done), self._clock.now())
        return told

    def again(self, table: str, *, dry_run: bool) -> tuple[TableForgotten, ...]:
        """Forget anew what tombstones that are not done tell of: of a state from before, or cut off.

        Whose rows they are is found by their digests among all keys that the table holds.
        """
        self._versions.snapshot(table)
        due = [each for each in reversed(self.all(table)) if not each.is_done]
        if not due:
            return ()
        if not dry_run:
            self._inserting.settle(table)
        found = self._known_again(table, due)
        told = []
        for tombstone in due:
            keys = [found[digest] for digest in tombstone.digests if digest in found]
            if dry_run:
                told += [self._told(table, keys, self._stored(table, keys))] if keys else []
            elif keys:
                told.append(self._go_on(tombstone, keys))
            elif self._scrubbed() and not tombstone.told.unsure_files:  # that was all that was left to do
                self._forgotten.finish(replace(tombstone, is_done=True), self._clock.now())
        return tuple(told)

    def all(self, table: str | None) -> tuple[Tombstone, ...]:
        """What was forgotten of a table (of any, if none is named), newest first."""
        return self._forgotten.all(table, limit=MOST_TOMBSTONES)

    def noted(self, address: str, versions: tuple[TableVersion, ...]) -> tuple[TableVersion, ...]:
        """Versions, each with how many rows of it were forgotten."""
        lost = forgetting.forgotten_by_version(address, self.all(table_address(address).table))
        return tuple(replace(v, rows_forgotten=lost[v.version]) if v.version in lost else v for v in versions)

    # Parts

    def _erase(self, table: str, keys: Sequence[PersonKey], mark: Mark, *, dry_run: bool = False) -> Erased:
        before = after(self._clock.now(), -LEAST_RETENTION_S)
        return self._tables.erase(table, keys=keys, before=before, mark=mark, dry_run=dry_run)

    def _told(self, table: str, keys: Sequence[PersonKey], stored: Sequence[PersonKey]) -> TableForgotten:
        """What the rows are in, and what saw them, as of now."""
        self._versions.snapshot(table)
        would = self._erase(table, stored, Mark(), dry_run=True)
        saw, is_complete = self._saw(table, would)
        kept_rows, unread = self._gate.kept.count(table, erasing.Wanted([*keys, *stored]))
        return TableForgotten(
            id="",
            name=table,
            is_dry_run=True,
            at=self._clock.now(),
            versions=forgetting.versions_of(would.rows),
            file_count=would.file_count,
            size_bytes=would.size_bytes,
            waiting_rows=0,
            kept_rows=kept_rows,
            figures=self._gate.statistics.count(table),
            saw=saw,
            unsure_files=would.unsure_files,
            is_saw_complete=is_complete,
            notes=tuple(_notes(table, would, unread, is_clean=True)),
        )

    def _begun(
        self, table: str, keys: Sequence[PersonKey], told: TableForgotten, why: str
    ) -> Tombstone | None:
        """The tombstone of this forgetting, or of one of the same keys that was cut off; kept before anything
        goes. Where there is nothing to forget there is none."""
        secret = self._forgotten.secret()
        digests = tuple(forgetting.digest_of(secret, key) for key in keys)
        for earlier in self.all(table):
            if not earlier.is_done and set(earlier.digests) == set(digests):
                return earlier
        if not told.versions and not told.kept_rows and not told.file_count:
            return None
        made = Tombstone(
            id=new_id("forgotten"),
            table=table,
            at=self._clock.now(),
            by=principal(),
            why=why,
            columns=tuple(tuple(sorted(key)) for key in keys),
            digests=digests,
            is_done=False,
            told=replace(told, is_dry_run=False),
        )
        self._forgotten.begin(made)
        return made

    def _known_again(self, table: str, due: Sequence[Tombstone]) -> dict[str, PersonKey]:
        """The keys that the table holds, in any version, whose digests these tombstones have."""
        secret = self._forgotten.secret()
        wanted = {digest for tombstone in due for digest in tombstone.digests}
        found: dict[str, PersonKey] = {}
        for columns in sorted({columns for tombstone in due for columns in tombstone.columns}):
            seen: set[tuple[object, ...]] = set()
            kept = self._gate.kept.all_rows(table)
            aside = (rows for rows in kept if set(columns) <= set(rows.column_names))
            for rows in chain(self._keys_in(table, columns), aside):
                for row in rows.group_by(list(columns)).aggregate([]).to_pylist():
                    values = tuple(row[column] for column in columns)
                    if None in values or values in seen:
                        continue
                    seen.add(values)
                    key = {column: _plain(row[column]) for column in columns}
                    digest = forgetting.digest_of(secret, key)
                    if digest in wanted:
                        found[digest] = key
        return found

    def _keys_in(self, table: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all versions that have them under these names, of each file about once."""
        for address in self._addresses(table):
            before: pa.Schema | None = None
            for version in range(self._tables.snapshot(address).version + 1):
                names = self._records.names(address, version)
                schema = self._tables.snapshot(address, version=version).schema
                stored = names.store(columns)
                is_alike, before = before is not None and before.equals(schema), schema
                if not set(stored) <= set(schema.names):
                    continue
                with suppress(NotFound):  # vacuumed
                    yield from self._rows_of(address, version, stored, columns, is_alike=is_alike)

    def _rows_of(
        self, address: str, version: int, stored: Sequence[str], shown: Sequence[str], *, is_alike: bool
    ) -> Iterator[pa.Table]:
        reader = None
        if is_alike:
            with suppress(NotFound):
                reader = self._tables.difference(address, before=version - 1, after=version).added
        if reader is None:
            reader = self._tables.scan(address, version=version, columns=tuple(stored))
        for batch in reader:
            rows = pa.Table.from_batches([batch]).select(list(stored))
            yield rows.rename_columns(list(shown))

    def _scrubbed(self) -> bool:
        """Leave nothing in the pages of databases; false when somebody keeps some of it for the moment."""
        return self._inserting.buffered.scrub() & self._catalog.scrub(SCRUBBED)

    def _saw(self, table: str, would: Erased) -> tuple[tuple[Saw, ...], bool]:
        """What lineage says was made from the versions that have the rows, and lasts."""
        starts = [Ref("table", name, str(v)) for name, of in would.rows.items() for v in of]
        reached, is_complete = self._forgotten.onward(starts, depth=MOST_DEPTH, limit=MOST_SAW)
        found = {}
        for thing, read in reached.items():
            is_itself = thing.kind == "table" and thing.name.partition("@")[0] == table
            if not is_itself and (thing.kind == "table" or thing.kind not in PASSING):
                found[thing] = read
            if thing.kind == "endpoint":
                there = self._tables.names()
                for name in (predictions_table(thing.name), feedback_table(thing.name)):
                    if name in there and name != table:
                        found.setdefault(Ref("table", name), read)
        return tuple(sorted(Saw(thing, read) for thing, read in found.items())), is_complete

    def _recount(self, address: str) -> None:
        """Have the catalog's counts of versions follow the table's own log."""
        self._versions.catch_up(address, self._versions.snapshot(address).version)
        self._records.recount(address, self._tables.history(address, limit=MOST_HISTORY))

    def _stored(self, table: str, keys: Sequence[PersonKey]) -> list[PersonKey]:
        """The keys by the names in the store. A name may have been that of several columns, one after the
        other: then rows are meant that have the value in any of them."""
        erasing.check_keys(table, keys)
        columns = {column for key in keys for column in key}
        alternatives = {column: self._records.ever_shown(table, column) | {column} for column in columns}
        if any(len(names) > 1 for names in alternatives.values()):
            there = self._ever_there(table)
            alternatives = {column: names & there or {column} for column, names in alternatives.items()}
        found: list[PersonKey] = []
        for key in keys:
            choices = [sorted(alternatives[column]) for column in key]
            found += [dict(zip(names, key.values(), strict=True)) for names in product(*choices)]
        return found

    def _ever_there(self, table: str) -> set[str]:
        """All columns, by their names in the store, of any version of the table and its branches."""
        found: set[str] = set()
        for address in self._addresses(table):
            for version in range(self._tables.snapshot(address).version + 1):
                found |= set(self._tables.snapshot(address, version=version).schema.names)
        return found

    def _addresses(self, table: str) -> Iterator[str]:
        has_branches = Ability.branch in self._tables.abilities
        for branch in (MAIN, *(self._tables.branches(table) if has_branches else ())):
            yield str(TableAddress(table, branch))


def _notes(table: str, done: Erased, unread: Sequence[str], *, is_clean: bool) -> Iterator[str]:
    if done.unsure_files:
        yield (
            f"{done.unsure_files} young files that no version names hold such rows, or are being written: "
            "forget again in an hour"
        )
    for rejection in unread:
        yield (
            f"rows that were kept aside cannot be looked through: fourfold table discard {table} {rejection}"
        )
    if not is_clean:
        yield "a database is in use, and its file may still hold removed rows: forget again"


def _plain(value: object) -> Scalar:
    """A cell's value as a person gives it in a key."""
    match value:
        case bool() | int() | str():
            return value
        case datetime() | date():
            return value.isoformat()
        case bytes():
            return value.decode("utf-8", "replace")
        case _:
            return str(value)
