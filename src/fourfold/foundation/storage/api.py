"""What people write: `ff.table("flights").append(data)`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from fourfold.core import context
from fourfold.core.errors import Refused
from fourfold.core.storage import Condition, Scalar, TableInfo, TableVersion, table_name
from fourfold.core.times import Instant, instant, parse_instant

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from fourfold.core.services.storage import Storage
    from fourfold.core.statistics import TableStatistics

Plain = Scalar | date | datetime
"""What a person may compare a column with."""

When = Instant | str | datetime
"""A point in time: an instant, a `datetime` with a zone, or ISO 8601 text with one."""


class Table:
    """A table by its name: reading pins a version, writing makes one.

    The handle itself touches nothing. `at`, `version` and `tagged` give handles on one version.

        flights = ff.table("flights")
        flights.append(data)
        flights.read(columns=["origin", "delay"], where=[("day", ">=", date(2013, 2, 1))])
        flights.tagged("report-2013").duckdb().filter("delay > 30")
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
        self.name = table_name(name)
        self._pin: dict[str, Any] = {"version": version, "at": at, "tag": tag}
        self._given = storage

    def __repr__(self) -> str:
        pinned = "".join(f" {key}={value!r}" for key, value in self._pin.items() if value is not None)
        return f"<Table {self.name}{pinned}>"

    # Writing

    def append(self, data: object, *, partition_by: Sequence[str] = ()) -> TableVersion:
        """Add rows: an Arrow table, a data frame, or anything that speaks Arrow.

        The first write creates the table.
        """
        self._check_not_pinned("append to")
        return self._storage.append(self.name, _arrow(data), partition_by=tuple(partition_by))

    def overwrite(
        self,
        data: object,
        *,
        where: Mapping[str, Plain] | None = None,
        partition_by: Sequence[str] = (),
    ) -> TableVersion:
        """Replace all rows, or those of one partition: `where={"day": date(2013, 1, 1)}`."""
        self._check_not_pinned("overwrite")
        partition = None if where is None else {column: _plain(value) for column, value in where.items()}
        return self._storage.overwrite(
            self.name, _arrow(data), where=partition, partition_by=tuple(partition_by)
        )

    def tag(self, tag: str, *, why: str = "") -> TableVersion:
        """Give this version (the newest, if the handle pins none) a name of its own."""
        pinned = self._pin["version"]
        if self._pin["at"] is not None or self._pin["tag"] is not None:
            raise Refused(f"{self!r} cannot be tagged", ways_on=["name the version by number: .version(3)"])
        return self._storage.tag(self.name, tag, version=pinned, why=why)

    # Reading

    def version(self, number: int) -> Table:
        """The table as it was at a version."""
        return Table(self.name, version=number, storage=self._given)

    def at(self, when: When) -> Table:
        """The table as it was at a time."""
        return Table(self.name, at=_instant(when), storage=self._given)

    def tagged(self, tag: str) -> Table:
        """The version that carries a tag."""
        return Table(self.name, tag=tag, storage=self._given)

    def read(
        self,
        *,
        columns: Sequence[str] | None = None,
        where: Iterable[tuple[str, str, Plain | Sequence[Plain]]] = (),
    ) -> pa.Table:
        """The rows, or those for which all conditions hold: `where=[("delay", ">", 30)]`."""
        return self._storage.read(self.name, **self._pin, columns=_names(columns), where=_conditions(where))

    def scan(
        self,
        *,
        columns: Sequence[str] | None = None,
        where: Iterable[tuple[str, str, Plain | Sequence[Plain]]] = (),
    ) -> pa.RecordBatchReader:
        """As `read`, as a stream of batches."""
        return self._storage.scan(self.name, **self._pin, columns=_names(columns), where=_conditions(where))

    def duckdb(
        self,
        *,
        columns: Sequence[str] | None = None,
        where: Iterable[tuple[str, str, Plain | Sequence[Plain]]] = (),
        connection: duckdb.DuckDBPyConnection | None = None,
    ) -> duckdb.DuckDBPyRelation:
        """The rows as a DuckDB relation, without a copy."""
        import duckdb

        rows = self.read(columns=columns, where=where)
        return (connection or duckdb.connect()).from_arrow(rows)

    def history(self, *, limit: int = 1000) -> tuple[TableVersion, ...]:
        """The versions, newest first."""
        return self._storage.history(self.name, limit=limit)

    def describe(self) -> TableInfo:
        """Columns, rows, size, partitions and tags."""
        return self._storage.describe(self.name, version=self._pin["version"])

    def stats(self) -> TableStatistics:
        """Each column's nulls, ends, distinct values, quantiles and histogram."""
        pinned = self._pin["version"]
        if self._pin["tag"] is not None:
            pinned = self._storage.describe(self.name).tags.get(self._pin["tag"])
        if pinned is None and (self._pin["at"] is not None or self._pin["tag"] is not None):
            raise Refused(f"{self!r} names no version", ways_on=["name it by number: .version(3)"])
        return context.services().datasets.statistics(self.name, version=pinned)

    @property
    def _storage(self) -> Storage:
        return self._given if self._given is not None else context.services().storage

    def _check_not_pinned(self, what: str) -> None:
        if any(value is not None for value in self._pin.values()):
            raise Refused(
                f"cannot {what} an older version: {self!r}", ways_on=[f"use table({self.name!r}) itself"]
            )


def table(name: str) -> Table:
    """The table of this name in the present project; it need not exist yet."""
    return Table(name)


def _arrow(data: object) -> pa.Table:
    """Anything that speaks Arrow, as an Arrow table."""
    import pyarrow as pa

    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, pa.RecordBatchReader):
        return data.read_all()
    if type(data).__module__.partition(".")[0] == "pandas":
        return pa.Table.from_pandas(data, preserve_index=False)
    if hasattr(data, "__arrow_c_stream__"):
        return pa.table(data)
    if hasattr(data, "to_arrow_table"):
        return data.to_arrow_table()  # a DuckDB relation
    raise Refused(
        f"a {type(data).__name__} is not a table",
        ways_on=["give an Arrow table, a pandas or Polars frame, or a DuckDB relation"],
    )


def _instant(when: When) -> Instant:
    if isinstance(when, str):
        return parse_instant(when)
    return instant(when) if isinstance(when, datetime) else when


def _names(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(columns, str):
        raise Refused(f"columns is the text {columns!r}", ways_on=[f"write columns=[{columns!r}]"])
    return None if columns is None else tuple(columns)


def _conditions(where: Iterable[tuple[str, str, Plain | Sequence[Plain]]]) -> tuple[Condition, ...]:
    conditions: list[Condition] = []
    for condition in where:
        if len(condition) != 3:
            raise Refused(f"{condition!r} is not a condition", ways_on=['write ("column", ">", value)'])
        column, operator, value = condition
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        plain = tuple(_plain(item) for item in value) if is_list else _plain(value)  # type: ignore[union-attr, arg-type]
        conditions.append((column, operator, plain))
    return tuple(conditions)


def _plain(value: Plain) -> Scalar:
    """Dates and times as the text in which they travel."""
    return value.isoformat() if isinstance(value, date) else value
