"""A small table of flights with a column of each kind that expectations know."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("delay", pa.float64()),
        ("tail", pa.string()),
        ("at", pa.timestamp("us", "UTC")),
        ("day", pa.date32()),
        ("cost", pa.decimal128(8, 2)),
        ("legs", pa.list_(pa.int64())),
    ]
)


def flights(*ids: int | None, **columns: list[Any]) -> pa.Table:
    """Flights with these ids, all else null but what is given."""
    given = {"id": list(ids), **columns}
    return pa.table(
        {
            name: pa.array(given.get(name, [None] * len(ids)), SCHEMA.field(name).type)
            for name in SCHEMA.names
        },
        schema=SCHEMA,
    )
