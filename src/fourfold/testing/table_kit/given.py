"""The small tables that the kit writes, and how it reads them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date

import pyarrow as pa

from fourfold.core.ports.tables import Ability, TableStore
from fourfold.core.storage import Condition

DAY_1, DAY_2 = date(2013, 1, 1), date(2013, 1, 2)


def rows(*numbers: int, day: date = DAY_1) -> pa.Table:
    """A small table: `n` as given, `day` the same in all rows."""
    return pa.table({"n": pa.array(numbers, pa.int64()), "day": pa.array([day] * len(numbers), pa.date32())})


def words(*pairs: tuple[int | None, str | None]) -> pa.Table:
    """A small table with a key: `id` and `word`."""
    return pa.table({
        "id": pa.array([number for number, _ in pairs], pa.int64()),
        "word": pa.array([word for _, word in pairs], pa.string()),
    })  # fmt: skip


def stream(*tables: pa.Table) -> pa.RecordBatchReader:
    """The tables, one after the other, as batches that can be read once."""

    def batches() -> Iterator[pa.RecordBatch]:
        for table in tables:
            yield from table.to_batches()

    return pa.RecordBatchReader.from_batches(tables[0].schema, batches())


def numbers(store: TableStore, *where: Condition, version: int | None = None, name: str = "t") -> list[int]:
    """The sorted `n` of the rows that a scan gives."""
    pinned = store.snapshot(name).version if version is None else version
    found = store.scan(name, version=pinned, columns=("n",), where=where).read_all()
    return sorted(found["n"].to_pylist())


def held(store: TableStore, *, version: int | None = None, name: str = "t") -> list[tuple[object, ...]]:
    """All rows of a version (the newest, if none is said), sorted."""
    pinned = store.snapshot(name).version if version is None else version
    return tuples(store.scan(name, version=pinned))


def tuples(data: pa.Table | Iterable[pa.RecordBatch]) -> list[tuple[object, ...]]:
    """The rows of some batches, sorted by what they look like."""
    batches = data.to_batches() if isinstance(data, pa.Table) else data
    return sorted((tuple(row.values()) for batch in batches for row in batch.to_pylist()), key=repr)


def can(store: TableStore, *abilities: Ability) -> bool:
    """Whether the store has these abilities; what it has not, it refuses, and `Refusing` sees to that."""
    return store.abilities.issuperset(abilities)
