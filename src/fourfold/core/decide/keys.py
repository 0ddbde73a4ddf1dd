"""Which columns may tell a table's rows apart, and which data may be put by them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide import schemas
from fourfold.core.errors import Refused
from fourfold.core.rows import rows_of


def check_columns(name: str, schema: pa.Schema, key: Sequence[str]) -> None:
    """Refuse a key of no columns, of columns that are not there, or of values that are not clearly equal."""
    if not key:
        raise Refused(f"table '{name}': a key names at least one column", ways_on=['key=["id"]'], table=name)
    if len(set(key)) < len(key):
        raise Refused(f"table '{name}': the key names a column twice: {', '.join(key)}", table=name)
    schemas.check_columns(name, key, schema)
    for column in key:
        kind = schema.field(column).type
        if pa.types.is_nested(kind) or pa.types.is_floating(kind):
            raise Refused(
                f"table '{name}': column '{column}' is {kind} and cannot be part of a key",
                ways_on=["a key is of text, integers, decimals, dates, times, booleans or bytes"],
                table=name,
                column=column,
            )


def check_nulls(name: str, data: pa.Table | pa.RecordBatch, key: Sequence[str]) -> None:
    """Refuse rows whose key is not whole."""
    for column in key:
        if count := data.column(column).null_count:
            raise Refused(
                f"table '{name}': key column '{column}' is null in {count} rows of the data",
                ways_on=["drop those rows, or append them: a null is equal to nothing"],
                table=name,
                column=column,
            )


def check_unique(name: str, keys: pa.Table) -> None:
    """Refuse a key that is there twice. `keys` holds the key columns of all the data."""
    counted = keys.group_by(keys.column_names).aggregate([([], "count_all")])
    if len(counted) == len(keys):
        return
    repeated = counted.filter(pc.greater(counted["count_all"], 1))
    first = rows_of(repeated.slice(0, 1))[0]
    count = first.pop("count_all")
    told = ", ".join(f"{column} = {value!r}" for column, value in first.items())
    raise Refused(
        f"table '{name}': the data holds {count} rows with the key {told}",
        ways_on=[
            f"keys that are there more than once: {len(repeated)}",
            "keep one row of each: which of them would win is not for a table to guess",
        ],
        table=name,
    )


class KeyIndex:
    """Keys to look for, of one column or several: each value a number, each key a number of those."""

    def __init__(self, keys: pa.Table) -> None:
        self._keys = keys
        self._values = [column.unique() for column in keys.columns]
        self._pairs: list[pa.Array] = []
        """The numbers that the first two columns, the first three, and so on, have together."""
        if len(keys):
            self._build()

    def among(self, rows: pa.Table) -> pa.ChunkedArray:
        """For each row whether its key is one of these; a key with a null never is."""
        if rows.num_columns == 1:
            return pc.is_in(rows.column(0), value_set=self._values[0])
        numbers = self._numbers(rows.columns, self._values, self._pairs)
        return pc.is_valid(numbers)

    def _build(self) -> None:
        """Number the keys column by column, so that the numbers never grow beyond 64 bits."""
        for index in range(1, self._keys.num_columns):
            pairs = _paired(
                self._numbers(self._keys.columns[:index], self._values, self._pairs),
                pc.index_in(self._keys.column(index), value_set=self._values[index]),
                len(self._values[index]),
            )
            self._pairs.append(pairs.unique())

    @staticmethod
    def _numbers(
        columns: Sequence[pa.ChunkedArray], values: Sequence[pa.Array], pairs: Sequence[pa.Array]
    ) -> pa.ChunkedArray:
        """Each row's number among the keys' first columns; null where no key begins so."""
        numbers = pc.index_in(columns[0], value_set=values[0])
        for index, column in enumerate(columns[1:]):
            second = pc.index_in(column, value_set=values[index + 1])
            pair = _paired(numbers, second, len(values[index + 1]))
            numbers = pc.index_in(pair, value_set=pairs[index])
        return numbers


def _paired(first: pa.ChunkedArray, second: pa.ChunkedArray, count: int) -> pa.ChunkedArray:
    return pc.add(pc.multiply(first.cast(pa.int64()), count), second.cast(pa.int64()))
