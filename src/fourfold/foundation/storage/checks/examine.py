"""A whole table, or what it would be, held against what is expected of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from fourfold.core.decide.expectations import judge_change, judge_freshness, judge_rows
from fourfold.core.expectations import OF_ROWS, Expectation, Rule, Verdict
from fourfold.core.times import Instant
from fourfold.foundation.storage.checks import whole
from fourfold.foundation.storage.checks.whole import Reading

MOST_SHOWN = 1_000


@dataclass(frozen=True, slots=True)
class Would:
    """A table as it would be: rows that are there already and rows that come, or all of it anew."""

    new: Reading
    old: Reading | None
    """Rows that stay; `None` where `new` reads the whole table."""
    rows_before: int
    rows_after: int


@dataclass(slots=True)
class Found:
    """What rules of the whole table found."""

    verdicts: list[Verdict] = field(default_factory=list)
    some: list[pa.Table] = field(default_factory=list)
    """Rows that refuse, a few."""
    failing: int = 0


def of_the_whole(expectations: Iterable[Expectation]) -> tuple[Expectation, ...]:
    """Those that look at more than a row."""
    return tuple(each for each in expectations if each.rule not in OF_ROWS)


def examine(expectations: Sequence[Expectation], would: Would, now: Instant) -> Found:
    """Ask the rules of the whole table."""
    found = Found()
    for expectation in expectations:
        match expectation.rule:
            case Rule.unique:
                twins = whole.repeats(
                    expectation.columns, would.new, would.old, most=MOST_SHOWN, why=str(expectation)
                )
                verdict = judge_rows(expectation, rows=twins.rows, failing=twins.failing)
                if verdict.refuses and twins.some is not None:
                    found.some.append(twins.some)
                    found.failing += twins.failing
            case Rule.fresh:
                times = [whole.newest(expectation.columns[0], would.new)]
                if would.old is not None:
                    times.append(whole.newest(expectation.columns[0], would.old))
                newest = max((each for each in times if each is not None), default=None)
                verdict = judge_freshness(expectation, newest=newest, now=now)
            case Rule.row_count_change:
                verdict = judge_change(expectation, before=would.rows_before, after=would.rows_after)
            case _:
                raise AssertionError(f"{expectation.rule} looks at single rows")
        found.verdicts.append(verdict)
    return found
