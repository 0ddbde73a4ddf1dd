"""Rows of a table as a command shows them: the first few, each value as JSON can hold it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fourfold.cli.output import Column, show

if TYPE_CHECKING:
    import pyarrow as pa


def first(reader: Any, count: int) -> pa.Table:
    """At most `count` rows of a stream; no more of it is read."""
    import pyarrow as pa

    batches, seen = [], 0
    for batch in reader:
        batches.append(batch)
        seen += batch.num_rows
        if seen >= count:
            break
    return pa.Table.from_batches(batches, schema=reader.schema).slice(0, count)


def show_rows(table: pa.Table, output: str) -> None:
    """Print rows in the three forms of every listing."""
    import pyarrow.types as types

    from fourfold.core.rows import rows_of

    table = table.rename_columns(_apart(table.column_names))
    rows = [{name: _plain(value) for name, value in row.items()} for row in rows_of(table)]

    def column(name: str, kind: Any) -> Column:
        is_number = types.is_integer(kind) or types.is_floating(kind)
        return Column(name, lambda row: "null" if row[name] is None else row[name], is_number=is_number)

    show(rows, [column(field.name, field.type) for field in table.schema], output, nothing="no rows")


def _apart(names: list[str]) -> list[str]:
    """The names; of several that are the same, as a query may give them, each with a number behind it.

    >>> _apart(["a", "b", "a"])
    ['a', 'b', 'a_1']
    """
    if len(set(names)) == len(names):
        return names
    taken, found = set(names), []
    seen: set[str] = set()
    for name in names:
        number, given = 0, name
        while given in seen or (number and given in taken):
            number += 1
            given = f"{name}_{number}"
        seen.add(given)
        found.append(given)
    return found


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
