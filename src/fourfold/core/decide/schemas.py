"""How data must look to go into a table, and what a condition means for a column's type.

Shared by every table store, so that none is stricter or laxer than another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.storage import OPERATORS, Condition

MOST_COLUMNS = 10_000
"""Columns of a table. Up to here everything is tested; a commit, a query and a listing tell of each."""
MOST_NESTED = 32
"""Levels of lists, maps and structs in one column. Parsers recurse, and some of them crash."""
MOST_NAMED = 20
"""Columns that an error lists."""


def stored_type(kind: pa.DataType) -> pa.DataType | None:
    """The type in which a table keeps values of this type; `None` when it cannot.

    >>> stored_type(pa.timestamp("ns", "America/New_York"))
    TimestampType(timestamp[us, tz=UTC])
    >>> stored_type(pa.dictionary(pa.int32(), pa.large_string()))
    DataType(string)
    """
    of = pa.types
    if of.is_dictionary(kind):
        return stored_type(kind.value_type)
    if of.is_timestamp(kind):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if of.is_date(kind):
        return pa.date32()
    if of.is_string(kind) or of.is_large_string(kind) or of.is_string_view(kind):
        return pa.string()
    if (
        of.is_binary(kind)
        or of.is_large_binary(kind)
        or of.is_fixed_size_binary(kind)
        or of.is_binary_view(kind)
    ):
        return pa.binary()
    if of.is_unsigned_integer(kind):
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64(), 64: pa.int64()}[kind.bit_width]
    if of.is_float16(kind):
        return pa.float32()
    if of.is_integer(kind) or of.is_floating(kind) or of.is_boolean(kind):
        return kind
    if of.is_decimal(kind):
        return pa.decimal128(kind.precision, kind.scale) if kind.precision <= 38 else None
    return _stored_nested(kind)


def levels(kind: pa.DataType, most: int = MOST_NESTED) -> int:
    """How many lists, maps and structs lie in one another, as far as `most` and one more.

    >>> levels(pa.list_(pa.struct([("a", pa.int64())])))
    2
    """
    if not pa.types.is_nested(kind) or most < 0:
        return 0
    inner = [kind.field(index).type for index in range(kind.num_fields)]
    return 1 + max((levels(each, most - 1) for each in inner), default=0)


def _stored_nested(kind: pa.DataType) -> pa.DataType | None:
    of = pa.types
    if of.is_list(kind) or of.is_large_list(kind) or of.is_fixed_size_list(kind):
        inner = stored_type(kind.value_type)
        return None if inner is None else pa.list_(pa.field("element", inner))
    if of.is_struct(kind):
        fields = [(kind.field(i).name, stored_type(kind.field(i).type)) for i in range(kind.num_fields)]
        return None if any(inner is None for _, inner in fields) else pa.struct(fields)
    if of.is_map(kind):
        key, item = stored_type(kind.key_type), stored_type(kind.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    return None


def fit(name: str, data: pa.Table, schema: pa.Schema | None, *, first_row: int = 1) -> pa.Table:
    """The data in the table's columns, order and types; refused where it does not fit.

    Without a schema (the table is new, or its rows are all replaced) the data's own columns decide.
    Numbers may widen (int32 into int64); nothing is ever narrowed, rounded or parsed. What does not fit is
    named by its column and row; the first row of the data is `first_row`.
    """
    schema = fitting(name, data.schema, schema)
    index_of = {column: index for index, column in enumerate(data.schema.names)}
    columns = [_cast(name, data.column(index_of[field.name]), field, first_row) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def fitting(name: str, given: pa.Schema, schema: pa.Schema | None) -> pa.Schema:
    """The columns in which data of these columns is kept; refused where it does not fit the table's."""
    if schema is None:
        return own(name, given)
    _check_names(name, given)
    _check_against(name, given, schema)
    return schema


def own(name: str, schema: pa.Schema) -> pa.Schema:
    """The columns that a table made of such data has; refused where it cannot keep them."""
    _check_names(name, schema)
    fields = []
    for field in schema:
        if levels(field.type) > MOST_NESTED:
            raise Refused(
                f"table '{name}': column '{field.name}' has lists, maps and structs in one another more than "
                f"{MOST_NESTED} levels deep",
                ways_on=["keep it as text, or flatten it"],
                table=name,
                column=field.name,
            )
        kind = stored_type(field.type)
        if kind is None:
            hint = (
                "all its values are null: cast it to the type it would have"
                if pa.types.is_null(field.type)
                else "cast it first, for example to text or to a number"
            )
            raise Refused(
                f"table '{name}': column '{field.name}' is {field.type}, which a table cannot keep",
                ways_on=[hint],
                table=name,
                column=field.name,
            )
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def check_columns(name: str, wanted: Sequence[str], schema: pa.Schema) -> None:
    """Refuse columns that the table does not have."""
    names = frozenset(schema.names)  # which are thousands in some tables
    for column in wanted:
        if column not in names:
            raise Refused(
                f"table '{name}' has no column '{column}'",
                ways_on=did_you_mean(column, schema.names, what="columns"),
                table=name,
                column=column,
            )


def expression(name: str, where: Sequence[Condition], schema: pa.Schema) -> pc.Expression | None:
    """The conditions as one expression over the table's columns; `None` when there are none."""
    check_columns(name, [column for column, _, _ in where], schema)
    whole: pc.Expression | None = None
    for column, operator, value in where:
        one = _condition(name, schema.field(column), operator, value)
        whole = one if whole is None else whole & one
    return whole


def scalar(name: str, field: pa.Field, value: object) -> pa.Scalar:
    """A plain value as one of the column's type: text may say a date or a time, an integer an instant."""
    kind = field.type
    try:
        if value is None:
            return pa.scalar(None, kind)
        if isinstance(value, bool) != pa.types.is_boolean(kind):
            raise ValueError("not the same kind")
        if pa.types.is_timestamp(kind):
            return _timestamp(kind, value)
        if pa.types.is_date(kind):
            parsed = date.fromisoformat(value) if isinstance(value, str) else value
            if not isinstance(parsed, date) or isinstance(parsed, datetime):
                raise ValueError("not a day")
            return pa.scalar(parsed, kind)
        if isinstance(value, str) != (pa.types.is_string(kind) or pa.types.is_binary(kind)):
            raise ValueError("not the same kind")
        if pa.types.is_integer(kind) and isinstance(value, float):
            return pa.scalar(value, pa.float64())  # 1.5 compares well with integers
        return pa.scalar(value, kind)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise Refused(
            f"table '{name}': column '{field.name}' is {kind} and cannot be compared with {value!r}",
            ways_on=["dates and times are written as ISO 8601: '2013-01-01', '2013-01-01T06:00:00Z'"],
            table=name,
            column=field.name,
        ) from error


def _timestamp(kind: pa.DataType, value: object) -> pa.Scalar:
    if isinstance(value, int):
        return pa.scalar(value, kind)  # an instant: microseconds already
    parsed = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    if (parsed.tzinfo is None) != (kind.tz is None):
        raise ValueError("a time with a zone and one without cannot be compared")
    return pa.scalar(parsed.astimezone(UTC) if kind.tz else parsed, kind)


def _condition(name: str, field: pa.Field, operator: str, value: object) -> pc.Expression:
    column = pc.field(field.name)
    if operator not in OPERATORS:
        raise Refused(
            f"'{operator}' is no operator of a condition", ways_on=[f"operators: {'  '.join(OPERATORS)}"]
        )
    if operator in {"in", "not in"}:
        if not isinstance(value, (tuple, list)) or any(item is None for item in value):
            raise Refused(f"column '{field.name}': '{operator}' needs a list of values, without null")
        items = [scalar(name, field, item) for item in value]
        wanted = [item.as_py() for item in items]
        if 0.0 in wanted and pa.types.is_floating(field.type):
            wanted += [0.0, -0.0]  # which are equal, but not to a set of values
        found = pc.is_in(column, value_set=pa.array(wanted, items[0].type if items else field.type))
        return found if operator == "in" else ~found & column.is_valid()
    if isinstance(value, (tuple, list)):
        raise Refused(f"column '{field.name}': '{operator}' needs one value, not a list")
    if value is None:
        if operator not in {"==", "!="}:
            raise Refused(f"column '{field.name}': nothing is {operator} null", ways_on=["use == or !="])
        return column.is_null() if operator == "==" else column.is_valid()
    other = scalar(name, field, value)
    if isinstance(value, float) and math.isnan(value):
        # Said outright: held against the range of a file, Arrow takes a comparison with NaN for true.
        return column.is_valid() if operator == "!=" else pc.scalar(False)
    match operator:
        case "==":
            return column == other
        case "!=":
            return column != other
        case "<":
            return column < other
        case "<=":
            return column <= other
        case ">":
            return column > other
        case _:
            return column >= other


def _check_names(name: str, schema: pa.Schema) -> None:
    if not schema.names:
        raise Refused(f"data for table '{name}' has no columns")
    if len(schema) > MOST_COLUMNS:
        raise Refused(
            f"table '{name}': a table has at most {MOST_COLUMNS:,} columns, not {len(schema):,}",
            ways_on=[
                "keep many numbers of one row in one list column",
                "or spread them over several tables with the same key",
            ],
            table=name,
            most_columns=MOST_COLUMNS,
        )
    seen: dict[str, str] = {}
    for column in schema.names:
        if not column or not column.isprintable():
            raise Refused(f"table '{name}': {column!r} cannot name a column", ways_on=["rename it"])
        if (twin := seen.get(column.lower())) is not None:
            raise Refused(
                f"table '{name}': columns '{twin}' and '{column}' have the same name (case does not count)",
                ways_on=["rename one"],
                table=name,
                column=column,
            )
        seen[column.lower()] = column


def _check_against(name: str, given: pa.Schema, schema: pa.Schema) -> None:
    ours, theirs = {f.name: f.type for f in schema}, {f.name: f.type for f in given}
    missing = [column for column in ours if column not in theirs]
    extra = [column for column in theirs if column not in ours]
    differing = {
        column: f"{theirs[column]}, the table has {kind}"
        for column, kind in ours.items()
        if column in theirs and not _goes_into(theirs[column], kind)
    }
    if not missing and not extra and not differing:
        return
    ways_on = [f"missing: {some_of(missing)}"] if missing else []
    known = missing or schema.names
    for column in extra[:MOST_NAMED]:
        near = did_you_mean(column, known, what="columns")
        ways_on.append(f"not in the table: {column}" + (f" ({near[0]})" if len(near) > 1 else ""))
    some = list(differing.items())[:MOST_NAMED]
    ways_on += [f"type differs: {column} is {what}" for column, what in some]
    if left := max(0, len(extra) - MOST_NAMED) + len(differing) - len(some):
        ways_on.append(f"and {left:,} more")
    ways_on.append("to change a table's columns, evolve it, or overwrite it whole")
    raise Refused(
        f"the data does not have the columns of table '{name}'",
        ways_on=ways_on,
        table=name,
        missing=missing[:MOST_NAMED],
        extra=extra[:MOST_NAMED],
        differing=dict(some),
    )


def some_of(columns: Sequence[str]) -> str:
    """Columns by their names, as many as an error lists.

    >>> some_of(["a", "b"])
    'a, b'
    """
    left = len(columns) - MOST_NAMED
    return ", ".join(columns[:MOST_NAMED]) + (f", and {left:,} more" if left > 0 else "")


def _goes_into(given: pa.DataType, kept: pa.DataType) -> bool:
    """Whether values pass unchanged: the same type as stored, a narrower number, or nothing but nulls."""
    stored = stored_type(given)
    if pa.types.is_null(given) or stored == kept:
        return True
    if stored is None:
        return False
    if pa.types.is_integer(stored) and pa.types.is_integer(kept):
        return bool(stored.bit_width <= kept.bit_width)
    return bool(pa.types.is_float32(stored) and pa.types.is_float64(kept))


def _cast(name: str, column: pa.ChunkedArray, field: pa.Field, first_row: int) -> pa.ChunkedArray:
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except pa.ArrowException as error:
        row = first_row + _first_unfit(column, field.type)
        raise Refused(
            f"table '{name}': row {row}, column '{field.name}' does not fit {field.type} unchanged: {error}",
            ways_on=["round or cast it first (tables keep times to the microsecond)"],
            table=name,
            column=field.name,
            row=row,
        ) from error


def _first_unfit(column: pa.ChunkedArray, kind: pa.DataType) -> int:
    """The place of the first value that cannot be cast, by halves."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).cast(kind)
            low = middle
        except pa.ArrowException:
            high = middle
    return low


def free(schema: pa.Schema, wanted: str) -> str:
    """A name that no column has."""
    taken = {column.lower() for column in schema.names}
    while wanted in taken:
        wanted += "_"
    return wanted
