"""How a table may be cut into partitions, and what overwriting one of them means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide import schemas
from fourfold.core.errors import Refused
from fourfold.core.rows import value_of
from fourfold.core.storage import Scalar


def columns(name: str, present: Sequence[str] | None, wanted: Sequence[str]) -> tuple[str, ...]:
    """The partition columns that hold: those wanted for a new table, else those present.

    >>> columns("flights", None, ["day"]), columns("flights", ["day"], [])
    (('day',), ('day',))
    """
    if present is None:
        return tuple(wanted)
    if wanted and tuple(wanted) != tuple(present):
        raise Refused(
            f"table '{name}' is partitioned by {', '.join(present) or 'nothing'}, not by {', '.join(wanted)}",
            ways_on=["leave partition_by out: it counts when a table is created"],
            table=name,
        )
    return tuple(present)


def check(name: str, data: pa.Table, partition_by: Sequence[str], where: Mapping[str, Scalar]) -> None:
    """Refuse columns that cannot cut a table, values that cannot name a part, and rows outside `where`."""
    schemas.check_columns(name, partition_by, data.schema)
    for column in partition_by:
        _check_column(name, data, column)
    if partition_by and len(partition_by) == data.num_columns:
        raise Refused(
            f"table '{name}' would have no column beside its partitions", ways_on=["partition by fewer"]
        )
    for column in where:
        if column not in partition_by:
            raise Refused(
                f"table '{name}' is not partitioned by '{column}'",
                ways_on=[
                    f"its partitions: {', '.join(partition_by) or '(none)'}",
                    "create it with partition_by, or overwrite the whole table",
                ],
                table=name,
                column=column,
            )
    for column, value in values(name, data.schema, where).items():
        if len(data) and not pc.all(pc.equal(data[column], value), skip_nulls=False).as_py():
            raise Refused(
                f"table '{name}': some rows do not lie in the partition {column} = {value_of(value)!r}",
                ways_on=["keep only that partition's rows, or overwrite the others too"],
                table=name,
                column=column,
            )


def values(name: str, schema: pa.Schema, where: Mapping[str, Scalar]) -> dict[str, pa.Scalar]:
    """The value of each column in `where`, in the column's own type."""
    for column, value in where.items():
        if value is None:
            raise Refused(f"column '{column}': a partition is overwritten by its value, not by null")
    return {column: schemas.scalar(name, schema.field(column), value) for column, value in where.items()}


def _check_column(name: str, data: pa.Table, column: str) -> None:
    kind = data.schema.field(column).type
    of = pa.types
    if not (of.is_string(kind) or of.is_integer(kind) or of.is_date(kind) or of.is_boolean(kind)):
        raise Refused(
            f"table '{name}' cannot be partitioned by '{column}', which is {kind}",
            ways_on=["partition by text, integers, dates or booleans"],
            table=name,
            column=column,
        )
    if of.is_string(kind) and pc.any(pc.equal(data[column], "")).as_py():
        raise Refused(
            f"table '{name}': partition column '{column}' holds an empty text",
            ways_on=["use null, or another word: empty and null name the same partition on disk"],
            table=name,
            column=column,
        )
