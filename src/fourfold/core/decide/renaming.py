"""A table's columns under the names that people gave them later.

A store keeps a column under one name for good. The catalog notes from which version on it is shown under
another, so a rename costs no row, and a version keeps the names that it had: what reads version 3 today
reads it the same in a year.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pyarrow as pa

from fourfold.core.decide import schemas
from fourfold.core.errors import Refused
from fourfold.core.storage import Condition


@dataclass(frozen=True, slots=True)
class Names:
    """Stored column to the name under which it is shown, for those that differ.

    >>> names = Names({"dly": "delay"})
    >>> names.stored("delay"), names.stored("origin"), names.shown("dly")
    ('dly', 'origin', 'delay')
    """

    by_stored: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.by_stored)

    def shown(self, stored: str) -> str:
        return self.by_stored.get(stored, stored)

    def stored(self, shown: str) -> str:
        """The stored column that is shown under this name; refused for a name that was given up."""
        stored = next((stored for stored, name in self.by_stored.items() if name == shown), shown)
        if stored == shown and shown in self.by_stored:
            raise Refused(f"no column '{shown}': it is called '{self.by_stored[shown]}' now", column=shown)
        return stored

    def show(self, schema: pa.Schema) -> pa.Schema:
        """A stored schema under the names that are shown."""
        return pa.schema([column.with_name(self.shown(column.name)) for column in schema])

    def store(self, shown: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.stored(name) for name in shown)

    def conditions(self, where: Iterable[Condition]) -> tuple[Condition, ...]:
        return tuple((self.stored(column), operator, value) for column, operator, value in where)

    def renamed(self, name: str, schema: pa.Schema, renames: Mapping[str, str]) -> Names:
        """The names after a rename (shown to shown) of a table with this stored schema, or refused."""
        now = self.show(schema)
        schemas.check_columns(name, tuple(renames), now)
        after = [renames.get(column, column) for column in now.names]
        schemas.own(name, pa.schema([f.with_name(n) for f, n in zip(now, after, strict=True)]))
        pairs = {**self.by_stored, **dict(zip(schema.names, after, strict=True))}
        return Names({stored: shown for stored, shown in pairs.items() if stored != shown})

    def with_new(self, shown: Sequence[str], taken: Iterable[str]) -> Names:
        """Names with a stored column for each of these, where they are new: one that is `taken` under
        another name gets a number behind it."""
        by_stored, held = dict(self.by_stored), {*taken, *self.by_stored}
        present = {self.shown(stored) for stored in held}
        used = {stored.lower() for stored in held}
        for name in shown:
            if name in present or name.lower() not in used:
                continue
            number = 2
            while f"{name}~{number}".lower() in used:
                number += 1
            by_stored[f"{name}~{number}"] = name
            used.add(f"{name}~{number}".lower())
        return Names(by_stored)

    def rename(
        self, data: pa.Table | pa.RecordBatchReader, *, to_stored: bool
    ) -> pa.Table | pa.RecordBatchReader:
        """The same rows under the other names."""
        one = self.stored if to_stored else self.shown
        wanted = pa.schema([column.with_name(one(column.name)) for column in data.schema])
        if isinstance(data, pa.Table):
            return data.rename_columns(wanted.names)

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in data:
                yield pa.RecordBatch.from_arrays(batch.columns, schema=wanted)

        return pa.RecordBatchReader.from_batches(wanted, batches())

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Within the block, a refusal that names a stored column says how it is shown."""
        try:
            yield
        except Refused as error:
            column = error.facts.get("column")
            if isinstance(column, str) and column in self.by_stored:
                says = f"column '{column}' is shown as '{self.by_stored[column]}'"
                raise Refused(error.message, ways_on=[says, *error.ways_on], **error.facts) from error
            raise


def changes(before: Names, after: Names) -> dict[str, str]:
    """What must be noted so that one view becomes the other: stored column to its name from now on.

    >>> changes(Names({"a": "x"}), Names({"b": "y"}))
    {'a': 'a', 'b': 'y'}
    """
    stored = sorted({*before.by_stored, *after.by_stored})
    return {column: after.shown(column) for column in stored if after.shown(column) != before.shown(column)}
