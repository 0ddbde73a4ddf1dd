"""From where a query is asked to where its result is written: what made a version, and from which columns.

A result that `remember` has seen carries its query only as long as it is that very object: a table that was
changed on the way is another object, and nothing is claimed about it.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from fourfold.core.context import Ref
from fourfold.core.lineage import ColumnEdge, How, MadeByQuery, UnknownColumns

Describe = Callable[[str, int], tuple[str, ...]]
"""The columns of a table at a version."""

_VERSIONED = re.compile(r"(?P<table>[^@]+(@[^@]+)?)@(?P<version>\d+)(~\d+)?")
_numbers = itertools.count(1)
_results: dict[int, tuple[weakref.ref[Any], Query]] = {}
_written: ContextVar[object] = ContextVar("fourfold_written", default=None)


@dataclass(frozen=True, slots=True)
class Query:
    """A query over versions of tables, by the names that it gives them."""

    sql: str
    inputs: Mapping[str, tuple[Ref, tuple[str, ...]]]
    """The version that each name stands for, and its columns."""
    outputs: tuple[str, ...]
    """The result's columns as DuckDB names them."""


def view_name(table: str, version: int, *, is_whole: bool = True) -> str:
    """What a version of a table is called in DuckDB, so that a relation's own SQL tells what it read.

    A part of it (not all columns) has a name of its own, because one connection may see several.
    """
    return f"{table}@{version}" + ("" if is_whole else f"~{next(_numbers)}")


def remember(result: Any, query: Query) -> None:
    """Keep which query gave this table or stream, as long as the object lives."""
    key = id(result)
    _results[key] = (weakref.ref(result, lambda _: _results.pop(key, None)), query)


def query_of(data: object, describe: Describe) -> Query | None:
    """The query that gave this data: a DuckDB relation's own, or the one remembered; `None` without one."""
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


def made_by(query: Query, target: Ref, by: Ref | None) -> MadeByQuery:
    """What to record of a version that holds a query's result."""
    from fourfold.foundation.storage.columns.of_sql import columns_of_sql, without_literals

    columns = {name: columns for name, (_, columns) in query.inputs.items()}
    sql = without_literals(query.sql)
    found = columns_of_sql(query.sql, columns, outputs=query.outputs)
    refs = {name: ref for name, (ref, _) in query.inputs.items()}
    if isinstance(found, UnknownColumns):
        unknown = [ColumnEdge(ref, "", target, "", How.unknown) for ref in sorted(set(refs.values()))]
        return MadeByQuery(target, sql, tuple(unknown), found.reason, by)
    ends = [(output.name, each) for output in found.outputs for each in output.influences]
    ends += [("", each) for each in found.rows]
    edges = {
        ColumnEdge(refs[each.input], each.column, target, column, each.how, each.is_masked)
        for column, each in ends
    }
    return MadeByQuery(target, sql, tuple(sorted(edges)), by=by)


def _relation_query(relation: Any, describe: Describe) -> Query | None:
    """A relation's query, where it reads versions of our tables."""
    from fourfold.foundation.storage.columns.of_sql import tables_of

    sql = relation.sql_query()
    inputs: dict[str, tuple[Ref, tuple[str, ...]]] = {}
    for name in tables_of(sql):
        match = _VERSIONED.fullmatch(name)
        if match is not None:
            table, version = match["table"], match["version"]
            inputs[name] = (Ref("table", table, version), describe(table, int(version)))
    return Query(sql, inputs, tuple(relation.columns)) if inputs else None
