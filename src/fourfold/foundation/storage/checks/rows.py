"""Rules of single rows, asked of data batch by batch, in one pass: how many rows fail, and which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from fourfold.core.decide import schemas
from fourfold.core.decide.expectations import judge_rows
from fourfold.core.errors import Refused
from fourfold.core.expectations import OF_ROWS, Expectation, Rule, Severity, Verdict

BATCH_ROWS = 262_144
ROWS = "rows_that_are_looked_at"
"""What a batch is called in SQL. A condition does not know it, and so cannot ask about other rows."""
WHY = "expected"
"""The column beside rows that are kept aside: which expectations they do not meet."""

Mask: TypeAlias = Any
"""An Arrow array of booleans, one for each row."""
_Test = Callable[[pa.Table], Mask]


class RowRules:
    """Asks expectations of rows, keeps count, and keeps rows that fail, up to a bound."""

    def __init__(self, table: str, expectations: Sequence[Expectation], schema: pa.Schema) -> None:
        self.asked = [each for each in expectations if each.rule in OF_ROWS]
        self._connection: Any = None
        self._tests = [self._test(table, each, schema) for each in self.asked]
        self._failing = [0] * len(self.asked)
        self.rows = 0
        """Rows looked at."""
        self.bad_rows = 0
        """Rows that fail an expectation that refuses."""

    def look(self, data: pa.Table) -> Looked:
        """Ask all expectations of some rows."""
        self.rows += data.num_rows
        failed: list[tuple[Expectation, Mask]] = []
        bad: Mask | None = None
        for index, (expectation, test) in enumerate(zip(self.asked, self._tests, strict=True)):
            fails = pc.fill_null(pc.invert(test(data)), False)
            count = pc.sum(fails).as_py() or 0
            if count:
                self._failing[index] += count
                failed.append((expectation, fails))
                if expectation.severity is Severity.refuse:
                    bad = fails if bad is None else pc.or_(bad, fails)
        looked = Looked(data, bad, failed)
        self.bad_rows += looked.bad_rows
        return looked

    def verdicts(self) -> tuple[Verdict, ...]:
        """What is to be said of all rows looked at."""
        return tuple(
            judge_rows(expectation, rows=self.rows, failing=failing)
            for expectation, failing in zip(self.asked, self._failing, strict=True)
        )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _test(self, table: str, expectation: Expectation, schema: pa.Schema) -> _Test:
        """What gives true for a row that passes, false for one that fails, null where null passes."""
        if expectation.rule is Rule.sql:
            return self._sql(table, expectation, schema)
        (column,) = expectation.columns
        field = schema.field(column)

        def values(data: pa.Table) -> Mask:
            found = data.column(column)
            return found if found.type == field.type else found.cast(field.type)

        match expectation.rule:
            case Rule.not_null:
                return lambda data: pc.is_valid(data.column(column))
            case Rule.between:
                low, high = (
                    None if end is None else schemas.scalar(table, field, end)
                    for end in (expectation.least, expectation.greatest)
                )
                return lambda data: _between(values(data), low, high)
            case Rule.matches:
                pattern = rf"\A(?:{expectation.pattern})\z"
                check_pattern(table, expectation)
                return lambda data: pc.match_substring_regex(values(data), pattern)
            case _:
                among = pa.array(
                    [schemas.scalar(table, field, value).as_py() for value in expectation.values], field.type
                )
                return lambda data: _among(values(data), among)

    def _sql(self, table: str, expectation: Expectation, schema: pa.Schema) -> _Test:
        if self._connection is None:
            self._connection = connected()
        check_condition(self._connection, table, expectation, schema)
        query = f"SELECT ({expectation.condition}\n) AS passes FROM {ROWS}"  # noqa: S608 - checked above
        connection = self._connection

        def test(data: pa.Table) -> Mask:
            import duckdb

            connection.register(ROWS, data)
            try:
                return connection.sql(query).to_arrow_table().column("passes")
            except duckdb.Error as error:
                raise Refused(
                    f"table '{table}': {expectation}: it cannot be answered: {str(error).splitlines()[0]}",
                    ways_on=["a condition that may fail says what it is then: try_cast(...), nullif(..., 0)"],
                    table=table,
                ) from error
            finally:
                connection.unregister(ROWS)

        return test


@dataclass(frozen=True, slots=True)
class Looked:
    """Some rows, and which of them fail what."""

    data: pa.Table
    _bad: Mask | None
    _failed: Sequence[tuple[Expectation, Mask]]

    @property
    def bad_rows(self) -> int:
        return 0 if self._bad is None else int(pc.sum(self._bad).as_py() or 0)

    def good(self) -> pa.Table:
        """The rows that may go in."""
        return self.data if self._bad is None else self.data.filter(pc.invert(self._bad))

    def bad(self, most: int) -> pa.Table:
        """At most so many of the others, each with what it does not meet."""
        assert self._bad is not None, "ask only where some rows are bad"
        chosen = pc.indices_nonzero(self._bad).slice(0, most)
        why = [
            [str(expectation) for expectation, fails in self._failed if fails[index].as_py()]
            for index in chosen.to_pylist()
        ]
        rows = self.data.take(chosen)
        return with_reasons(rows, ["; ".join(reasons) for reasons in why])


def with_reasons(rows: pa.Table, why: Sequence[str]) -> pa.Table:
    """Rows that are kept aside, with what they do not meet in front."""
    name = WHY
    while name in rows.column_names:
        name += "_"
    return rows.add_column(0, name, pa.array(why, pa.string()))


def pieces(data: pa.Table | pa.RecordBatchReader) -> Iterator[pa.Table]:
    """The rows, some at a time; each piece in memory, the whole perhaps not."""
    if isinstance(data, pa.Table):
        for start in range(0, data.num_rows, BATCH_ROWS):
            yield data.slice(start, BATCH_ROWS)
        return
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in data:
        waiting.append(batch)
        count += batch.num_rows
        if count >= BATCH_ROWS:
            yield pa.Table.from_batches(waiting)
            waiting, count = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)


def check_pattern(table: str, expectation: Expectation) -> None:
    """Refuse a pattern that is none."""
    try:
        pc.match_substring_regex(pa.array([""]), rf"\A(?:{expectation.pattern})\z")
    except pa.ArrowException as error:
        raise Refused(
            f"table '{table}': {expectation.pattern!r} is no regular expression: {error}",
            ways_on=["RE2 has no look-around and no back references"],
            table=table,
        ) from error


def check_condition(connection: Any, table: str, expectation: Expectation, schema: pa.Schema) -> None:
    """Refuse a condition that DuckDB cannot ask of these columns, or that answers no yes or no."""
    import duckdb

    def refused(what: str) -> Refused:
        return Refused(
            f"table '{table}', sql: {expectation.condition!r}: {what}",
            ways_on=[f"columns: {', '.join(schema.names[:20])}", "write what holds of one row: a < b"],
            table=table,
        )

    connection.register(ROWS, schema.empty_table())
    try:
        # In WHERE, what looks at more than one row has no place.
        query = f"SELECT 1 FROM {ROWS} WHERE ({expectation.condition}\n)"  # noqa: S608 - locked down, and checked
        if len(connection.extract_statements(query)) != 1:
            raise refused("this is more than a condition")
        connection.sql(query).fetchall()
        asked = f"SELECT ({expectation.condition}\n) AS passes FROM {ROWS}"  # noqa: S608
        found = connection.sql(asked).to_arrow_table().schema.field("passes").type
    except duckdb.Error as error:
        raise refused(str(error).splitlines()[0]) from error
    finally:
        connection.unregister(ROWS)
    if not pa.types.is_boolean(found):
        raise refused(f"it gives {found}, not true or false")


def connected() -> Any:
    """DuckDB in memory, which sees what it is given and nothing else: no files, no extensions."""
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _between(values: Mask, low: pa.Scalar | None, high: pa.Scalar | None) -> Mask:
    above = None if low is None else pc.greater_equal(values, low)
    below = None if high is None else pc.less_equal(values, high)
    if above is None or below is None:
        return above if below is None else below
    return pc.and_(above, below)


def _among(values: Mask, among: pa.Array) -> Mask:
    found = pc.is_in(values, value_set=among)
    return pc.if_else(pc.is_valid(values), found, None)
