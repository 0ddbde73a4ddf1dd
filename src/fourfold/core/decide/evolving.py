"""How a table's columns may change: nothing that would lose data."""

from __future__ import annotations

import pyarrow as pa

from fourfold.core.decide import schemas
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.ports.tables import Evolution


def evolved(name: str, schema: pa.Schema, change: Evolution) -> pa.Schema:
    """The table's columns after a change; refused where it would lose data.

    >>> after = evolved("t", pa.schema([("n", pa.int32())]), Evolution(widen={"n": pa.int64()}))
    >>> after.field("n").type
    DataType(int64)
    """
    schemas.check_columns(name, tuple(change.widen), schema)
    fields = [
        _widened(name, field, change.widen[field.name]) if field.name in change.widen else field
        for field in schema
    ]
    known = frozenset(schema.names)  # which are thousands in some tables
    added = [_added(name, schema, field, is_known=field.name in known) for field in change.add]
    return schemas.own(name, pa.schema([*fields, *added]))


def is_wider(narrow: pa.DataType, wide: pa.DataType) -> bool:
    """Whether every value of one type is one of the other, unchanged, and the types differ.

    >>> is_wider(pa.int32(), pa.int64()), is_wider(pa.int64(), pa.float64())
    (True, False)
    >>> is_wider(pa.decimal128(5, 2), pa.decimal128(7, 2)), is_wider(pa.decimal128(5, 2), pa.decimal128(5, 3))
    (True, False)
    """
    of = pa.types
    if of.is_signed_integer(narrow) and of.is_signed_integer(wide):
        return bool(narrow.bit_width < wide.bit_width)
    if of.is_decimal128(narrow) and of.is_decimal128(wide):
        digits = narrow.precision - narrow.scale <= wide.precision - wide.scale
        return bool(narrow != wide and digits and narrow.scale <= wide.scale)
    return bool(of.is_float32(narrow) and of.is_float64(wide))


def shared(name: str, before: pa.Schema, after: pa.Schema) -> pa.Schema:
    """The columns in which two versions can be compared: in both, with the wider of their types."""
    fields = []
    known = {field.name: field for field in before}
    for field in after:
        old = known.get(field.name)
        if old is None:
            continue
        if old.type == field.type or is_wider(old.type, field.type):
            fields.append(field)
        elif is_wider(field.type, old.type):
            fields.append(old)
    if not fields:
        raise Refused(
            f"the two versions of table '{name}' have no column in common",
            ways_on=[f"before: {schemas.some_of(before.names)}", f"after: {schemas.some_of(after.names)}"],
            table=name,
        )
    return pa.schema(fields)


def _widened(name: str, field: pa.Field, kind: pa.DataType) -> pa.Field:
    if not is_wider(field.type, kind):
        raise Refused(
            f"table '{name}': column '{field.name}' is {field.type} and cannot become {kind}",
            ways_on=[
                "integers, float32 and decimals get wider; nothing is narrowed, rounded or parsed",
                "to change it otherwise, read the table, cast the column, and overwrite the table",
            ],
            table=name,
            column=field.name,
        )
    return field.with_type(kind)


def _added(name: str, schema: pa.Schema, field: pa.Field, *, is_known: bool) -> pa.Field:
    if is_known:
        raise Refused(
            f"table '{name}' has a column '{field.name}' already",
            ways_on=did_you_mean("", schema.names, what="columns"),
            table=name,
            column=field.name,
        )
    if not field.nullable:
        raise Refused(
            f"table '{name}': new column '{field.name}' must be nullable",
            ways_on=["rows that are there already have no value in it"],
            table=name,
            column=field.name,
        )
    return field
