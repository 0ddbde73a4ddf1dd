"""SQL over tables at any versions: DuckDB asks for what it needs, column by column, file by file.

`Query` is a query over names; `part` is one version of a table as a relation. What is made of either is
known to come from those versions (`columns/made.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from fourfold.core import context
from fourfold.core.catalog import acting_as, principal
from fourfold.core.context import Ref
from fourfold.core.decide import schemas
from fourfold.core.decide.pushdown import conditions_in, fields_in
from fourfold.core.errors import FourfoldError, NotFound, OutOfSpace, Refused
from fourfold.core.services.storage import Storage
from fourfold.core.storage import Condition, TableInfo, TablePin, table_pin
from fourfold.foundation.storage.columns import made
from fourfold.foundation.storage.given import schema_of


class Query:
    """Tables, at the versions that a query names, before a DuckDB connection.

    A name is quoted where it is more than letters, digits and underscores: `"raw.flights"`, `"flights@v3"`,
    `"flights@tag:report"`, `"flights@2013-06-01T00:00Z"`, `"flights@dev/try-1"`. Which version is meant is
    found out once, so a query that passes over a table twice sees the same rows.
    """

    def __init__(
        self,
        storage: Storage,
        connection: duckdb.DuckDBPyConnection | None = None,
        *,
        is_closed: bool = False,
    ) -> None:
        self._storage = storage
        self._failed: list[FourfoldError] = []
        self._sources: dict[str, Source] = {}
        self.inputs: dict[str, tuple[Ref, tuple[str, ...]]] = {}
        """The version that each name of the query stands for, and its columns."""
        self._connection = connection or duckdb.connect(":memory:")
        if connection is None:  # names are tables, not this module's variables
            self._connection.execute("SET python_enable_replacements = false")
        if is_closed:  # the query sees tables and nothing else: no files, no extensions
            self._connection.execute("SET enable_external_access = false")
            self._connection.execute("SET lock_configuration = true")

    def ask(self, sql: str) -> duckdb.DuckDBPyRelation:
        """The query as a relation, which runs when its rows are asked for."""
        with self.told():
            count = len(self._connection.extract_statements(sql))
            if count != 1:
                raise Refused(f"one query is asked at a time, not {count}", ways_on=["ask them one by one"])
            relation = self._bound(sql)
        if relation is None:
            raise Refused("this is no query: it gives no rows", ways_on=["write: select ... from ..."])
        return relation

    def _bound(self, sql: str) -> duckdb.DuckDBPyRelation | None:
        """The query over its tables: DuckDB itself says which it does not know, and has done nothing then."""
        while True:
            try:
                return self._connection.sql(sql)
            except duckdb.CatalogException as error:
                missing = _MISSING.search(str(error))
                if missing is None or missing[1] in self._sources:
                    raise
                self._sources[missing[1]] = self._source(missing[1])
                self._connection.register(missing[1], self._sources[missing[1]])

    def followed(self, relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
        """What was asked, so that a table written from it, or from what is made of it, is known to come from
        this query's tables. Only of a connection of our own: in another's a name may stand for anything by
        the time it is read.
        """
        query = made.Query(relation.sql_query(), dict(self.inputs), tuple(relation.columns))
        if self._sources and len(set(map(str.lower, relation.columns))) == len(relation.columns):
            name = made.view_name()
            try:
                relation.create_view(name)
                view = self._connection.view(name)
            except duckdb.Error:  # what can be no view can still be written as it is
                pass
            else:
                made.keep_view(name, query, next(iter(self._sources.values())))
                relation = view
        made.remember(relation, query)
        return relation

    @contextmanager
    def told(self) -> Iterator[None]:
        """Within the block, what fails in DuckDB is said in our words, and what failed below as itself."""
        try:
            yield
        except duckdb.Error as error:
            if self._failed:
                raise self._failed[0] from error
            says = str(error).splitlines()[0]
            if "No space left" in says or "max_temp_directory_size" in says:
                raise OutOfSpace(
                    f"no space left for what a query cannot hold in memory: {says}",
                    ways_on=["free some space and try again", "or SET temp_directory to another disk"],
                ) from error
            if (unquoted := _UNQUOTED.search(says)) is not None:
                raise NotFound(says, ways_on=[f"quote a name with dots: {unquoted[1]}"]) from error
            ways_on = ['quote a name with its version: "flights@v3"'] if 'near "@"' in says else []
            raise Refused(f"the query cannot be answered: {says}", ways_on=ways_on) from error

    def _source(self, name: str) -> Source:
        info = pinned(self._storage, table_pin(name))
        self.inputs[name] = _input(info)
        return Source(self._storage, info, self._failed)


def pinned(storage: Storage, pin: TablePin) -> TableInfo:
    """The version that is meant, found out once and recorded as read.

    Inserted rows are in no version yet, and who asks twice sees one, so they are flushed first.
    """
    info = storage.describe(pin.address, version=pin.version, at=pin.at, tag=pin.tag)
    if info.waiting_rows:
        info = storage.describe(pin.address, version=storage.flush(pin.address).version)
    # Here, and not as the rows are read: DuckDB reads in threads that know of no step.
    context.record_read(_input(info)[0])
    return info


def part(
    storage: Storage,
    pin: TablePin,
    *,
    columns: tuple[str, ...] | None,
    where: tuple[Condition, ...],
    connection: duckdb.DuckDBPyConnection | None,
) -> duckdb.DuckDBPyRelation:
    """A version of a table, or some of its columns and rows, as a relation that reads what it needs.

    It is a view of its connection, so that its own SQL tells what it read.
    """
    connection = connection or duckdb.connect()
    info = pinned(storage, pin)
    source = Source(storage, info, [], columns=columns, where=where)
    if columns is None and not where:
        name = made.version_name(info.name, info.version)
    else:
        name = made.part_name(info.name, info.version)
        whole = made.version_name(info.name, info.version)
        sql = _part_sql(whole, source.schema.names, where)
        query = made.Query(sql, {whole: _input(info)}, tuple(source.schema.names))
        made.keep_view(name, query, source)
    return connection.register(name, source).table(quoted(name))


def _part_sql(table: str, columns: Sequence[str], where: Sequence[Condition]) -> str:
    """The part as lineage reads and keeps it, so its values are left out."""
    conditions = []
    for column, operator, value in where:
        if value is None:
            said = "IS NULL" if operator == "==" else "IS NOT NULL"
        else:
            said = f"{operator.upper()} (?)" if "in" in operator else f"{operator.replace('==', '=')} ?"
        conditions.append(f"{quoted(column)} {said}")
    parts = ["SELECT", ", ".join(map(quoted, columns)), "FROM", quoted(table)]
    return " ".join([*parts, *(["WHERE", " AND ".join(conditions)] if conditions else [])])


def _input(info: TableInfo) -> tuple[Ref, tuple[str, ...]]:
    return Ref("table", info.name, str(info.version)), tuple(column.name for column in info.columns)


_MISSING = re.compile(r"Table with name (.+?) does not exist!")
_UNQUOTED = re.compile(r"Table with name (\".+?\") does not exist because schema")


class Source(ds.Dataset):  # type: ignore[misc]  # pyarrow has no types
    """A version of a table as DuckDB takes it: read anew at each pass, with its columns and filter told.

    With `columns` and `where` it is that part of the version.
    """

    def __init__(
        self,
        storage: Storage,
        info: TableInfo,
        failed: list[FourfoldError],
        *,
        columns: tuple[str, ...] | None = None,
        where: tuple[Condition, ...] = (),
    ) -> None:
        self._storage = storage
        self._info = info
        self._failed = failed
        self._principal = principal()
        self._where = where
        self._schema = schema_of(storage, info)
        if columns == ():
            raise Refused(f"no column of table '{info.name}' is asked for", ways_on=["name one at least"])
        if where:
            schemas.expression(info.name, where, self._schema)  # refuses what cannot be asked, before it is
        if columns is not None:
            schemas.check_columns(info.name, columns, self._schema)
            self._schema = pa.schema([self._schema.field(name) for name in columns])

    @property
    def schema(self) -> pa.Schema:
        """The table's columns."""
        return self._schema

    def scanner(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002 - DuckDB names it
        **_: Any,
    ) -> ds.Scanner:
        """The rows for which the filter holds: the store skips what it can, and the rest is dropped here."""
        wanted = self._schema.names if columns is None else list(columns)
        needed = (
            wanted if filter is None else list(dict.fromkeys([*wanted, *fields_in(filter, self._schema)]))
        )
        where = () if filter is None else conditions_in(filter, self._schema)
        try:
            # As who asked, but in no step and no flow's body: DuckDB reads in threads of its own, when and
            # as often as it likes, and none of that may be journalled.
            reader = Context().run(self._read, tuple(needed), where)
        except FourfoldError as error:
            self._failed.append(error)
            raise
        kept = pa.schema([self._schema.field(name) for name in wanted])

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in noted(reader, self._failed):
                rows = batch if filter is None else batch.filter(filter)
                yield rows.select(wanted)

        return ds.Scanner.from_batches(pa.RecordBatchReader.from_batches(kept, batches()))

    def _read(self, columns: tuple[str, ...], where: tuple[Condition, ...]) -> pa.RecordBatchReader:
        with acting_as(self._principal):
            return self._storage.scan(
                self._info.name, version=self._info.version, columns=columns, where=(*self._where, *where)
            )


def noted(reader: pa.RecordBatchReader, failed: list[FourfoldError]) -> pa.RecordBatchReader:
    """The same batches; an error of ours is kept, because DuckDB would say it in its own words."""

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except FourfoldError as error:
            failed.append(error)
            raise

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def quoted(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'
