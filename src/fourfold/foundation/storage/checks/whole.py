"""Rules of a whole table: no two rows alike, the newest time. Exact, in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide.schemas import free
from fourfold.core.errors import OutOfSpace, TooMuch
from fourfold.core.times import Instant
from fourfold.foundation.storage.checks.rows import with_reasons

MEMORY = "512MB"
"""What DuckDB may hold at once; the rest waits on disk."""

Reading = Callable[[Sequence[str] | None], pa.RecordBatchReader]
"""Rows that can be read more than once, with these columns, or all."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """Rows that are not alone with their key."""

    rows: int
    failing: int
    some: pa.Table | None
    """A few of them, with the reason in front."""


def repeats(columns: Sequence[str], new: Reading, old: Reading | None, *, most: int, why: str) -> Repeats:
    """The new rows whose key another new row has, or an old one; rows with a null in the key have none."""
    names = ", ".join(map(quoted, columns))
    whole = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in columns)
    with _spilling() as here:
        here.register("new", new(columns))
        here.execute(f"CREATE TABLE keys AS SELECT {names}, count(*) AS times FROM new GROUP BY {names}")  # noqa: S608
        rows = here.execute("SELECT coalesce(sum(times), 0) FROM keys").fetchall()[0][0]
        here.execute(f"CREATE TABLE bad AS SELECT {names} FROM keys WHERE times > 1 AND {whole}")  # noqa: S608
        if old is not None:
            here.register("old", old(columns))
            here.execute(
                f"INSERT INTO bad SELECT {names} FROM keys SEMI JOIN old USING ({names}) WHERE times = 1"  # noqa: S608
            )
        counted = f"SELECT coalesce(sum(times), 0) FROM keys SEMI JOIN bad USING ({names})"  # noqa: S608
        failing = int(here.execute(counted).fetchall()[0][0])
        some = None
        if failing:
            some = _some(here, columns, new(None), most)
            some = with_reasons(some, [why] * some.num_rows)
    return Repeats(int(rows), failing, some)


def _some(here: Any, columns: Sequence[str], rows: pa.RecordBatchReader, most: int) -> pa.Table:
    """A few of the rows whose key is bad. DuckDB sees their keys alone: rows may have very many columns."""
    found: list[pa.RecordBatch] = []
    number = free(rows.schema, "row")
    names, row = ", ".join(map(quoted, columns)), quoted(number)
    for batch in rows:
        key = batch.select(list(columns)).append_column(number, pa.array(range(batch.num_rows), pa.int64()))
        here.register("piece", pa.Table.from_batches([key]))
        which = f"SELECT {row} FROM piece SEMI JOIN bad USING ({names}) ORDER BY {row} LIMIT {most}"  # noqa: S608
        found.append(batch.take(here.sql(which).to_arrow_table().column(0).combine_chunks()))
        here.unregister("piece")
        most -= found[-1].num_rows
        if most <= 0:
            break
    return pa.Table.from_batches(found, schema=rows.schema)


def newest(column: str, reading: Reading) -> Instant | None:
    """The newest time in a column; of days, their end."""
    found: Any = None
    for batch in reading([column]):
        value = pc.max(batch.column(0))
        if value.is_valid and (found is None or pc.greater(value, found).as_py()):
            found = value
    if found is None:
        return None
    if pa.types.is_date(found.type):
        return Instant((found.cast(pa.int32()).as_py() + 1) * 86_400_000_000)
    return Instant(found.cast(pa.timestamp("us", found.type.tz)).cast(pa.int64()).as_py())


def quoted(name: str) -> str:
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _spilling() -> Iterator[Any]:
    import duckdb

    with tempfile.TemporaryDirectory(prefix="fourfold-check-") as folder, duckdb.connect(":memory:") as here:
        here.execute(f"SET memory_limit = '{MEMORY}'")
        here.execute("SET TimeZone = 'UTC'")
        here.execute("SET preserve_insertion_order = false")
        here.execute("SET temp_directory = $folder", {"folder": folder})
        try:
            yield here
        except duckdb.OutOfMemoryException as error:
            if "No space left" in str(error) or "max_temp_directory_size" in str(error):
                raise OutOfSpace(
                    "no space left to look for rows that are not unique; nothing was changed",
                    ways_on=[f"free space under {tempfile.gettempdir()}"],
                ) from error
            raise TooMuch(
                f"rows that must be unique do not fit into the {MEMORY} that looking for twins takes",
                ways_on=["expect fewer or smaller columns to be unique together"],
            ) from error
