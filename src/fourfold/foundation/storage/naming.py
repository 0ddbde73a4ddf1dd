"""A table's columns as people name them now: in what is read, written, asked and changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from fourfold.core.decide import evolving, schemas
from fourfold.core.decide.renaming import Names, changes
from fourfold.core.decide.types import type_named
from fourfold.core.errors import Refused
from fourfold.core.ports.tables import Commit, Difference, Evolution, Mark, Rows, TableStore
from fourfold.core.storage import Condition
from fourfold.core.times import Instant
from fourfold.foundation.storage.tables import NEWEST, TableRecords
from fourfold.foundation.storage.versions import Versions


class Naming:
    """Between the names that a version shows and those in the store; see `core.decide.renaming`."""

    def __init__(self, records: TableRecords, versions: Versions, tables: TableStore) -> None:
        self._records = records
        self._versions = versions
        self._tables = tables

    def newest(self, name: str) -> Names:
        """The names of now."""
        return self._records.names(name, NEWEST)

    def schema(self, name: str, version: int | None) -> pa.Schema:
        """A version's columns under the names that it shows."""
        snapshot = self._versions.snapshot(name, version)
        return self._records.names(name, snapshot.version).show(snapshot.schema)

    def check(self, name: str, names: Names, wanted: Sequence[str]) -> None:
        """Refuse columns that the table does not show now."""
        schemas.check_columns(name, wanted, names.show(self._versions.snapshot(name).schema))

    def fitted(self, name: str, names: Names, data: Rows) -> Rows:
        """The data under the names in the store; refused, in the names that are shown, if it does not fit."""
        if not names:
            return data
        schemas.fitting(name, data.schema, names.show(self._versions.snapshot(name).schema))
        return names.rename(data, to_stored=True)

    def anew(self, name: str, names: Names, data: Rows, at: Instant) -> tuple[Names, Rows]:
        """As `fitted`, for data that brings its own columns. A name under which another column is stored
        gets one of its own there; it is noted before the data is written, and says nothing till then."""
        if not names:
            return names, data
        after = names.with_new(data.schema.names, ())
        if new := changes(names, after):
            self._records.show(at, name, self._versions.snapshot(name).version + 1, new)
        return after, after.rename(data, to_stored=True)

    def scan(
        self, name: str, version: int, columns: tuple[str, ...] | None, where: tuple[Condition, ...]
    ) -> pa.RecordBatchReader:
        """The rows of a version under the names that it shows."""
        return self.scan_under(self._records.names(name, version), name, version, columns, where)

    def scan_under(
        self,
        names: Names,
        name: str,
        version: int,
        columns: tuple[str, ...] | None,
        where: tuple[Condition, ...],
    ) -> pa.RecordBatchReader:
        """As `scan`, under names that are known already."""
        if names:
            asked = [*(columns or ()), *(column for column, _, _ in where)]
            schemas.check_columns(
                name, asked, names.show(self._tables.snapshot(name, version=version).schema)
            )
        with names.explained():
            reader = self._tables.scan(
                name,
                version=version,
                columns=None if columns is None else names.store(columns),
                where=names.conditions(where),
            )
        return names.rename(reader, to_stored=False) if names else reader

    def difference(self, name: str, before: int, after: int) -> Difference:
        """What two versions do not share, under the names of the later one."""
        found = self._tables.difference(name, before=before, after=after)
        names = self._records.names(name, after)
        if not names:
            return found
        return Difference(
            removed=names.rename(found.removed, to_stored=False),
            added=names.rename(found.added, to_stored=False),
        )

    def evolve(
        self,
        name: str,
        add: Mapping[str, str],
        widen: Mapping[str, str],
        rename: Mapping[str, str],
        mark: Mark,
    ) -> Commit:
        """Change columns: in the store what is of the store, then the names from that version on."""
        if not add and not widen and not rename:
            raise Refused(
                f"table '{name}': no change of columns is asked for",
                ways_on=["add, widen or rename"],
                table=name,
            )
        done = self._versions.made_by(name, mark.key)  # by an attempt before this one
        base = self._versions.snapshot(name, None if done is None else done - 1)
        names = self._records.names(name, base.version)
        wider = {column: type_named(kind) for column, kind in widen.items()}
        wide = evolving.evolved(name, names.show(base.schema), Evolution(widen=wider))
        after = names.renamed(name, base.schema, rename)
        shown = pa.schema([field.with_name(rename.get(field.name, field.name)) for field in wide])
        fields = tuple(pa.field(column, type_named(kind)) for column, kind in add.items())
        evolving.evolved(name, shown, Evolution(add=fields))
        after = after.with_new(list(add), base.schema.names)
        wider = {names.stored(column): kind for column, kind in wider.items()}
        new = tuple(field.with_name(after.stored(field.name)) for field in fields)
        with names.explained():
            commit = self._tables.evolve(name, Evolution(add=new, widen=wider), mark=mark)
        columns = [*base.schema.names, *(field.name for field in new)]
        self._show(name, commit, changes(names, after), columns)
        return commit

    def follow(self, name: str, commit: Commit, names: Names) -> None:
        """Show a new version under names that came from elsewhere."""
        self._show(name, commit, changes(self._records.names(name, commit.version - 1), names), ())

    def _show(self, name: str, commit: Commit, shown: Mapping[str, str], columns: Iterable[str]) -> None:
        if shown:
            self._records.show(commit.at, name, commit.version, shown, tuple(columns))
