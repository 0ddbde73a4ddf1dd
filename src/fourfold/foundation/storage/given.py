"""What people hand in: data in any form that speaks Arrow, times and conditions as Python has them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, TypeAlias

from fourfold.core.errors import Refused
from fourfold.core.forgetting import PersonKey
from fourfold.core.storage import Condition, Scalar, TableInfo
from fourfold.core.times import Instant, instant, parse_instant

if TYPE_CHECKING:
    import pyarrow as pa

    from fourfold.core.ports.tables import Rows
    from fourfold.core.services.storage import Storage

Plain = Scalar | date | datetime
"""What a person may compare a column with."""

When = Instant | str | datetime
"""A point in time: an instant, a `datetime` with a zone, or ISO 8601 text with one."""

Where: TypeAlias = Iterable[tuple[str, str, Plain | Sequence[Plain]]]
"""Conditions that hold together: `[("delay", ">", 30), ("origin", "in", ["EWR", "JFK"])]`."""

OneKey: TypeAlias = Mapping[str, Plain | Sequence[Plain]]
"""A person's key: columns with the value of each, or with several of which any counts."""

Types: TypeAlias = "Mapping[str, str | pa.DataType]"
"""Column to type, as Arrow has it or names it: `{"gate": "string", "at": pa.timestamp("us", "UTC")}`."""


def arrow(data: object) -> Rows:
    """Anything that speaks Arrow, as a table, or as a stream where it is one, which is read once."""
    import pyarrow as pa

    if isinstance(data, (pa.Table, pa.RecordBatchReader)):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if type(data).__module__.partition(".")[0] == "pandas":
        return pa.Table.from_pandas(data, preserve_index=False)
    if hasattr(data, "__arrow_c_stream__"):  # Polars, DuckDB, another table of ours
        return pa.RecordBatchReader.from_stream(data)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        batches = iter(data)
        first = next(batches, None)
        if isinstance(first, pa.RecordBatch):
            return pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], batches))
    raise Refused(
        f"a {type(data).__name__} is not a table",
        ways_on=["give an Arrow table, record batches, a pandas or Polars frame, or a DuckDB relation"],
    )


def few(data: object) -> pa.Table:
    """A few rows: a mapping or several, or whatever speaks Arrow."""
    import pyarrow as pa

    rows = [data] if isinstance(data, Mapping) else data
    if isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows):
        if not rows:
            raise Refused("there are no rows to insert", ways_on=["give one at least"])
        names = dict.fromkeys(name for row in rows for name in row)
        try:
            return pa.table({name: [row.get(name) for row in rows] for name in names})
        except pa.ArrowException as error:
            raise Refused(f"the rows are no table: {error}", ways_on=["give each column one type"]) from error
    found = arrow(data)
    return found if isinstance(found, pa.Table) else found.read_all()


def schema_of(storage: Storage, info: TableInfo) -> pa.Schema:
    """A table's columns as Arrow has them, also where the table is behind a server."""
    import pyarrow as pa

    from fourfold.core.decide.types import type_named

    try:
        return pa.schema([(column.name, type_named(column.type)) for column in info.columns])
    except Refused:  # a nested type whose names are no plain words
        return storage.scan(info.name, version=info.version).schema


def columns_at(storage: Storage, table: str, version: int) -> tuple[str, ...]:
    """The names of a version's columns."""
    return tuple(column.name for column in storage.describe(table, version=version).columns)


def moment_of(when: When) -> Instant:
    """A point in time as an instant."""
    if isinstance(when, str):
        return parse_instant(when)
    return instant(when) if isinstance(when, datetime) else when


def columns(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """A choice of columns; one text is no list of one."""
    if isinstance(names, str):
        raise Refused(f"columns is the text {names!r}", ways_on=[f"write columns=[{names!r}]"])
    return None if names is None else tuple(names)


def key(names: str | Sequence[str]) -> tuple[str, ...]:
    """A key of one column or several."""
    return (names,) if isinstance(names, str) else tuple(names)


def person_keys(keys: OneKey | Sequence[OneKey]) -> tuple[PersonKey, ...]:
    """Keys, each with one value for a column, as they travel.

    >>> person_keys({"country": "DE", "id": [7, 9]})
    ({'country': 'DE', 'id': 7}, {'country': 'DE', 'id': 9})
    """
    found: list[PersonKey] = []
    for key in [keys] if isinstance(keys, Mapping) else keys:
        if not isinstance(key, Mapping):
            raise Refused(f"a {type(key).__name__} is no key", ways_on=['write {"person": "p-17"}'])
        choices = []
        for value in key.values():
            is_list = isinstance(value, Sequence) and not isinstance(value, str)
            choices.append([plain(each) for each in (value if is_list else [value])])  # type: ignore[union-attr, arg-type]
        found += [dict(zip(key, values, strict=True)) for values in itertools.product(*choices)]
    return tuple(found)


def types(given: Types | None) -> dict[str, str]:
    """Columns with the words for their types."""
    return {column: str(kind) for column, kind in (given or {}).items()}


def conditions(where: Where) -> tuple[Condition, ...]:
    """Conditions with values as they travel."""
    found: list[Condition] = []
    for condition in where:
        if len(condition) != 3:
            raise Refused(f"{condition!r} is not a condition", ways_on=['write ("column", ">", value)'])
        column, operator, value = condition
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        one = tuple(plain(item) for item in value) if is_list else plain(value)  # type: ignore[union-attr, arg-type]
        found.append((column, operator, one))
    return tuple(found)


def plain(value: Plain) -> Scalar:
    """Dates and times as the text in which they travel."""
    return value.isoformat() if isinstance(value, date) else value
