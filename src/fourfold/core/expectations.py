"""What is expected of a table's rows, and what a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fourfold.core.storage import Scalar
from fourfold.core.times import Instant, duration_text


class Rule(StrEnum):
    """What an expectation asks."""

    not_null = "not_null"
    between = "between"
    matches = "matches"
    one_of = "one_of"
    sql = "sql"
    unique = "unique"
    fresh = "fresh"
    row_count_change = "row_count_change"


OF_ROWS = frozenset({Rule.not_null, Rule.between, Rule.matches, Rule.one_of, Rule.sql})
"""Rules that look at one row at a time; the others look at the table as it would be."""


class Severity(StrEnum):
    """What happens when an expectation is not met."""

    refuse = "refuse"
    warn = "warn"
    """The write goes on, and the check is kept with its version."""


class OnFailure(StrEnum):
    """What happens to data of which some rows are not as expected."""

    refuse = "refuse"
    """Nothing is written; some of the rows are kept aside, to be looked at."""
    quarantine = "quarantine"
    """These rows are set aside, all of them, and the rest is written."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation. Which fields count depends on the rule; `ff.expect` makes them, checked.

    Null passes every rule but `not_null`, as in SQL.
    """

    rule: Rule
    columns: tuple[str, ...] = ()
    least: Scalar = None
    greatest: Scalar = None
    pattern: str = ""
    """RE2, for the whole text."""
    values: tuple[Scalar, ...] = ()
    condition: str = ""
    """A boolean expression of DuckDB over the table's columns."""
    within_s: float = 0.0
    at_most: float = 0.0
    """The share of rows that may fail; for `row_count_change`, how far the number of rows may move."""
    severity: Severity = Severity.refuse

    def __str__(self) -> str:
        """What holds of each row, or of the table: `delay is between -120 and 2000`."""
        columns = ", ".join(self.columns)
        match self.rule:
            case Rule.not_null:
                return f"{columns} is not null"
            case Rule.between if self.least is None:
                return f"{columns} is at most {self.greatest}"
            case Rule.between if self.greatest is None:
                return f"{columns} is at least {self.least}"
            case Rule.between:
                return f"{columns} is between {self.least} and {self.greatest}"
            case Rule.matches:
                return f"{columns} matches {self.pattern}"
            case Rule.one_of:
                shown = ", ".join(map(str, self.values[:8]))
                return f"{columns} is one of {shown}" + (", ..." if len(self.values) > 8 else "")
            case Rule.sql:
                return self.condition
            case Rule.unique:
                return f"{columns} is unique" if len(self.columns) == 1 else f"({columns}) is unique"
            case Rule.fresh:
                return f"the newest {columns} is at most {duration_text(self.within_s)} old"
            case Rule.row_count_change:
                return f"the number of rows moves by at most {percent(self.at_most)}"


def percent(share: float) -> str:
    """A share in words, with as many digits as it needs.

    >>> percent(0.2), percent(0.001), percent(0.0301)
    ('20%', '0.1%', '3.01%')
    """
    return f"{100 * share:.3g}%"


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of a table, and what follows when it is not met."""

    expectations: tuple[Expectation, ...] = ()
    on_failure: OnFailure = OnFailure.refuse
    statistics: bool = False
    """Whether each version's figures are counted as it is written."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one expectation was met, with the reason in words."""

    expectation: Expectation
    passed: bool
    reason: str
    rows: int = 0
    """Rows looked at."""
    failing: int = 0

    @property
    def refuses(self) -> bool:
        """Whether it keeps the data out."""
        return not self.passed and self.expectation.severity is Severity.refuse


@dataclass(frozen=True, slots=True)
class Check:
    """What a check of a table found."""

    table: str
    version: int
    rows: int
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Rows that were not as expected: what was wrong, and where they are kept."""

    id: str
    table: str
    at: Instant
    by: str
    operation: str
    is_quarantined: bool
    """Whether the other rows were written; else nothing was."""
    rows: int
    """Rows that were not as expected."""
    kept_rows: int
    """Those of them that are kept: all that were set aside, some of those that were refused."""
    verdicts: tuple[Verdict, ...] = ()
    version: int | None = None
    """The version that holds the other rows."""
    step: str = ""
    why: str = ""
    """What else was wrong with them: inserted rows that no longer fit the table's columns."""
