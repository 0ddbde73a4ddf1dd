"""From where a query is asked to where its result is written: what made a version, and from which columns.

A result that `remember` has seen carries its query only as long as it is that very object: a table that was
changed on the way is another object, and nothing is claimed about it. A relation made of a relation is told
by its own SQL, which names what it was made of: a version of a table, or a view that `keep_view` has seen.
"""

from __future__ import annotations

import itertools
import re
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from fourfold.core.context import Ref
from fourfold.core.errors import FourfoldError
from fourfold.core.lineage import (
    ColumnEdge,
    How,
    Influence,
    MadeByQuery,
    OutputColumn,
    QueryColumns,
    UnknownColumns,
)

Describe = Callable[[str, int], tuple[str, ...]]
"""The columns of a table at a version."""

_VERSIONED = re.compile(r"(?P<table>[^@]+(@[^@]+)?)@(?P<version>\d+)")
_numbers = itertools.count(1)
_results: dict[int, tuple[weakref.ref[Any], Origin]] = {}
_views: dict[str, Query] = {}
_written: ContextVar[object] = ContextVar("fourfold_written", default=None)


@dataclass(frozen=True, slots=True)
class Query:
    """A query over versions of tables, by the names that it gives them."""

    sql: str
    inputs: Mapping[str, tuple[Ref, tuple[str, ...]]]
    """The version that each name stands for, and its columns."""
    outputs: tuple[str, ...]
    """The result's columns as DuckDB names them."""
    views: Mapping[str, Query] = field(default_factory=dict)
    """The queries behind those of its names that are views."""

    @property
    def refs(self) -> frozenset[Ref]:
        """All versions that it reads, also through views."""
        own = {ref for ref, _ in self.inputs.values()}
        return frozenset(own.union(*(view.refs for view in self.views.values())))


@dataclass(frozen=True, slots=True)
class Derived:
    """What was made otherwise than by a query, with its columns as its maker knows them."""

    columns: QueryColumns
    """An input is called as lineage calls it: `table:flights@3`."""
    refs: frozenset[Ref]
    """All things that are named there."""
    sql: str = ""
    unknown: str = ""
    """What of it is not known."""


Origin: TypeAlias = Query | Derived


def version_name(table: str, version: int) -> str:
    """What a version of a table is called in DuckDB, so that a relation's own SQL tells what it read."""
    return f"{table}@{version}"


def part_name(table: str, version: int) -> str:
    """What some columns or rows of a version are called: one connection may see several such parts."""
    return f"{version_name(table, version)}~{next(_numbers)}"


def view_name() -> str:
    """What a query's result is called in DuckDB: no connection has another thing of this name."""
    return f"query~{secrets.token_hex(8)}"


def keep_view(name: str, query: Query, owner: Any) -> None:
    """Keep which query stands behind a name in DuckDB, as long as what its rows come from lives."""
    _views[name] = query
    weakref.finalize(owner, _views.pop, name, None)


def remember(result: Any, origin: Origin) -> None:
    """Keep what gave this table or stream, as long as the object lives."""
    key = id(result)
    _results[key] = (weakref.ref(result, lambda _: _results.pop(key, None)), origin)


def part_of(ref: Ref, columns: Iterable[str], *, filters: Iterable[str] = ()) -> Derived:
    """Some columns of a thing as they are, and of its rows those that conditions on other columns choose."""
    called = str(ref)
    outputs = tuple(OutputColumn(name, (Influence(called, name, How.identity),)) for name in columns)
    rows = tuple(Influence(called, name, How.filter) for name in sorted(set(filters)))
    return Derived(QueryColumns(outputs, rows), frozenset({ref}))


def query_of(data: object, describe: Describe) -> Origin | None:
    """What gave this data: a DuckDB relation's own query, or what is remembered; `None` without it."""
    found = _results.get(id(data))
    if found is not None and found[0]() is data:
        return found[1]
    if type(data).__name__ == "DuckDBPyRelation":
        return _relation_query(data, describe)
    return None


@contextmanager
def writing(data: object) -> Iterator[None]:
    """Within the block, what is written is this data, as it was handed in."""
    token = _written.set(data)
    try:
        yield
    finally:
        _written.reset(token)


def being_written() -> object:
    """What is being written now, as it was handed in; `None` when that was in another process."""
    return _written.get()


def made_by(origin: Origin, target: Ref, by: Ref | None) -> MadeByQuery:
    """What to record of a version that holds the result of a query, or what was made otherwise."""
    if isinstance(origin, Derived):
        return MadeByQuery(
            target, origin.sql, _edges(origin.columns, origin.refs, target), origin.unknown, by
        )
    from fourfold.foundation.storage.columns.of_sql import without_literals

    sql = without_literals(origin.sql, views=_texts(origin))
    found = followed(origin)
    if isinstance(found, UnknownColumns):
        unknown = [ColumnEdge(ref, "", target, "", How.unknown) for ref in sorted(origin.refs)]
        return MadeByQuery(target, sql, tuple(unknown), found.reason, by)
    return MadeByQuery(target, sql, _edges(found, origin.refs, target), by=by)


def _edges(found: QueryColumns, refs: Iterable[Ref], target: Ref) -> tuple[ColumnEdge, ...]:
    called = {str(ref): ref for ref in refs}
    ends = [(output.name, each) for output in found.outputs for each in output.influences]
    ends += [("", each) for each in found.rows]
    edges = {
        ColumnEdge(called[each.input], each.column, target, column, each.how, each.is_masked)
        for column, each in ends
    }
    return tuple(sorted(edges))


def followed(query: Origin) -> QueryColumns | UnknownColumns:
    """Where a query's columns come from, also through its views; an input is called as lineage calls it
    (`table:flights@3`)."""
    if isinstance(query, Derived):
        return query.columns
    from fourfold.foundation.storage.columns.of_sql import columns_of_sql

    views = {}
    for name, behind in query.views.items():
        inner = followed(behind)
        if isinstance(inner, UnknownColumns):
            return inner
        views[name] = inner
    columns = {name: columns for name, (_, columns) in query.inputs.items()}
    found = columns_of_sql(query.sql, columns, outputs=query.outputs, views=views)
    if isinstance(found, UnknownColumns):
        return found

    def called(influences: tuple[Influence, ...]) -> tuple[Influence, ...]:
        named = (
            replace(each, input=str(query.inputs[each.input][0])) if each.input in query.inputs else each
            for each in influences
        )
        return tuple(sorted(set(named)))

    return QueryColumns(
        tuple(replace(output, influences=called(output.influences)) for output in found.outputs),
        called(found.rows),
    )


def _texts(query: Query) -> dict[str, str]:
    found = {name: view.sql for name, view in query.views.items()}
    for view in query.views.values():
        found |= _texts(view)
    return found


def _relation_query(relation: Any, describe: Describe) -> Query | None:
    """A relation's query, where it reads versions of our tables or what was made of them."""
    from fourfold.foundation.storage.columns.of_sql import tables_of

    sql = relation.sql_query()
    inputs: dict[str, tuple[Ref, tuple[str, ...]]] = {}
    views: dict[str, Query] = {}
    for name in tables_of(sql):
        if (behind := _views.get(name)) is not None:
            views[name] = behind
        elif (match := _VERSIONED.fullmatch(name)) is not None:
            table, version = match["table"], match["version"]
            try:
                inputs[name] = (Ref("table", table, version), describe(table, int(version)))
            except FourfoldError:  # somebody's own table of such a name: nothing is known of it
                continue
    return Query(sql, inputs, tuple(relation.columns), views) if inputs or views else None
