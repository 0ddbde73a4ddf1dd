"""Which rows a person's keys mean, and what a version's counts are without them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide import schemas
from fourfold.core.decide.keys import KeyIndex
from fourfold.core.errors import Refused, did_you_mean
from fourfold.core.ports.tables import Commit, RowKey
from fourfold.core.storage import Scalar

MOST_KEYS = 10_000
"""Keys of one erasure."""
_INTEGER = re.compile(r"[+-]?\d{1,40}")


def check(name: str, keys: Sequence[RowKey], present: Iterable[pa.Schema]) -> None:
    """Refuse keys that name nothing, or columns that none of these versions has with such a value.

    No error says a value: it is about a person, and errors are written down.
    """
    check_keys(name, keys)
    all_of_them = list(present)
    for column in sorted({column for key in keys for column in key}):
        fields = [schema.field(column) for schema in all_of_them if column in schema.names]
        if not fields:
            known = sorted({each for schema in all_of_them for each in schema.names})
            raise Refused(
                f"table '{name}' has no column '{column}', in none of its versions",
                ways_on=did_you_mean(column, known, what="columns"),
                table=name,
                column=column,
            )
        for key in keys:
            if column in key and all(typed(field, key[column]) is None for field in fields):
                kinds = sorted({str(field.type) for field in fields})
                raise Refused(
                    f"table '{name}': column '{column}' is {' or '.join(kinds)}, and a value that was given "
                    "for it cannot be one",
                    ways_on=["give values of the column's type; dates and times as ISO 8601"],
                    table=name,
                    column=column,
                )


def check_keys(name: str, keys: Sequence[RowKey]) -> None:
    """Refuse what can be no keys, whatever the columns are."""
    if not keys or not all(keys):
        raise Refused(
            f"table '{name}': whose rows are to be erased? a key names at least one column",
            ways_on=['keys=[{"person": "p-17"}]', "--key person=p-17"],
            table=name,
        )
    if len(keys) > MOST_KEYS:
        raise Refused(
            f"an erasure takes at most {MOST_KEYS} keys, not {len(keys)}",
            ways_on=["erase them in several goes"],
            table=name,
        )
    for key in keys:
        for column, value in key.items():
            if value is None or isinstance(value, float):
                what = (
                    "a null is equal to nothing" if value is None else "numbers with a point are never sure"
                )
                raise Refused(
                    f"table '{name}': column '{column}' cannot be part of a key with such a value: {what}",
                    ways_on=["a key is of text, whole numbers, truths, dates and times"],
                    table=name,
                    column=column,
                )


def typed(field: pa.Field, value: Scalar) -> pa.Scalar | None:
    """A value as one of a column's type; `None` where no row of the column can have it.

    Text may say a number and a number a text: what was once `7` may have been `"7"` in an older version.

    >>> typed(pa.field("id", pa.int64()), "7"), typed(pa.field("id", pa.string()), 7)
    (<pyarrow.Int64Scalar: 7>, <pyarrow.StringScalar: '7'>)
    >>> typed(pa.field("id", pa.int64()), "ada") is None
    True
    """
    kind = field.type
    if pa.types.is_nested(kind):
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return None if isinstance(value, bool) else pa.scalar(str(value), kind)
    if isinstance(value, str) and pa.types.is_boolean(kind):
        value = {"true": True, "false": False}.get(value.lower(), value)
    elif isinstance(value, str) and _INTEGER.fullmatch(value) and _is_number(kind):
        value = int(value)
    try:
        found = schemas.scalar("", field, value)
        return found if found.is_valid and found.type == kind else None
    except (Refused, OverflowError):
        return None


class Wanted:
    """The keys, ready to be looked for in data of any columns."""

    def __init__(self, keys: Sequence[RowKey]) -> None:
        self._groups: dict[tuple[str, ...], list[RowKey]] = {}
        for key in keys:
            self._groups.setdefault(tuple(sorted(key)), []).append(key)

    def keys_for(self, schema: pa.Schema) -> list[pa.Table]:
        """For each set of columns that keys name and the schema has: the keys, as values of these columns."""
        found = []
        for columns, keys in self._groups.items():
            if not set(columns) <= set(schema.names):
                continue
            fields = [schema.field(column) for column in columns]
            rows = [[typed(field, key[field.name]) for field in fields] for key in keys]
            whole = [row for row in rows if None not in row]
            if whole:
                arrays = [
                    pa.array([row[index].as_py() for row in whole if row[index] is not None], field.type)  # type: ignore[union-attr]
                    for index, field in enumerate(fields)
                ]
                found.append(pa.Table.from_arrays(arrays, schema=pa.schema(fields)))
        return found

    def mask(self, rows: pa.Table) -> pa.ChunkedArray:
        """For each row whether it has one of the keys: true or false, never null."""
        found = pa.chunked_array([pa.repeat(pa.scalar(False), len(rows))])
        for keys in self.keys_for(rows.schema):
            found = pc.or_(found, KeyIndex(keys).among(rows.select(keys.column_names)))
        return found


def recounted(commit: Commit, *, gone: int, gone_before: int) -> Commit:
    """A version's counts without the rows that were erased from it and from the version before.

    Rows are still those before, plus the added, less the removed.

    >>> from fourfold.core.times import Instant
    >>> commit = Commit(3, Instant(0), "append", rows=10, rows_added=4)
    >>> recounted(commit, gone=2, gone_before=0).rows, recounted(commit, gone=2, gone_before=0).rows_added
    (8, 2)
    >>> recounted(commit, gone=2, gone_before=2).rows_added
    4
    """
    change = gone - gone_before
    return replace(
        commit,
        rows=commit.rows - gone,
        rows_added=commit.rows_added - max(0, change),
        rows_removed=commit.rows_removed - max(0, -change),
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_floating(kind))
