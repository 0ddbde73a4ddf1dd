"""What people write: `ff.table("flights").append(data)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fourfold.core import context
from fourfold.core.context import Ref
from fourfold.core.errors import NotFound, Refused
from fourfold.core.storage import (
    MAIN,
    Branch,
    Condition,
    Exported,
    Inserted,
    TableAddress,
    TableDiff,
    TableInfo,
    TablePin,
    TableVacuum,
    TableVersion,
    branch_name,
    table_address,
    table_pin,
)
from fourfold.core.times import Instant, duration_s
from fourfold.foundation.storage import given
from fourfold.foundation.storage.columns.made import part_of, remember, writing
from fourfold.foundation.storage.expect import expected
from fourfold.foundation.storage.given import OneKey, Plain, Types, When, Where

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    import duckdb
    import pyarrow as pa

    from fourfold.core.expectations import Check, Expectation, Expected, Rejection
    from fourfold.core.forgetting import TableForgotten, Tombstone
    from fourfold.core.services.storage import Storage
    from fourfold.core.statistics import TableStatistics
    from fourfold.foundation.storage.ingest.paths import Format
    from fourfold.foundation.storage.ingest.stream import OnProgress


class Table:
    """A table by its name: reading pins a version, writing makes one.

    The handle itself touches nothing. `at`, `version` and `tagged` give handles on one version, `branch` on
    a branch, which is read and written like a table.

        flights = ff.table("flights")
        flights.append(data)
        flights.read(columns=["origin", "delay"], where=[("day", ">=", date(2013, 2, 1))])
        flights.tagged("report-2013").duckdb().filter("delay > 30")
        polars.DataFrame(flights)  # whatever speaks Arrow takes a table
    """

    def __init__(
        self,
        name: str,
        *,
        version: int | None = None,
        at: Instant | None = None,
        tag: str | None = None,
        storage: Storage | None = None,
    ) -> None:
        self._address = table_address(name)
        self.name = str(self._address)
        self._pin: dict[str, Any] = {"version": version, "at": at, "tag": tag}
        self._given = storage

    def __repr__(self) -> str:
        pinned = "".join(f" {key}={value!r}" for key, value in self._pin.items() if value is not None)
        return f"<Table {self.name}{pinned}>"

    @property
    def ref(self) -> Ref:
        """The table as lineage and datasets know it, at the version that the handle pins, if it does."""
        if self._pin["at"] is not None or self._pin["tag"] is not None:
            return Ref("table", self.name, str(self.describe().version))
        pinned = self._pin["version"]
        return Ref("table", self.name, "" if pinned is None else str(pinned))

    # Writing

    def append(self, data: object, *, partition_by: Sequence[str] = ()) -> TableVersion:
        """Add rows: an Arrow table, record batches, a data frame, or anything that speaks Arrow.

        The first write creates the table. A stream is written as it comes, and is one version all the same:

            flights.append(pyarrow.csv.open_csv("flights.csv"))
            flights.append(duckdb.sql("select * from 'flights/*.parquet'"))
        """
        self._check_not_pinned("append to")
        data = _as_read(data)
        with writing(data):
            return self._storage.append(self.name, given.arrow(data), partition_by=tuple(partition_by))

    def insert(self, data: object) -> Inserted:
        """Add rows that come a few at a time: kept durably and seen by readers at once, in a version later.

        flights.insert({"flight": 1545, "delay": 11})
        flights.insert([{"flight": 1545, "delay": 11}, {"flight": 1714, "delay": 20}])

        Takes what `append` takes, too. Costs one transaction, where an append costs a file and a log entry.
        """
        self._check_not_pinned("insert into")
        return self._storage.insert(self.name, given.few(data))

    def flush(self) -> TableVersion:
        """Bring what was inserted into a version now, rather than within a minute."""
        self._check_not_pinned("flush")
        return self._storage.flush(self.name)

    def append_file(
        self,
        paths: Path | str | Sequence[Path | str],
        *,
        partition_by: Sequence[str] = (),
        format: Format | None = None,  # noqa: A002 - it is the word
        types: Types | None = None,
        encoding: str = "utf-8",
        on_progress: OnProgress | None = None,
    ) -> TableVersion:
        """Add the rows of files: Parquet, CSV, JSON lines, also with .gz. All of them become one version.

        They are read bit by bit, whatever their size. What is wrong in one is said with its file, row and
        column, and then nothing is added. Of a new table the first file's columns decide.

            flights.append_file("flights-2013-*.csv", types={"delay": "double"})
        """
        self._check_not_pinned("append to")
        data = self._read_files(paths, format, types, encoding, on_progress)
        return self._storage.append(self.name, data, partition_by=tuple(partition_by))

    def upsert_file(
        self,
        paths: Path | str | Sequence[Path | str],
        *,
        key: str | Sequence[str],
        format: Format | None = None,  # noqa: A002 - it is the word
        types: Types | None = None,
        encoding: str = "utf-8",
        on_progress: OnProgress | None = None,
    ) -> TableVersion:
        """As `upsert`, with the rows of files: `planes.upsert_file("changed.jsonl.gz", key="tail")`."""
        self._check_not_pinned("upsert into")
        data = self._read_files(paths, format, types, encoding, on_progress)
        return self._storage.upsert(self.name, data, key=given.key(key))

    def _read_files(
        self,
        paths: Path | str | Sequence[Path | str],
        format: Format | None,  # noqa: A002 - it is the word
        types: Types | None,
        encoding: str,
        on_progress: OnProgress | None,
    ) -> pa.RecordBatchReader:
        from fourfold.core.decide.types import type_named
        from fourfold.foundation.storage.ingest.stream import read_files

        schema = None
        with suppress(NotFound):  # a new table
            schema = given.schema_of(self._storage, self._storage.describe(self.name))
        known = {column: type_named(kind) for column, kind in given.types(types).items()}
        return read_files(
            self.name, paths, schema, format=format, types=known, encoding=encoding, on_progress=on_progress
        )

    def overwrite(
        self, data: object, *, where: Mapping[str, Plain] | None = None, partition_by: Sequence[str] = ()
    ) -> TableVersion:
        """Replace all rows, or those of one partition: `where={"day": date(2013, 1, 1)}`."""
        self._check_not_pinned("overwrite")
        part = None if where is None else {column: given.plain(value) for column, value in where.items()}
        data = _as_read(data)
        with writing(data):
            return self._storage.overwrite(
                self.name, given.arrow(data), where=part, partition_by=tuple(partition_by)
            )

    def upsert(self, data: object, *, key: str | Sequence[str]) -> TableVersion:
        """Put each row in the place of the one with its key, or add it where there is none.

        planes.upsert(changed, key="tail_number")
        """
        self._check_not_pinned("upsert into")
        data = _as_read(data)
        with writing(data):
            return self._storage.upsert(self.name, given.arrow(data), key=given.key(key))

    def delete(self, *, where: Where) -> TableVersion:
        """Remove the rows for which all conditions hold. Older versions keep them.

        flights.delete(where=[("day", "<", date(2013, 2, 1)), ("carrier", "==", None)])
        """
        self._check_not_pinned("delete from")
        return self._storage.delete(self.name, where=given.conditions(where))

    def evolve(
        self, *, add: Types | None = None, widen: Types | None = None, rename: Mapping[str, str] | None = None
    ) -> TableVersion:
        """Change columns: add new ones (null in the rows that are there), widen numbers, give new names.

        A new name counts from this version on; older versions keep the names that they had. No row is
        written again, and what would lose data is refused.

            flights.evolve(add={"gate": "string"}, widen={"delay": pa.float64()}, rename={"dly": "delay"})
        """
        self._check_not_pinned("evolve")
        return self._storage.evolve(
            self.name, add=given.types(add), widen=given.types(widen), rename=dict(rename or {})
        )

    def restore(self) -> TableVersion:
        """Make this version the newest again, as a new one: `flights.version(3).restore()`."""
        return self._storage.restore(self.name, **self._pin)

    def compact(self, *, cluster_by: str | Sequence[str] = ()) -> TableVersion | None:
        """Write small files together; `None` when there is nothing to gain.

        `cluster_by` lays rows so that a condition on any of these columns skips files.

            flights.compact(cluster_by=["day", "origin"])
        """
        self._check_not_pinned("compact")
        return self._storage.compact(self.name, cluster_by=given.key(cluster_by))

    def tag(self, tag: str, *, why: str = "") -> TableVersion:
        """Give this version (the newest, if the handle pins none) a name of its own."""
        pinned = self._pin["version"]
        if self._pin["at"] is not None or self._pin["tag"] is not None:
            raise Refused(f"{self!r} cannot be tagged", ways_on=["name the version by number: .version(3)"])
        return self._storage.tag(self.name, tag, version=pinned, why=why)

    def export(self, to: str) -> Exported:
        """Write this version (the newest, if the handle pins none) to a place that the settings name.

        ff.table("flights").export("lake")  # [exports] lake = "iceberg+https://…"
        """
        return self._storage.export(self.name, to, **self._pin)

    # Reading

    def version(self, number: int) -> Table:
        """The table as it was at a version."""
        return Table(self.name, version=number, storage=self._given)

    def at(self, when: When) -> Table:
        """The table as it was at a time."""
        return Table(self.name, at=given.moment_of(when), storage=self._given)

    def tagged(self, tag: str) -> Table:
        """The version that carries a tag."""
        return Table(self.name, tag=tag, storage=self._given)

    def read(self, *, columns: Sequence[str] | None = None, where: Where = ()) -> pa.Table:
        """The rows, or those for which all conditions hold: `where=[("delay", ">", 30)]`.

        What was read of a version (by number, tag or time, or in a step) and is written as it is, is known
        to come from it.
        """
        wanted, conditions = given.columns(columns), given.conditions(where)
        version, pin = self._to_read()
        rows = self._storage.read(self.name, **pin, columns=wanted, where=conditions)
        self._remember(rows, version, conditions)
        return rows

    def scan(self, *, columns: Sequence[str] | None = None, where: Where = ()) -> pa.RecordBatchReader:
        """As `read`, as a stream of batches: for tables larger than memory."""
        wanted, conditions = given.columns(columns), given.conditions(where)
        version, pin = self._to_read()
        rows = self._storage.scan(self.name, **pin, columns=wanted, where=conditions)
        self._remember(rows, version, conditions)
        return rows

    def _to_read(self) -> tuple[int | None, dict[str, Any]]:
        """The version whose rows are meant, and how to ask for it; no version of a live table that is read
        in no step: its rows may be in none yet."""
        pins = {name for name, pin in self._pin.items() if pin is not None}
        if pins == {"version"}:
            return int(self._pin["version"]), self._pin
        if not pins and context.ambient() is None:
            return None, self._pin
        from fourfold.foundation.storage.query import pinned

        version = pinned(self._storage, TablePin(self.name, **self._pin)).version
        return version, {"version": version}

    def _remember(
        self, rows: pa.Table | pa.RecordBatchReader, version: int | None, where: Sequence[Condition]
    ) -> None:
        """Keep which version these rows are of, for who writes them as they are."""
        if version is not None:
            ref = Ref("table", self.name, str(version))
            remember(rows, part_of(ref, rows.schema.names, filters=[column for column, _, _ in where]))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows as a stream for whatever speaks Arrow: `polars.DataFrame(flights)`."""
        return self.scan().__arrow_c_stream__(requested_schema)

    def duckdb(
        self,
        *,
        columns: Sequence[str] | None = None,
        where: Where = (),
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """The rows as a DuckDB relation, which reads only the columns and files that it needs; in SQL the
        table is called `"flights@3"`.

        What is written from it, or from a relation made of it, is known to come from these columns:

            late = ff.table("flights").duckdb().filter("delay > 30").aggregate("origin, count(*) as n")
            ff.table("late").overwrite(late)
        """
        from fourfold.foundation.storage.query import part

        return part(
            self._storage,
            TablePin(self.name, **self._pin),
            columns=given.columns(columns),
            where=given.conditions(where),
            connection=connection,
        )

    def history(self, *, limit: int = 1000) -> tuple[TableVersion, ...]:
        """The versions, newest first."""
        return self._storage.history(self.name, limit=limit)

    def describe(self) -> TableInfo:
        """Columns, rows, size, partitions and tags."""
        return self._storage.describe(self.name, **self._pin)

    def diff(
        self, before: int, after: int | None = None, *, key: str | Sequence[str] = (), limit: int = 20
    ) -> TableDiff:
        """What differs between two versions (from `before` to the newest, if only one is named): counts of
        the rows added, removed and changed, and at most `limit` of each.

        With a key, a row that has it in both is changed; without, it is one removed and one added.

            planes.diff(3, key="tail_number").changed_rows
        """
        return self._storage.diff(self.name, before=before, after=after, key=given.key(key), limit=limit)

    def changes(
        self, before: int, after: int | None = None, *, key: str | Sequence[str] = ()
    ) -> pa.RecordBatchReader:
        """As `diff`, all rows as a stream; its first column, `change`, says what happened to each."""
        return self._storage.changes(self.name, before=before, after=after, key=given.key(key))

    # Branches

    def branch(self, name: str) -> Table:
        """A branch of the table, which need not be there yet; the same as `ff.table("flights@dev/try-1")`.

        trial = ff.table("flights").branch("dev/try-1")
        trial.begin()
        trial.append(data)
        trial.publish(why="checked")
        trial.drop()
        """
        if self._address.branch != MAIN:
            raise Refused(f"{self!r} is a branch, and has none", ways_on=[f"table({self._address.table!r})"])
        self._check_not_pinned("branch from")
        return Table(str(TableAddress(self.name, branch_name(name))), storage=self._given)

    def branches(self) -> tuple[Branch, ...]:
        """The table's branches, sorted by name."""
        return self._storage.branches(self.name)

    def begin(self, *, version: int | None = None, why: str = "") -> TableVersion:
        """Begin this branch at a version of its table (the newest, if none is given); no row is copied."""
        return self._storage.fork(*self._branch("begin"), version=version, why=why)

    def publish(self, *, why: str = "") -> TableVersion:
        """Bring what was done on this branch into its table, as one version; the branch stays."""
        return self._storage.publish(*self._branch("publish"), why=why)

    # Removing

    def vacuum(self, *, older_than: float | str | timedelta = "7d", dry_run: bool = False) -> TableVacuum:
        """Remove the files of versions that were replaced longer ago than this, and that nothing cites.

        flights.vacuum(older_than="30d", dry_run=True).versions
        """
        self._check_not_pinned("vacuum")
        return self._storage.vacuum(self.name, older_than_s=duration_s(older_than), dry_run=dry_run)

    def forget(
        self,
        keys: OneKey | Sequence[OneKey],
        *,
        why: str = "",
        dry_run: bool = False,
    ) -> TableForgotten:
        """Take a person's rows out of every version and branch, whatever cites them, and say what saw them.

        A row is meant when it has all values of a key; a column with several values means any of them.

            ff.table("visits").forget({"person": "p-17"}, dry_run=True).saw
            ff.table("visits").forget({"country": "DE", "id": [7, 9]}, why="request 2013-44")
        """
        self._check_not_pinned("forget rows of")
        return self._storage.forget(self.name, keys=given.person_keys(keys), why=why, dry_run=dry_run)

    def forget_again(self, *, dry_run: bool = False) -> tuple[TableForgotten, ...]:
        """Forget anew what was forgotten after an older backup that was brought back, or was cut off."""
        self._check_not_pinned("forget rows of")
        return self._storage.forget_again(self.name, dry_run=dry_run)

    def forgotten(self) -> tuple[Tombstone, ...]:
        """That rows were forgotten: when, by whom, what had seen them; never whose. Newest first."""
        return self._storage.forgotten(self.name)

    def drop(self, *, why: str = "") -> None:
        """Remove the table with all its versions and branches, or this branch. The name is retired."""
        self._check_not_pinned("drop")
        if self._address.branch == MAIN:
            self._storage.drop(self.name, why=why)
        else:
            self._storage.drop_branch(*self._branch("drop"), why=why)

    # What the table holds, and what is expected of it

    def stats(self) -> TableStatistics:
        """Each column's nulls, ends, distinct values, quantiles and histogram."""
        return context.services().datasets.statistics(self.name, **self._pin)

    def expect(
        self,
        *expectations: Expectation,
        on_failure: str = "refuse",
        statistics: bool = True,
        why: str = "",
    ) -> None:
        """Expect this of all rows that come from now on, in place of what was expected.

        What is not as expected is refused before anything of it is seen; with `on_failure="quarantine"` the
        rows that are wrong are set aside and the others written.

            ff.table("flights").expect(ff.expect.not_null("id"), ff.expect.between("delay", -120, 2000))
        """
        self._check_not_pinned("expect anything of")
        context.services().datasets.expect(
            self.name, expected(*expectations, on_failure=on_failure, statistics=statistics), why=why
        )

    def expectations(self) -> Expected:
        """What is expected of the table."""
        return context.services().datasets.expectations(self.name)

    def check(self) -> Check:
        """All rows held against what is expected."""
        return context.services().datasets.check(self.name, version=self._pin["version"])

    def rejections(self, *, limit: int = 20) -> tuple[Rejection, ...]:
        """Writes of which some rows were not as expected, newest first."""
        return context.services().datasets.rejections(self.name, limit=limit)

    def rejected(self, rejection: str) -> pa.Table:
        """The rows that a rejection kept aside, each with what it does not meet in front."""
        return context.services().datasets.rejected_rows(self.name, rejection)

    @property
    def _storage(self) -> Storage:
        return self._given if self._given is not None else context.services().storage

    def _branch(self, what: str) -> tuple[str, str]:
        self._check_not_pinned(what)
        if self._address.branch == MAIN:
            raise Refused(
                f"cannot {what} {self!r}: it is no branch",
                ways_on=[f"table({self.name!r}).branch('dev/try-1')"],
            )
        return self._address.table, self._address.branch

    def _check_not_pinned(self, what: str) -> None:
        if any(value is not None for value in self._pin.values()):
            raise Refused(
                f"cannot {what} an older version: {self!r}", ways_on=[f"use table({self.name!r}) itself"]
            )


def _as_read(data: object) -> object:
    """A table that is handed in, as a stream of its rows."""
    return data.scan() if isinstance(data, Table) else data


def table(name: str) -> Table:
    """The table of this name in the present project, which need not exist yet.

    A branch or a version may be named too: `flights@dev/try-1`, `flights@v3`, `flights@tag:report`.
    """
    pin = table_pin(name)
    return Table(pin.address, version=pin.version, at=pin.at, tag=pin.tag)


def query(sql: str, *, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyRelation:
    """Ask tables in SQL: a DuckDB relation, which reads only the columns and files that it needs.

    A version is named in quotes: `"flights@v3"`, `"flights@tag:report"`, `"flights@2013-06-01T00:00Z"`,
    `"flights@dev/try-1"`, `"flights@dev/try-1@v2"`. What a step asks is recorded as what it read. What is
    written from the relation, or from one made of it, is known to come from these columns. With a connection
    of your own, its tables may be asked too, and nothing is said of columns.

        ff.query('''
            select carrier, avg(now.delay) - avg(old.delay)
            from flights now join "flights@tag:report" old using (carrier) group by carrier
        ''').to_arrow_table()
    """
    from fourfold.foundation.storage.query import Query

    asked = Query(context.services().storage, connection)
    relation = asked.ask(sql)
    return relation if connection is not None else asked.followed(relation)
