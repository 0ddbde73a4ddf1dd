"""Whether what was measured is what was expected, and whether an expectation can be asked of a table at all.

Pure: measuring is somebody else's work, and the time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import pyarrow as pa

from fourfold.core.decide import schemas
from fourfold.core.errors import Refused
from fourfold.core.expectations import OF_ROWS, Expectation, Expected, Rule, Verdict, percent
from fourfold.core.ports.tables import Ability
from fourfold.core.times import Instant, duration_text, iso, seconds_between

MOST_EXPECTATIONS = 500
MOST_VALUES = 10_000
MOST_UNIQUE = 500
"""Columns that are unique together: their values are held at once, for some thousands of rows."""

_ONE_COLUMN = {Rule.not_null, Rule.between, Rule.matches, Rule.one_of, Rule.fresh}


def check_definitions(table: str, expected: Expected, schema: pa.Schema) -> None:
    """Refuse expectations that could not be asked of a table with this schema."""
    if len(expected.expectations) > MOST_EXPECTATIONS:
        raise Refused(f"table '{table}': more than {MOST_EXPECTATIONS} expectations")
    for expectation in expected.expectations:
        _check_one(table, expectation, schema)


def check_format(table: str, expected: Expected, abilities: Collection[Ability]) -> None:
    """Refuse expectations that no write of a table in this format could be held against.

    What looks at the table as a whole is checked on a branch, before anybody sees it.
    """
    if Ability.branch in abilities:
        return
    for expectation in expected.expectations:
        if expectation.rule not in OF_ROWS:
            raise Refused(
                f"table '{table}', {expectation.rule}: it looks at the table as a whole, and the table's "
                "format has no branches to check that on before a write is seen",
                ways_on=[
                    f"expect what single rows can show: {', '.join(sorted(OF_ROWS))}",
                    "or keep the table in Delta format, which has branches",
                ],
                table=table,
                rule=str(expectation.rule),
                ability=Ability.branch.value,
            )


def _check_one(table: str, expectation: Expectation, schema: pa.Schema) -> None:
    rule, columns = expectation.rule, expectation.columns

    def refused(what: str, *ways_on: str) -> Refused:
        return Refused(f"table '{table}', {rule}: {what}", ways_on=ways_on, table=table, rule=str(rule))

    if rule in _ONE_COLUMN and len(columns) != 1:
        raise refused(f"it is about one column, not {len(columns)}")
    if rule is Rule.unique and not columns:
        raise refused("it needs one column or more", 'ff.expect.unique("id")')
    if rule is Rule.unique and len(columns) > MOST_UNIQUE:
        raise refused(
            f"at most {MOST_UNIQUE} columns can be unique together, not {len(columns):,}",
            "name the columns that tell rows apart",
        )
    schemas.check_columns(table, columns, schema)
    if rule is Rule.row_count_change:
        if not 0 <= expectation.at_most < float("inf"):
            raise refused(f"the number of rows cannot move by {expectation.at_most}", 'at_most="20%"')
    elif not 0 <= expectation.at_most < 1:
        raise refused(f"a share of {expectation.at_most} of the rows cannot be tolerated", 'at_most="0.1%"')
    match rule:
        case Rule.between:
            _check_range(table, expectation, schema.field(columns[0]), refused)
        case Rule.matches:
            if not pa.types.is_string(schema.field(columns[0]).type):
                raise refused(f"column '{columns[0]}' is {schema.field(columns[0]).type}, not text")
        case Rule.one_of:
            if not expectation.values or len(expectation.values) > MOST_VALUES:
                raise refused(f"it takes 1 to {MOST_VALUES} values, not {len(expectation.values)}")
            for value in expectation.values:
                if value is None:
                    raise refused("null is no value; it passes anyway", "use not_null to keep it out")
                schemas.scalar(table, schema.field(columns[0]), value)
        case Rule.sql if not expectation.condition.strip():
            raise refused("there is no condition")
        case Rule.unique:
            nested = [name for name in columns if pa.types.is_nested(schema.field(name).type)]
            if nested:
                raise refused(f"column '{nested[0]}' is {schema.field(nested[0]).type}")
        case Rule.fresh:
            kind = schema.field(columns[0]).type
            if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
                raise refused(f"column '{columns[0]}' is {kind}, not a time or a day")
            if expectation.within_s <= 0:
                raise refused("it needs an age", 'within="1d"')
        case _:
            pass


def _check_range(
    table: str, expectation: Expectation, field: pa.Field, refused: Callable[..., Refused]
) -> None:
    least, greatest = expectation.least, expectation.greatest
    if least is None and greatest is None:
        raise refused("it needs a least or a greatest value")
    if pa.types.is_nested(field.type) or pa.types.is_boolean(field.type):
        raise refused(f"column '{field.name}' is {field.type}, which has no order")
    low, high = (None if end is None else schemas.scalar(table, field, end) for end in (least, greatest))
    if low is not None and high is not None and not low.as_py() <= high.as_py():
        raise refused(f"{least} is greater than {greatest}", "the least value comes first")


def judge_rows(expectation: Expectation, *, rows: int, failing: int) -> Verdict:
    """Whether no more rows fail than may."""
    passed = failing <= expectation.at_most * rows
    tolerated = f", at most {percent(expectation.at_most)} may" if expectation.at_most else ""
    if not failing:
        reason = f"{expectation}: all {rows:,} rows"
    else:
        reason = f"{expectation}: not so for {failing:,} of {rows:,} rows{tolerated}"
    return Verdict(expectation, passed, reason, rows=rows, failing=failing)


def judge_freshness(expectation: Expectation, *, newest: Instant | None, now: Instant) -> Verdict:
    """Whether the newest time is young enough."""
    if newest is None:
        return Verdict(expectation, False, f"{expectation}: there is none")
    age_s = seconds_between(newest, now)
    reason = f"{expectation}: it is {iso(newest)}, {duration_text(age_s)} old"
    return Verdict(expectation, age_s <= expectation.within_s, reason)


def judge_change(expectation: Expectation, *, before: int, after: int) -> Verdict:
    """Whether the number of rows moved no further than it may; from nothing it may become anything."""
    passed = before == 0 or abs(after - before) <= expectation.at_most * before
    moved = f"{before:,} to {after:,}" + (f", by {percent(abs(after - before) / before)}" if before else "")
    return Verdict(expectation, passed, f"{expectation}: it went from {moved}", rows=after)


def refusing(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Those that keep the data out."""
    return tuple(verdict for verdict in verdicts if verdict.refuses)
