"""Arrow's columns as Iceberg's, and conditions as far as Iceberg may skip files by them."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import pyarrow as pa
from pyiceberg.expressions import (
    AlwaysTrue,
    And,
    BooleanExpression,
    EqualTo,
    GreaterThan,
    GreaterThanOrEqual,
    In,
    IsNull,
    LessThan,
    LessThanOrEqual,
    NotNull,
)
from pyiceberg.io.pyarrow import _pyarrow_to_schema_without_ids, schema_to_pyarrow
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import (
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
)

from fourfold.core.decide import schemas
from fourfold.core.storage import Condition

_KEPT = "fourfold.columns."
"""Table properties that keep columns in Arrow's words, which are finer: Iceberg's smallest integer has 32
bits. Each under its own digest, which the snapshots tell."""
_PARTITION_ID = 1000
_COMPARED = {
    "==": EqualTo, "<": LessThan, "<=": LessThanOrEqual, ">": GreaterThan, ">=": GreaterThanOrEqual,
}  # fmt: skip


def kept(schema: pa.Schema) -> tuple[str, dict[str, str]]:
    """The digest of some columns, and the table property that keeps them."""
    data = schema.remove_metadata().serialize().to_pybytes()
    digest = blake2b(data, digest_size=8).hexdigest()
    return digest, {_KEPT + digest: base64.b64encode(data).decode()}


def arrow_schema(name: str, metadata: TableMetadata, schema_id: int | None, digest: str) -> pa.Schema:
    """The columns of a snapshot in Arrow's words: those kept, or for another program's, what they become."""
    if text := metadata.properties.get(_KEPT + digest):
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    return schemas.own(name, schema_to_pyarrow(iceberg_schema(metadata, schema_id), include_field_ids=False))


def iceberg_schema(metadata: TableMetadata, schema_id: int | None) -> Schema:
    found = [schema for schema in metadata.schemas if schema.schema_id == schema_id]
    return found[0] if found else metadata.schema()


def iceberg_form(schema: Schema) -> pa.Schema:
    """How data must look to be written in these columns."""
    return schema_to_pyarrow(schema, include_field_ids=False)


def numbered(schema: pa.Schema, metadata: TableMetadata | None = None) -> Schema:
    """Iceberg's columns for Arrow's. A column that the table has, or that became wider, keeps its number."""
    last = 0 if metadata is None else metadata.last_column_id
    numbers = itertools.count(last + 1)
    fresh = assign_fresh_schema_ids(_pyarrow_to_schema_without_ids(schema), lambda: next(numbers))
    if metadata is None:
        return fresh
    before = {field.name: field for field in metadata.schema().fields}
    fields = [_known(before.get(field.name), field) for field in fresh.fields]
    if fields == list(metadata.schema().fields):
        return metadata.schema()
    return Schema(*fields, schema_id=max(each.schema_id for each in metadata.schemas) + 1)


def widens(old: IcebergType, new: IcebergType) -> bool:
    """Whether Iceberg reads a column of the old type as the new one.

    >>> widens(IntegerType(), LongType()), widens(DecimalType(5, 2), DecimalType(7, 3))
    (True, False)
    """
    if isinstance(old, DecimalType) and isinstance(new, DecimalType):
        return bool(old.scale == new.scale and old.precision <= new.precision)
    pairs = ((IntegerType, LongType), (FloatType, DoubleType))
    return any(isinstance(old, narrow) and isinstance(new, wide) for narrow, wide in pairs)


def partition_spec(schema: Schema, columns: Sequence[str]) -> PartitionSpec:
    ids = {field.name: field.field_id for field in schema.fields}
    return PartitionSpec(*(
        PartitionField(
            source_id=ids[column], field_id=_PARTITION_ID + index, transform=IdentityTransform(), name=column
        )
        for index, column in enumerate(columns)
    ))  # fmt: skip


def partition_columns(metadata: TableMetadata) -> tuple[str, ...]:
    """The columns by whose values the table is cut (not those that another program cuts it otherwise by)."""
    names = {field.field_id: field.name for field in metadata.schema().fields}
    return tuple(
        names[field.source_id]
        for field in metadata.spec().fields
        if isinstance(field.transform, IdentityTransform) and field.source_id in names
    )


def partition_value(value: pa.Scalar) -> object:
    """A value as a data file's partition holds it: days are counted."""
    return value.cast(pa.int32()).as_py() if pa.types.is_date32(value.type) else value.as_py()


def skipping(name: str, where: Iterable[Condition], schema: pa.Schema) -> BooleanExpression:
    """What holds for all rows for which the conditions hold, as far as files may be skipped by it.

    Nothing is said of floats (a file's range leaves NaN out), decimals and nested values; rows are judged
    by the conditions themselves.
    """
    found: BooleanExpression = AlwaysTrue()
    for column, operator, value in where:
        one = _skipping(name, schema.field(column), operator, value)
        found = found if one is None else And(found, one)
    return found


def _skipping(name: str, field: pa.Field, operator: str, value: object) -> BooleanExpression | None:
    of = pa.types
    if "." in field.name:  # Iceberg would look for a field within a field
        return None
    if value is None:
        return IsNull(field.name) if operator == "==" else NotNull(field.name)  # type: ignore[call-arg]
    kind = field.type
    if not (of.is_integer(kind) or of.is_string(kind) or of.is_date(kind) or of.is_timestamp(kind)):
        return None
    values = value if isinstance(value, (tuple, list)) else (value,)
    if any(isinstance(each, (float, bool)) for each in values):
        return None
    literals = [schemas.scalar(name, field, each).as_py() for each in values]
    if operator == "in":
        return In(field.name, set(literals)) if literals else None  # type: ignore[call-arg, arg-type]
    compared = _COMPARED.get(operator)
    return None if compared is None else compared(field.name, literals[0])


def _known(before: NestedField | None, field: NestedField) -> NestedField:
    if before is None:
        return field
    if _form(before.field_type) == _form(field.field_type):
        return before
    if widens(before.field_type, field.field_type):
        return NestedField(before.field_id, field.name, field.field_type, required=False)
    return field


def _form(kind: IcebergType) -> pa.DataType:
    return schema_to_pyarrow(kind, include_field_ids=False)
