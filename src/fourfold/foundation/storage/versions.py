"""Which version of a table is meant, and what the catalog is told of a new one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from fourfold.core import context
from fourfold.core.catalog import principal
from fourfold.core.context import Ref
from fourfold.core.errors import NotFound, OutOfSpace, Refused, Unavailable, did_you_mean
from fourfold.core.ports.clock import Clock
from fourfold.core.ports.tables import Ability, Commit, Mark, Snapshot, TableStore
from fourfold.core.storage import MAIN, TableAddress, TableVersion, table_address
from fourfold.core.times import Instant, iso
from fourfold.foundation.storage.columns.made import being_written, made_by, query_of
from fourfold.foundation.storage.tables import TableRecords

MOST_HISTORY = 100_000
NOTHING: Mapping[str, object] = {}


class Versions:
    """The versions of each table: in the store, whose log is the truth, and in the catalog beside it."""

    def __init__(self, records: TableRecords, tables: TableStore, clock: Clock) -> None:
        self._records = records
        self._tables = tables
        self._clock = clock

    def mark(self) -> Mark:
        """What the next write leaves in the log: who, when, in which step, under which key."""
        ambient = context.ambient()
        return Mark(
            key=context.write_key() or "",
            at=self._clock.now(),
            by=principal(),
            step=str(ambient.executing.ref) if ambient is not None else "",
        )

    def record(self, name: str, commit: Commit, facts: Mapping[str, object] = NOTHING) -> TableVersion:
        """Fill the catalog in up to this commit, and report the write."""
        with suppress(OutOfSpace, Unavailable):  # the write is done; the next look fills its row in
            known = self._records.known(name)
            newest = known.newest if known is not None else -1
            if commit.version > newest + 1:
                self._fill_in(name, newest)
            elif commit.version == newest + 1:
                self._records.add(name, [commit], facts={commit.version: facts})
        version = _version(name, commit)
        context.record_write(version.ref)
        self._note_query(version)
        return version

    def _note_query(self, version: TableVersion) -> None:
        """Keep which query made a version, where what was written is the result of one."""
        data = being_written()
        if data is None or (query := query_of(data, self._columns)) is None:
            return
        here = context.ambient()
        made = made_by(query, version.ref, here.executing.ref if here is not None else None)
        with suppress(OutOfSpace, Unavailable):  # the version stands; where it came from stays unsaid
            self._records.put_query(version.at, made)

    def _columns(self, name: str, version: int) -> tuple[str, ...]:
        names = self._records.names(name, version)
        return tuple(names.show(self.snapshot(name, version).schema).names)

    def resolve(self, name: str, *, version: int | None, at: Instant | None, tag: str | None) -> int:
        """The version number that is meant.

        A time means the highest version whose own time is not later. So the answer never goes back as the
        time goes on, also where the clock that stamped the versions did.
        """
        if sum(choice is not None for choice in (version, at, tag)) > 1:
            raise Refused("name a version by number, by time or by tag: one of them", table=name)
        newest = self.snapshot(name).version
        if tag is not None:
            tags = self._records.tags(name)
            if tag not in tags:
                raise NotFound(
                    f"table '{name}' has no tag '{tag}'",
                    ways_on=did_you_mean(tag, tags, what="tags"),
                    table=name,
                    tag=tag,
                )
            return tags[tag]
        if at is not None:
            return self._at(name, newest, at)
        return newest if version is None else version

    def _at(self, name: str, newest: int, at: Instant) -> int:
        self.catch_up(name, newest)
        found = self._records.version_at(name, at)
        if found is None:
            first = self._records.oldest(name)
            raise NotFound(
                f"table '{name}' did not exist at {iso(at)}",
                ways_on=[f"its first version is of {iso(first.at)}"] if first is not None else [],
                table=name,
            )
        return found.version

    def snapshot(self, name: str, version: int | None = None) -> Snapshot:
        """The newest version, or the one numbered; what is not there is said with what there is."""
        try:
            return self._tables.snapshot(name, version=version)
        except NotFound as error:
            if version is not None:
                raise
            raise self.absent(name) from error

    def absent(self, name: str) -> NotFound:
        """Why a table or branch is not there."""
        address = table_address(name)
        known = self._records.known(name)
        what = f"table '{name}'" if address.branch == MAIN else f"branch '{name}'"
        if known is not None and known.dropped_at is not None:
            return NotFound(f"{what} was dropped at {iso(known.dropped_at)}", table=name)
        tables = self._tables.names()
        if address.branch != MAIN and address.table in tables:
            branches = self._tables.branches(address.table)
            ways_on = did_you_mean(address.branch, branches, what="branches")
            if address.branch.isdecimal():
                ways_on = (f"say v for a version: {address.table}@v{address.branch}", *ways_on)
            return NotFound(
                f"table '{address.table}' has no branch '{address.branch}'",
                ways_on=ways_on,
                table=name,
            )
        return NotFound(
            f"table '{address.table}' does not exist",
            ways_on=did_you_mean(address.table, tables, what="tables"),
            table=name,
        )

    def check_open(self, name: str) -> None:
        """Refuse a name that was retired."""
        known = self._records.known(name)
        if known is not None and known.dropped_at is not None:
            what = "table" if table_address(name).branch == MAIN else "branch"
            raise Refused(
                f"{what} '{name}' was dropped at {iso(known.dropped_at)}, and its name is retired",
                ways_on=["use another name: older runs and models cite this one"],
                table=name,
            )

    def catch_up_all(self) -> None:
        """Fill the catalog in with every version that the tables' own logs know."""
        has_branches = Ability.branch in self._tables.abilities
        for name in self._tables.names():
            with suppress(NotFound):  # dropped just now
                for branch in (MAIN, *(self._tables.branches(name) if has_branches else ())):
                    address = str(TableAddress(name, branch))
                    self.catch_up(address, self._tables.snapshot(address).version)

    def catch_up(self, name: str, newest: int) -> None:
        """Fill in what the catalog missed."""
        known = self._records.known(name)
        if known is None or known.newest < newest:
            self._fill_in(name, -1 if known is None else known.newest)

    def _fill_in(self, name: str, newest: int) -> None:
        self._records.add(name, self._tables.history(name, after=newest, limit=MOST_HISTORY))

    def readable(self, name: str, version: int) -> TableVersion:
        """The record of a version whose rows can be read, or why they cannot."""
        self._tables.difference(name, before=version, after=version)  # reads nothing, and needs the files
        self.catch_up(name, self.snapshot(name).version)
        found = self._records.version(name, version)
        if found is None:  # another program cleaned the log below it
            raise NotFound(f"table '{name}' has no record of version {version}", table=name, version=version)
        return found

    def connect(self, source: Ref, made: TableVersion) -> None:
        """Note in lineage that a version is another one anew."""
        context.record_read(source)
        with suppress(OutOfSpace, Unavailable):
            self._records.connect(made.at, source, made.ref)

    def made_by(self, name: str, key: str) -> int | None:
        """The version that a write key made, if it made one."""
        if not key:
            return None
        with suppress(NotFound):
            self.catch_up(name, self.snapshot(name).version)
        return self._records.made_by(name, key)


def _version(name: str, commit: Commit) -> TableVersion:
    return TableVersion(
        name=name,
        version=commit.version,
        at=commit.at,
        rows=commit.rows,
        rows_added=commit.rows_added,
        operation=commit.operation,
        by=commit.by,
        step=commit.step,
        rows_removed=commit.rows_removed,
    )
